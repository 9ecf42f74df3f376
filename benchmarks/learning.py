"""How much a training learns in minutes: settings side by side on small tasks, a table and curves.

    python benchmarks/learning.py digits --list                 the trials of a task
    python benchmarks/learning.py digits --mnist IDX_FILES      all of them; half an hour to hours on a core
    python benchmarks/learning.py quickstart --only recipe      one of them
    python benchmarks/learning.py digits --flags "--layer_norm False --lr 1e-3" --seeds 1,2      one of your own
    python benchmarks/learning.py kth --kth VIDEOS              with recordings of KTH in VIDEOS (and 00sequences.txt)
    python benchmarks/learning.py digits --quick                a few iterations of each, to see that all runs

Every trial is a ``runp.py`` of its own with one thread, as many at a time as there are cores, at low priority. Stopped
and started again it goes on where it was. --out keeps data, checkpoints, tests and learning.png. Digits are MNIST's
where --mnist names a folder with its IDX files, else those of scikit-learn. docs/recipe.md has the tables.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from src.runtime.process_env import usable_cores  # noqa: E402

# Recordings of KTH to watch, of the persons 01 to 16 that train: not trained on here.
KEPT_OUT = ("person16", "person15_running")
FIRST_TEST_PERSON = 17  # of KTH's split


class Task(NamedTuple):
    """A data set and a network; a trial adds the rest of the flags."""

    data: str  # "digits", "figures" or "kth"
    make: str  # flags of the script that makes it
    clips: int  # to train on; of "digits" alone, as the next
    test_clips: int
    network: str
    batch_size: int
    iterations: int
    tests: int  # iterations between two tests
    trials: dict[str, str]


ADAM = "--optimizer adam --weight_decay 0"
BETAS = "--betas 0.9,0.999"
# {n10} is a tenth of the iterations; {eta50} lets eta fall to 0 at half of them.
FALL = f"{ADAM} --sampling_changing_rate {{eta50}}"
LATE_L1 = "--l1_weight 0.1 --l1_from {n80}"


def cosine(peak: str) -> str:
    return f"--lr_schedule cosine:{peak}:{{n100}}:{{n10}}"


RECIPE = f"{ADAM} --sampling_changing_rate {{eta83}} {cosine('4e-3')} {BETAS} {LATE_L1} --norm_epsilon 1"
NO_L1 = f"{ADAM} {cosine('4e-3')} --sampling_changing_rate {{eta62}} --l1_weight 0"
FIGURES = f"{FALL} {cosine('3e-3')} {BETAS}"
RESIDUAL = "--norm_epsilon 1 --residual True"
ONE_DIGIT = "--digits 1 --digit_size 16 --size 32"
TASKS = {
    # 6 frames given, 6 predicted, 2 layers of 16: two minutes a trial.
    "digits_small": Task(
        "digits",
        f"{ONE_DIGIT} --length 12",
        3000,
        64,
        "--img_width 32 --patch_size 4 --num_hidden 16,16 --filter_size 3 --input_length 6 --total_length 12",
        4,
        400,
        400,
        {
            "paper": f"{ADAM} --lr 1e-3",
            "no_l1": NO_L1,
            "no_l1_no_norms": f"{NO_L1} --layer_norm False",
            "no_l1_no_norms_betas": f"{NO_L1} --layer_norm False {BETAS}",
            "no_l1_no_norms_betas_epsilon_1": f"{NO_L1} --layer_norm False {BETAS} --norm_epsilon 1",
            "no_l1_no_norms_residual": f"{NO_L1} --layer_norm False --residual True",
            "no_l1_epsilon_1": f"{NO_L1} --norm_epsilon 1",
            "no_l1_epsilon_1_betas": f"{NO_L1} --norm_epsilon 1 {BETAS}",
            "late_l1_no_norms": f"{NO_L1} --layer_norm False --l1_weight 0.3 --l1_from {{n75}}",
        },
    ),
    # 10 frames given, 10 predicted, 2 layers of 32.
    "digits": Task(
        "digits",
        f"{ONE_DIGIT} --length 20",
        6000,
        200,
        "--img_width 32 --patch_size 4 --num_hidden 32,32 --filter_size 3 --input_length 10 --total_length 20",
        4,
        500,
        250,
        {"paper": f"{ADAM} --lr 1e-3", "recipe": RECIPE},
    ),
    "quickstart": Task(
        "figures",
        "--dusk --size 64x64 --frames 60 --actions walking,jogging,running --persons 01,02,03,04,05,06,07,08,17,18",
        0,
        0,
        "--img_width 32 --patch_size 4 --num_hidden 64 --filter_size 3 --input_length 5 --total_length 10",
        1,
        1000,
        1000,
        {
            "sgd": "--lr_schedule 3e-3:{n57},7e-4:{n27},1.5e-4:{n16}",
            "adam": f"{ADAM} {cosine('3e-3')} {BETAS}",
            "eta": FIGURES,
            "eta_l1": f"{FIGURES} {LATE_L1}",
            "eta_epsilon_1": f"{FIGURES} --norm_epsilon 1",
            "recipe": f"{FIGURES} {LATE_L1} --norm_epsilon 1",
            "recipe_no_norms": f"{FIGURES} {LATE_L1} --norm_epsilon 1 --layer_norm False",
            "recipe_residual": f"{FIGURES} {LATE_L1} --norm_epsilon 1 --residual True",
        },
    ),
    "kth": Task(
        "kth",
        "",
        0,
        0,
        "--img_width 64 --input_length 10 --total_length 20 --patch_size 4 --num_hidden 48 --filter_size 5",
        2,
        1800,
        300,
        {"recipe": f"{FALL} {cosine('2e-3')} {BETAS} {RESIDUAL} --l1_weight 1 --l1_from {{n50}}"},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--list", action="store_true", help="print the task's trials and their flags")
    parser.add_argument("--only", help="some of the trials, with commas between")
    parser.add_argument("--flags", help="one trial of your own: flags of runp.py")
    parser.add_argument("--iterations", type=int, help="of each trial (default: the task's)")
    parser.add_argument("--seeds", default="1", help="with commas between (default: %(default)s)")
    parser.add_argument("--mnist", type=Path, help="folder with MNIST's IDX files; without it scikit-learn's digits")
    parser.add_argument("--kth", type=Path, help="folder with recordings of KTH, for the task kth")
    parser.add_argument("--out", type=Path, default=Path("results/learning"), help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="trials at a time (default: one a core)")
    parser.add_argument("--quick", action="store_true", help="a few iterations on a few clips")
    arguments = parser.parse_args()
    task = TASKS[arguments.task]
    if arguments.quick:
        task = task._replace(clips=8, test_clips=2, iterations=2, tests=2)
    if arguments.iterations:
        task = task._replace(iterations=arguments.iterations)
    trials = {"own": arguments.flags} if arguments.flags is not None else task.trials
    if arguments.only:
        unknown = set(arguments.only.split(",")) - set(trials)
        if unknown:
            parser.error(f"--only {', '.join(unknown)}: no such trial; known: {', '.join(trials)}")
        trials = {name: flags for name, flags in trials.items() if name in arguments.only.split(",")}
    if arguments.list:
        print("\n".join(f"{name}: {filled(flags, task)}" for name, flags in trials.items()))
        return
    if task.data == "kth" and arguments.kth is None:
        parser.error("kth needs --kth FOLDER, with recordings of KTH and 00sequences.txt")
    out = arguments.out / (arguments.task + ("_quick" if arguments.quick else ""))
    train, test = make_data(task, out / "data", arguments.mnist, arguments.kth)
    runs = [(name, seed) for name in trials for seed in arguments.seeds.split(",")]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = [
            pool.submit(run_trial, task, filled(trials[name], task), train, test, seed, path_of(out, name, seed))
            for name, seed in runs
        ]
        print("| trial | seed | iterations | PSNR, dB | repeat | SSIM | repeat | MSE | s an iteration |")
        print("|" + 9 * "---|")
        for (name, seed), job in zip(runs, jobs):
            print(f"| {name} | {seed} | {job.result()} |", flush=True)
    curves = {f"{name}, seed {seed}": path_of(out, name, seed) / "checkpoints" for name, seed in runs}
    draw(curves, out / "learning.png")


def filled(flags: str, task: Task) -> str:
    """The flags of a trial with their numbers of iterations: {n60} is 60 % of them, {eta60} falls to 0 at 60 %."""
    numbers = {f"n{percent}": task.iterations * percent // 100 for percent in range(101)}
    rates = {f"eta{percent}": f"{100 / (percent * task.iterations):.4g}" for percent in range(1, 101)}
    return flags.format(**numbers, **rates)


def path_of(out: Path, name: str, seed: str) -> Path:
    """The folder of a trial."""
    return out / f"{name}_seed{seed}"


def make_data(task: Task, folder: Path, mnist: Path | None, kth: Path | None) -> tuple[Path, Path]:
    """Make the task's data set where it is missing; return the paths to train on and to test on."""
    if task.data == "figures":
        if not folder.exists():
            run_script("make_sample_data.py", "--out", folder, *task.make.split())
        return folder, folder
    if task.data == "kth":
        ranges = kth / "00sequences.txt"
        only = ["--sequences", ranges] if ranges.exists() else []
        run_script("prepare_kth.py", "--videos", kth, "--out", folder / "all", *only)
        return link_kth(folder / "all", folder)
    paths = []
    for part, clips, images in (("train", task.clips, "train-images"), ("test", task.test_clips, "t10k-images")):
        path = folder / f"{part}.npy"
        digits = ["--images", next(mnist.glob(f"{images}*"))] if mnist else ["--source", "digits", "--split", part]
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            run_script("make_moving_mnist.py", "--out", path, "--clips", clips, *digits, *task.make.split())
        paths.append(path)
    return paths[0], paths[1]


def link_kth(tree: Path, folder: Path) -> tuple[Path, Path]:
    """Split recordings of training persons: those KEPT_OUT become test persons' by the names of links to them."""
    kept_out = 0
    for recording in sorted(tree.glob("*/person*")):
        name, part = recording.name, "train"
        if recording.name.startswith(KEPT_OUT):
            name, part = f"person{FIRST_TEST_PERSON + kept_out}{recording.name[len('person16') :]}", "test"
            kept_out += 1
        link = folder / part / recording.parent.name / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(recording.resolve())
    return folder / "train", folder / "test"


def run_script(name: str, *arguments: object) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / name, *map(str, arguments)], check=True, stdout=sys.stderr)


def run_trial(task: Task, flags: str, train: Path, test: Path, seed: str, folder: Path) -> str:
    """Train, or go on, to the task's last iteration; the figures of the last test as cells of a table."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = "mnist" if task.data == "digits" else "action"
    command = [
        sys.executable,
        str(ROOT / "runp.py"),
        "--resume",
        "--dataset_name",
        dataset,
        "--seed",
        seed,
        "--train_data_paths",
        str(train),
        "--valid_data_paths",
        str(test),
        "--save_dir",
        str(folder / "checkpoints"),
        "--gen_frm_dir",
        str(folder / "tests"),
        "--batch_size",
        str(task.batch_size),
        "--num_workers",
        "0",
        "--max_iterations",
        str(task.iterations),
        "--test_interval",
        str(task.tests),
        "--snapshot_interval",
        str(task.tests),
        *task.network.split(),
        *shlex.split(flags),
    ]
    with open(folder / "output.txt", "w", encoding="utf-8") as output:
        result = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.nice(10),
            env={**os.environ, "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
    if result.returncode:
        last = (folder / "output.txt").read_text(encoding="utf-8").strip().splitlines()[-1:]
        return f"ended with status {result.returncode}: {''.join(last)}"
    last = rows_of(folder / "checkpoints" / "metrics.csv")[-1]
    figures = [float(last[name]) for name in ("psnr", "repeat_psnr", "ssim", "repeat_ssim", "mse")]
    seconds = statistics.median(float(row["seconds"]) for row in rows_of(folder / "checkpoints" / "losses.csv"))
    return "{} | {:.2f} | {:.2f} | {:.3f} | {:.3f} | {:.2f} | {:.2f}".format(last["iteration"], *figures, seconds)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def draw(runs: dict[str, Path], path: Path) -> None:
    """PSNR of every test of every trial over the iterations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for name, checkpoints in runs.items():
        if (checkpoints / "metrics.csv").exists():
            rows = rows_of(checkpoints / "metrics.csv")
            axes.plot([int(row["iteration"]) for row in rows], [float(row["psnr"]) for row in rows], "o-", label=name)
    axes.set(xlabel="iteration", ylabel="PSNR of the test, dB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)
    print(f"curves: {path}")


if __name__ == "__main__":
    main()
