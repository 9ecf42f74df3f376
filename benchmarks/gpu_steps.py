"""The steps of gpu_check.py: one function a step, and what several of them share below.

A step gets a Setting and returns its figures. It raises Failed where something is wrong, and CannotRun where this
device or this Paddle has no such thing. Any other exception is a failure too.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

warnings.filterwarnings("ignore", message="No ccache found")

import numpy as np  # noqa: E402
import paddle  # noqa: E402
import paddle.nn.functional as F  # noqa: E402

import runp  # noqa: E402
from benchmarks import operators  # noqa: E402
from benchmarks.gpu_check import ROOT, Setting, new_process  # noqa: E402
from benchmarks.step_time import SIZES  # noqa: E402
from scripts import predict_exported  # noqa: E402
from scripts.make_sample_data import make_tree  # noqa: E402
from src import trainer  # noqa: E402
from src.checkpoints.checkpoint import load_weights, read_checkpoint  # noqa: E402
from src.config import Config  # noqa: E402
from src.errors import UserError  # noqa: E402
from src.layers import recall  # noqa: E402
from src.layers.precision import autocast  # noqa: E402
from src.layers.recall import History  # noqa: E402
from src.models import eidetic_3d_lstm_net  # noqa: E402
from src.models.model_factory import build_model  # noqa: E402
from src.reports.pictures import write_png  # noqa: E402
from src.reports.versions import versions  # noqa: E402
from src.runtime.device import SEE_DRIVER, check_precision, set_device, visible_devices  # noqa: E402
from src.runtime.process_env import fit_threads  # noqa: E402
from src.step import predict, prediction_loss  # noqa: E402
from src.utils.tf_weights import tf_parameters  # noqa: E402
from tests.helpers import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, kernel_to_tf, network_of  # noqa: E402
from tests.plain_e3d import plain_e3d  # noqa: E402

FULL = {**SIZES["full"], "input_length": 10, "total_length": 30, "batch_size": 4}
QUICK = {
    "img_width": 16,
    "patch_size": 4,
    "num_hidden": "4,4",
    "filter_size": 3,
    "input_length": 3,
    "total_length": 6,
    "batch_size": 2,
}
# Of outputs, and relative of gradients, where TF32 rounds the factors of products to 10 bits: 5e-4 each.
TF32_OUTPUT_TOLERANCE, TF32_GRADIENT_TOLERANCE = 2e-2, 5e-2
RESUMED_TOLERANCE = 1e-2  # relative, of weights after 10 iterations whose sums were added up in another order
PROGRAM_TOLERANCE = 1e-4  # of a forecast in [0, 1], the exported program's on a CPU against this device's
ITERATIONS, STOPPED_AT = 20, 10  # of the training
REPEATS = 5  # measured iterations, after one that is not
MOST_CLIPS, SECONDS_OF_SEARCH = 64, 12  # of the largest batch
PRETRAINED = ROOT / "pretrained" / "moving_mnist"


class Failed(Exception):
    """What is wrong, in a line."""


class CannotRun(Exception):
    """Why this device or this Paddle cannot run a step, in a line."""


def outcome(setting: Setting, step: Callable[..., dict], arguments: dict) -> dict:
    """The result of a step as check.json has it; ``no_device`` is True where Paddle does not see the device."""
    try:
        visible = visible_devices()
        if not any(name == setting.device or name.startswith(f"{setting.device}:") for name in visible):
            sees = f"this Paddle ({paddle.__version__}) sees {', '.join(visible)}"
            has_build = paddle.device.is_compiled_with_cuda()
            advice = SEE_DRIVER if has_build else "install Paddle's build for GPUs (README.md)"
            why = f"--device {setting.device}: {sees}; {advice}, or give --device cpu --quick"
            return {"status": "failed", "why": why, "no_device": True}
        if step is card:  # its name is to be known where it cannot compute
            paddle.set_device(setting.device)
        else:  # as a run does it, with the probe of a run
            set_device(setting.device)
    except UserError as error:
        return {"status": "failed", "why": str(error)}
    if setting.device == "cpu":
        fit_threads(0)  # a tiny size
    try:
        return {"status": "passed", "figures": step(setting, **arguments)}
    except Failed as error:
        return {"status": "failed", "why": str(error)}
    except CannotRun as error:
        return {"status": "not run", "why": str(error)}


# ---- is it right?


def card(setting: Setting) -> dict:
    figures = {name: versions()[name] for name in ("paddle", "python", "source", "platform")}
    if on_gpu():
        properties = paddle.device.cuda.get_device_properties()
        major, minor = paddle.device.cuda.get_device_capability()
        figures = {
            "card": properties.name,
            "memory_gb": properties.total_memory / 1e9,
            "capability": f"{major}.{minor}",
            "driver": driver(),
            "cuda": paddle.version.cuda(),
            "cudnn": paddle.version.cudnn(),
            **figures,
        }
    return figures


def probe(setting: Setting) -> dict:
    """One of each kernel that nearly all of the time goes to, against numpy: their libraries are there, and work."""
    x = np.random.default_rng(0).normal(size=[1, 4, 8, 8]).astype("float32")
    weight = np.random.default_rng(1).normal(size=[4, 4, 1, 1]).astype("float32")
    tensor = paddle.to_tensor(x)
    convolved = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x)
    pairs = {
        "convolution": (F.conv2d(tensor, paddle.to_tensor(weight)), convolved),
        "product": (paddle.matmul(tensor, tensor), x @ x),
        "norm": (paddle.nn.GroupNorm(1, 4, 1e-12)(tensor), (x - x.mean()) / x.std()),
    }
    figures = {name: relative(found.numpy(), expected) for name, (found, expected) in pairs.items()}
    allowed = 1e-2 if has_tf32() else 1e-5
    if not largest(figures.values()) < allowed:
        raise Failed(f"relative differences {figures}, allowed {allowed:g}")
    return figures


def goldens(setting: Setting) -> dict:
    """Predictions and gradients of the three small networks in tests/golden, as in tests/test_model_golden.py."""
    output_errors, gradient_errors = [], []
    for name in ("net_small.npz", "net_k5.npz", "net_rgb.npz"):
        with np.load(ROOT / "tests" / "golden" / name, allow_pickle=False) as arrays:
            golden = {key: arrays[key] for key in arrays.files}
        model, _, patches = network_of(golden)
        predictions = model(paddle.to_tensor(patches), paddle.to_tensor(golden["real_input_token"]))
        output_errors.append(float(np.abs(predictions.numpy() - golden["gen_images"]).max()))
        difference = predictions - paddle.to_tensor(patches[:, 1:])
        (difference.square().sum() / 2 + difference.abs().sum()).backward()
        gradient_errors += [
            relative(kernel_to_tf(parameter.grad.numpy()), golden[f"grad.{key}"])
            for key, parameter in tf_parameters(model).items()
        ]
    figures = {"tf32": has_tf32(), "outputs": largest(output_errors), "gradients": largest(gradient_errors)}
    output_tolerance, gradient_tolerance = tolerances()
    if not (figures["outputs"] < output_tolerance and figures["gradients"] < gradient_tolerance):
        raise Failed(f"{figures}, allowed {output_tolerance:g} and {gradient_tolerance:g}")
    return figures


def gradients(setting: Setting) -> dict:
    """Each form of the recall on this device against the plain formulation in float64 on the CPU, for one clip."""
    size = {**sizes(setting), "input_length": 2, "total_length": 4, "batch_size": 1}
    if not setting.quick:
        size["img_width"] = 64  # the CPU has to do it too
    ours = Training(Config(**size))
    weights = {name: value.numpy().astype("float64") for name, value in ours.model.state_dict().items()}

    paddle.set_device("cpu")
    paddle.set_default_dtype("float64")
    reference = Training(Config(**size), plain=True, frames=ours.frames.numpy().astype("float64"))
    reference.model.set_state_dict(weights)
    expected = reference.gradients()

    paddle.set_default_dtype("float32")
    set_device(setting.device)
    figures = {}
    for form in ("plain", "again", "blocks"):
        use_recall_form(form)
        figures[form] = relative(ours.gradients(), expected)
    if not largest(figures.values()) < GRADIENT_TOLERANCE:
        raise Failed(f"relative differences {figures}, allowed {GRADIENT_TOLERANCE:g}")
    return figures


# ---- how fast is it?


def speed(setting: Setting, precision: str) -> dict:
    """Seconds of an iteration of SGD, the host's part of them, and the peak of the memory."""
    try:
        check_precision(precision)
    except UserError as error:
        raise CannotRun(str(error)) from None
    config = Config(**sizes(setting))
    return {"batch": config.batch_size, **timed(Training(config, precision).iteration)}


def largest_batch(setting: Setting, precision: str) -> dict:
    """The largest of 8, 16, 32, 64 and one halfway to the next that fits into the card's memory, and its figures."""
    try:
        check_precision(precision)
    except UserError as error:
        raise CannotRun(str(error)) from None

    def measure(batch: int) -> dict | None:
        return unless_out_of_memory(
            lambda: timed(Training(Config(**{**sizes(setting), "batch_size": batch}), precision).iteration, repeats=1)
        )

    return largest_that_fits(measure, 2 * sizes(setting)["batch_size"])


def plain(setting: Setting) -> dict:
    """The plain formulation with 4 clips, or 2 or 1 where its scores fill the memory, and the model with as many."""
    for batch in (4, 2, 1):
        config = Config(**{**sizes(setting), "batch_size": batch})
        found = unless_out_of_memory(lambda config=config: timed(Training(config, plain=True).iteration, repeats=2))
        if found:
            model = timed(Training(config).iteration, repeats=2)
            return {"batch": batch, **found, "model_seconds": model["seconds"]}
    raise CannotRun("one clip does not fit into the card's memory")


def host(setting: Setting) -> dict:
    """Operators of an iteration and the host's time to start them: operators.py, on this device."""
    figures = {}
    # "plain" second: it uses nothing of what the other way replaces in this process.
    for way, name in (("gpu", "model"), ("plain", "plain")):
        found = operators.measure("quick" if setting.quick else "full", way, steps=3)
        if any(found["operators"].values()):  # Paddle 2.6's profiler does not tell
            figures[f"{name}_operators"] = sum(found["operators"].values())
        figures[f"{name}_seconds"] = statistics.median(found["seconds"])
    return figures


# ---- would a lever make it faster? Each is switched on alone, after an iteration without it, and has to leave the
# gradients as they were.


def cuda_graph(setting: Setting) -> dict:
    def switch_on(training: Training) -> None:
        from paddle.device.cuda.graphs import CUDAGraph

        graph = CUDAGraph(paddle.CUDAPlace(int(paddle.get_device().partition(":")[2])))
        training.optimizer.clear_grad()
        graph.capture_begin()
        training.backward()
        graph.capture_end()
        training.backward = graph.replay

    return with_and_without(setting, switch_on)


def compiled(setting: Setting) -> dict:
    if paddle.__version__.startswith("2."):
        raise CannotRun(f"not with Paddle {paddle.__version__}: its group norm is not for programs")

    def switch_on(training: Training) -> None:
        use_recall_form("plain")  # a program can hold no PyLayer
        training.model.step = compiled_step(training.model.step)

    return with_and_without(setting, switch_on)


def attention(setting: Setting) -> dict:
    def switch_on(training: Training) -> None:
        use_recall_form("plain")
        recall.plain_recall = memory_efficient_recall

    return with_and_without(setting, switch_on)


def paddle_flag(setting: Setting, flag: str) -> dict:
    return with_and_without(setting, lambda training: paddle.set_flags({flag: True}))


# ---- do the programs work?


def training(setting: Setting, same_bits: bool = False) -> dict:
    """20 iterations, and the same with a SIGTERM in the tenth and --resume: the weights have to be the same.

    To the bit on a CPU, and with --deterministic (``same_bits``). Else cuDNN may add up sums in another order.
    """
    data = setting.folder / "data"
    make_tree(data, ["01", "02", "17"], ["boxing", "running"], frames=40, size=(48, 36))
    size = sizes(setting) if setting.quick else {**FULL, "total_length": 12, "batch_size": 2}

    def run(folder: str, *more: str, stop_at: int | None = None) -> Path:
        flags = [f"--{name}={value}" for name, value in size.items()]
        flags += [f"--train_data_paths={data}", f"--valid_data_paths={data}", f"--device={setting.device}"]
        flags += [f"--save_dir={setting.folder / folder}", f"--gen_frm_dir={setting.folder / 'results'}"]
        flags += [f"--deterministic={same_bits}", "--num_workers=2"]
        flags += [f"--max_iterations={ITERATIONS}", f"--test_interval={2 * ITERATIONS}", *more]
        process = new_process(setting.device, run_program, flags, stop_at)
        process.start()
        process.join()
        expected = 128 + signal.SIGTERM if stop_at else 0
        if process.exitcode != expected:
            raise Failed(f"runp.py {' '.join(more)} ended with status {process.exitcode}, expected {expected}")
        return setting.folder / folder / str(ITERATIONS)

    whole = read_checkpoint("", str(run("whole")))
    run("stopped", stop_at=STOPPED_AT)
    resumed = read_checkpoint("", str(run("stopped", "--resume")))
    difference = largest(relative(resumed.weights[name], whole.weights[name]) for name in whole.weights)
    allowed = 0 if same_bits or setting.device == "cpu" else RESUMED_TOLERANCE
    if not difference <= allowed:
        raise Failed(f"the resumed run's weights differ by {difference:.2g} from the uninterrupted one's")
    return {"difference": difference, "iterations": ITERATIONS}


def test(setting: Setting) -> dict:
    """The pretrained digits on their ten clips: better than repeating the last frame, as their card says."""
    network = json.loads((PRETRAINED / "state.json").read_text(encoding="utf-8"))["config"]
    names = ("img_width", "patch_size", "num_hidden", "filter_size", "norm_epsilon", "input_length", "total_length")
    run_here(
        setting,
        "--is_training=False",
        "--dataset_name=mnist",
        f"--valid_data_paths={PRETRAINED / 'clips.npy'}",
        "--batch_size=5",
        "--num_save_samples=1",
        *(f"--{name}={network[name]}" for name in names),
    )
    metrics_file = setting.folder / "results" / "test_result" / "metrics.json"
    metrics = json.loads(metrics_file.read_text(encoding="utf-8"))
    psnr, repeat = metrics["model"]["psnr"], metrics["repeat_last_frame"]["psnr"]
    if not psnr > repeat + 4:
        raise Failed(f"PSNR {psnr:.2f} dB, repeating the last frame has {repeat:.2f}; expected 4 dB more")
    return {"psnr": psnr, "repeat_psnr": repeat}


def predict_video(setting: Setting) -> dict:
    film = setting.folder / "film"
    film.mkdir(exist_ok=True)
    for number, frame in enumerate(pretrained_clip(10), start=1):
        write_png(str(film / f"{number:02d}.png"), (frame * 255).astype(np.uint8))
    run_here(setting, f"--predict_video={film}")
    found = len(list((setting.folder / "results" / "film").glob("pd*.png")))
    if found != 10:
        raise Failed(f"{found} frames were predicted, expected 10")
    return {"frames": found}


def export(setting: Setting) -> dict:
    """The exported program (on a CPU, as predict_exported.py runs it) against the network on this device."""
    if paddle.__version__.startswith("2."):
        raise CannotRun(f"not with Paddle {paddle.__version__}: its programs crash in the loop")
    from scripts import export_model

    state = json.loads((PRETRAINED / "state.json").read_text(encoding="utf-8"))
    config = Config(**state["config"])
    model = build_model(config)
    load_weights(model, str(PRETRAINED), config)
    clip = pretrained_clip(config.total_length)[None]
    expected = predict(config, model, paddle.to_tensor(clip)).clip(0, 1)
    allowed = TF32_OUTPUT_TOLERANCE if has_tf32() else PROGRAM_TOLERANCE

    paddle.set_device("cpu")
    out = setting.folder / "exported"
    export_model.export(PRETRAINED, out)
    found = predict_exported.predict(out, clip[:, : config.input_length])
    difference = float(np.abs(found - expected).max())
    if not difference < allowed:
        raise Failed(f"the program's forecast differs by {difference:.2g}, allowed {allowed:g}")
    return {"difference": difference}


# ---- what several steps share


class Training:
    """A network with random frames and weights, and its iterations, every one like the other: the rate is 0."""

    def __init__(
        self, config: Config, precision: str = "fp32", plain: bool = False, frames: np.ndarray | None = None
    ) -> None:
        paddle.seed(0)
        self.precision, self.plain = precision, plain
        self.model = build_model(config)
        self.optimizer = paddle.optimizer.SGD(0.0, parameters=self.model.parameters())
        grid, steps = config.img_width // config.patch_size, config.total_length - config.input_length - 1
        shape = [config.batch_size, config.total_length, grid, grid, config.patch_channels]
        self.frames = paddle.rand(shape) if frames is None else paddle.to_tensor(frames)
        self.flags = paddle.zeros([config.batch_size, steps, 1, 1, 1])

    def backward(self) -> None:
        with autocast(self.precision):
            if self.plain:
                predictions = plain_e3d(self.model, self.frames, self.flags)
            else:
                predictions = self.model(self.frames, self.flags)
        # Without absolute values: their gradient jumps where a difference is nearly 0, which no two ways share.
        prediction_loss(predictions, self.frames, l1_weight=0).backward()

    def iteration(self) -> None:
        self.optimizer.clear_grad()
        self.backward()
        self.optimizer.step()

    def gradients(self) -> np.ndarray:
        """Of all parameters, in one row."""
        self.optimizer.clear_grad()
        self.backward()
        return np.concatenate([parameter.grad.numpy().ravel() for parameter in self.model.parameters()])


def sizes(setting: Setting) -> dict:
    return QUICK if setting.quick else FULL


def timed(iteration: Callable[[], None], repeats: int = REPEATS) -> dict:
    """Medians: ``seconds`` until the device has finished, ``host_seconds`` until the last operator was started."""
    if on_gpu() and hasattr(paddle.device.cuda, "reset_max_memory_allocated"):  # Paddle 3
        paddle.device.cuda.reset_max_memory_allocated()
    iteration()  # chooses algorithms and takes memory
    seconds, host_seconds = [], []
    for _ in range(repeats):
        wait_for_device()
        started = time.perf_counter()
        iteration()
        host_seconds.append(time.perf_counter() - started)
        wait_for_device()
        seconds.append(time.perf_counter() - started)
    process_peak = 1000 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = paddle.device.cuda.max_memory_allocated() if on_gpu() else process_peak
    return {
        "seconds": statistics.median(seconds),
        "host_seconds": statistics.median(host_seconds),
        "peak_gb": peak / 1e9,
    }


def with_and_without(setting: Setting, switch_on: Callable[[Training], object]) -> dict:
    """Seconds and memory of an iteration without a lever and with it, and by how much its gradients differ."""
    training = Training(Config(**sizes(setting)))
    expected = training.gradients()
    without = timed(training.iteration)
    started = time.perf_counter()
    switch_on(training)
    difference = relative(training.gradients(), expected)
    switching = time.perf_counter() - started
    if not difference < tolerances()[1]:
        raise Failed(f"its gradients differ by {difference:.2g}, allowed {tolerances()[1]:g}")
    found = timed(training.iteration)
    return {
        "of_the_time": found["seconds"] / without["seconds"],
        **found,
        "without": without["seconds"],
        "host_without": without["host_seconds"],
        "peak_gb_without": without["peak_gb"],
        "to_switch_on": switching,
        "difference": difference,
    }


def compiled_step(step: Callable) -> Callable:
    """``E3DLSTM.step`` as a program of paddle.jit.to_static, for any number of keys. The first step stays as it is."""
    programs: list[Callable] = []

    @paddle.jit.not_to_static  # nothing in it depends on the values of tensors: it has no code to be translated
    def with_keys(keys, weights, x, memory, hidden, cell):
        return step([History(form="plain").with_blocks([own]) for own in keys], weights, x, memory, hidden, cell)

    def program(keys, weights, x, memory, hidden, cell):
        return with_keys(keys, weights, x, memory, hidden, cell)

    def compiled_or_first(history, weights, x, memory, hidden, cell):
        if memory is None:
            return step(history, weights, x, memory, hidden, cell)
        inputs = [[own.blocks[0] for own in history], weights, x, memory, list(hidden), list(cell)]
        if not programs:
            number = itertools.count()

            def spec(tensor, shape=None):  # the name of an input has to be its own
                name = f"input{next(number)}"
                return paddle.static.InputSpec(shape or tensor.shape, tensor.dtype, name, tensor.stop_gradient)

            keys = [spec(own, [*own.shape[:2], None]) for own in inputs[0]]
            specs = [keys, *paddle.utils.map_structure(spec, inputs[1:])]
            programs.append(paddle.jit.to_static(program, input_spec=specs, full_graph=True))
        return programs[0](*inputs)

    return compiled_or_first


def memory_efficient_recall(queries: paddle.Tensor, keys: paddle.Tensor) -> paddle.Tensor:
    """``plain_recall`` by Paddle's kernel, which wants ``[B, positions, heads, n]``."""
    from paddle.incubate.nn.memory_efficient_attention import memory_efficient_attention

    queries, keys = (x.transpose([0, 2, 1]).unsqueeze(2) for x in (queries, keys))
    return memory_efficient_attention(queries, keys, keys, scale=1.0).squeeze(2).transpose([0, 2, 1])


def use_recall_form(form: str) -> None:
    """The form of src/layers/recall.py for all networks of this process, whatever fits."""
    eidetic_3d_lstm_net.recall_form = lambda *arguments: form


def largest_that_fits(measure: Callable[[int], dict | None], first: int) -> dict:
    """Double the batch until ``measure`` returns None, then try one halfway; figures of the largest that fits.

    It ends at MOST_CLIPS, or when the time is up; ``larger_not_tried`` says so.
    """
    started = time.perf_counter()
    found, batch, fits = None, first, True
    while fits and batch <= MOST_CLIPS and time.perf_counter() - started < SECONDS_OF_SEARCH:
        figures = measure(batch)
        fits = figures is not None
        if fits:
            found, batch = {"batch": batch, **figures}, 2 * batch
    if not fits and found:
        halfway = found["batch"] * 3 // 2
        figures = measure(halfway)
        found = {"batch": halfway, **figures} if figures else found
    if not found:
        raise CannotRun(f"{first} clips do not fit into the card's memory")
    return {**found, "larger_not_tried": fits}


def unless_out_of_memory(run: Callable[[], dict]) -> dict | None:
    """What ``run`` returns; None where the card's memory is full."""
    try:
        return run()
    except Exception as error:
        if not (isinstance(error, MemoryError) or re.search("out of memory|ALLOC_FAILED", str(error), re.IGNORECASE)):
            raise
    gc.collect()
    if on_gpu():
        paddle.device.cuda.empty_cache()
    return None


def on_gpu() -> bool:
    return paddle.get_device().startswith("gpu")


def wait_for_device() -> None:
    if on_gpu():
        paddle.device.synchronize()


def has_tf32() -> bool:
    """Whether float32 products may be rounded here: cards from Ampere on."""
    if not on_gpu() or os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return False
    return paddle.device.cuda.get_device_capability()[0] >= 8


def tolerances() -> tuple[float, float]:
    """Of outputs, and relative of gradients, against float32."""
    if has_tf32():
        return TF32_OUTPUT_TOLERANCE, TF32_GRADIENT_TOLERANCE
    return OUTPUT_TOLERANCE, GRADIENT_TOLERANCE


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The norm of the difference, in parts of the expected norm."""
    return float(np.linalg.norm(found.astype("float64") - expected) / np.linalg.norm(expected.astype("float64")))


def largest(numbers: Iterable[float]) -> float:
    """NaN where one of them is, which Python's max may pass over."""
    return float(np.max(list(numbers)))


def driver() -> str | None:
    """The version of NVIDIA's driver; None where nvidia-smi does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return answer[0] if answer else None


def run_here(setting: Setting, *flags: str) -> None:
    """runp.py in this process with the pretrained digits."""
    status = runp.main(
        [
            *flags,
            f"--pretrained_model={PRETRAINED}",
            f"--gen_frm_dir={setting.folder / 'results'}",
            f"--device={setting.device}",
        ]
    )
    if status:
        raise Failed(f"runp.py {flags[0]} ended with status {status}")


def run_program(flags: list[str], stop_at: int | None) -> None:
    """runp.py in a process of its own, which sends itself a SIGTERM in iteration ``stop_at``."""
    original = trainer.train_on_batch

    def step(config, iteration, *arguments):
        if iteration == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(config, iteration, *arguments)

    trainer.train_on_batch = step
    sys.exit(runp.main(flags))


def pretrained_clip(length: int) -> np.ndarray:
    """Frames of the first clip that comes with the pretrained digits, float32 ``[T, 32, 32, 1]`` in [0, 1]."""
    return np.load(PRETRAINED / "clips.npy")[:length, 0, :, :, None].astype("float32") / 255
