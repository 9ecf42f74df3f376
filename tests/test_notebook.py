"""The notebook, run by the Python of the tests, and the functions its cells share."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from scripts.find_kth import Found
from scripts.notebook_tools import CommandFailed, example_film, find_data, run
from tests.helpers import ROOT

NOTEBOOK = ROOT / "scripts" / "aistudio_kth.ipynb"
TIMEOUT = 300  # seconds a cell; far more than it takes, for a busy machine


def execute(folder: Path, started_in: Path, **variables: str) -> str:
    """Run the notebook with the kernel of this Python and return all that its cells printed."""
    # Kernels that the machine offers may be of another Python, whatever their name: this one is found alone.
    spec = folder / "kernels" / "this"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "this", "language": "python"}))
    specs = KernelSpecManager(kernel_dirs=[str(spec.parent)], ensure_native_kernel=False)
    kernel = AsyncKernelManager(kernel_name="this", kernel_spec_manager=specs)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, km=kernel, timeout=TIMEOUT, resources={"metadata": {"path": str(started_in)}})
    own = {f"E3D_NOTEBOOK_{name}": value for name, value in variables.items()}
    # Its kernel is ours to end, also where a cell fails.
    client.execute(cleanup_kc=True, env={**os.environ, "IPYTHONDIR": str(folder / "ipython"), **own})
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def make_frames(root: Path, *recordings: str, numbers: range = range(1, 4)) -> None:
    for name in recordings:
        folder = root / name.split("_")[1] / f"{name}_uncomp"
        folder.mkdir(parents=True)
        for number in numbers:
            (folder / f"image_{number:04d}.jpg").touch()


def test_the_notebook_runs_from_top_to_bottom_and_leaves_forecasts_and_a_resumed_run(tmp_path):
    work = tmp_path / "work"
    printed = execute(tmp_path, ROOT / "scripts", DATA="sample", WORK=str(work), ITERATIONS="20")
    assert f"Python: {sys.executable}\n" in printed
    assert "Successfully installed" not in printed
    assert "exit status: 130" in printed and "going on from" in printed
    (made,) = work.glob("run-*")
    iterations = (made / "checkpoints" / "losses.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in iterations] == list(range(1, 21))
    tested = made / "results" / "test_result"
    metrics = json.loads((tested / "metrics.json").read_text())
    assert metrics["sequences"] > 0 and metrics["model"]["psnr"] > 0
    for picture in (tested / "per_frame.png", tested / "1" / "sheet.png", next((made / "film").rglob("sheet.png"))):
        with Image.open(picture) as opened:
            assert min(opened.size) > 100
    with Image.open(tested / "1" / "forecast.gif") as animation:
        assert animation.n_frames == 10


def test_a_wrong_path_stops_the_notebook_with_one_message(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(CellExecutionError) as stopped:
        execute(tmp_path, ROOT, DATA=str(missing), WORK=str(tmp_path / "work"))
    assert f"DATA {missing}: there is no such folder" in str(stopped.value)
    assert "notebook_tools.py" not in str(stopped.value)  # no traceback
    assert not list((tmp_path / "work").iterdir())


def test_the_notebook_is_kept_without_outputs_and_explains_in_both_languages():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
        else:
            letters = [letter for letter in cell.source if letter.isalpha()]
            assert any("\u4e00" <= letter <= "\u9fff" for letter in letters), cell.source
            assert sum(letter.isascii() for letter in letters) > 40, cell.source


def test_a_command_that_fails_stops_with_its_last_line(tmp_path, capfd):
    script = tmp_path / "fails.py"
    script.write_text("import sys; print('before'); sys.exit('--flag 3: expected 4')")
    with pytest.raises(CommandFailed, match="fails.py: exit status 1: --flag 3: expected 4"):
        run(script)
    assert capfd.readouterr().out == f"$ python {script}\nbefore\n--flag 3: expected 4\n"


def test_a_command_that_was_to_be_stopped_may_not_fail_otherwise(tmp_path):
    script = tmp_path / "train.py"
    loop = "import sys, time\ntry:\n  for k in range(1, 600):\n    print(f'iteration {k}/600'); time.sleep(0.1)\n"
    script.write_text(loop + "except KeyboardInterrupt:\n  sys.exit(int(sys.argv[1]))")
    assert run(script, 130, stop_after=2) == 130
    with pytest.raises(CommandFailed, match="exit status 2"):
        run(script, 2, stop_after=2)


def test_the_stop_button_lets_a_training_end_by_itself(tmp_path, capfd):
    script = tmp_path / "train.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "try:\n  print('at work'); os.kill(os.getppid(), signal.SIGINT); time.sleep(60)\n"  # as Jupyter does
        "except KeyboardInterrupt:\n  time.sleep(0.3); print('checkpoint: 5'); sys.exit(130)"
    )
    with pytest.raises(CommandFailed, match="exit status 130, stopped by the stop button: checkpoint: 5"):
        run(script)
    assert "checkpoint: 5\n" in capfd.readouterr().out  # a line that the button cuts may be lost


def test_kth_is_found_as_frames_below_the_folder(tmp_path):
    root = tmp_path / "data12345" / "kth"
    make_frames(root, "person01_boxing_d1", "person17_boxing_d1", numbers=range(7, 10))
    (tmp_path / "boxing").mkdir()  # of another data set
    assert find_data(str(tmp_path)) == Found(root, True)
    assert example_film(root) == (root / "boxing" / "person17_boxing_d1_uncomp", 7)


def test_kth_is_found_as_videos_in_the_folders_of_the_actions(tmp_path):
    (tmp_path / "walking").mkdir()
    film = tmp_path / "walking" / "person18_walking_d1_uncomp.avi"
    film.touch()
    assert find_data(str(tmp_path)) == Found(tmp_path, True)
    assert example_film(tmp_path) == (film, 1)


def test_zip_files_with_videos_of_kth_are_to_be_prepared_and_others_are_not(tmp_path):
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        archive.writestr("person01.avi", b"")
    with pytest.raises(CommandFailed, match="nothing of KTH in it"):
        find_data(str(tmp_path))
    with zipfile.ZipFile(tmp_path / "boxing.zip", "w") as archive:
        archive.writestr("boxing\\person01_boxing_d1_uncomp.avi", b"")  # made on Windows
    assert find_data(str(tmp_path)) == Found(tmp_path, False)
    assert find_data("sample") is None
