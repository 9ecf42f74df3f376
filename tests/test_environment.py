"""scripts/common.sh: the environment that the scripts make for themselves."""

import os
import shutil
import subprocess

import pytest

from tests.helpers import LONGEST_WAIT, ROOT

PYTHON = """#!/bin/sh
case "$*" in
  "-m venv "*) echo venv >> LOG; sleep 1; mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip "*) echo pip >> LOG; sleep 1 ;;
esac
"""
TOOLS = ("bash", "cat", "cmp", "cp", "dirname", "mkdir", "rm", "rmdir", "sh", "sleep")  # no flock, as on macOS


@pytest.mark.parametrize("lock", ["flock", "folder"])
def test_scripts_started_at_once_make_one_environment(tmp_path, lock):
    """A Python that notes what it is asked to make; each script finds all of it made."""
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(PYTHON.replace("LOG", str(log)))
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "E3D_VENV": str(tmp_path / "new" / "venv")}
    if lock == "folder":
        (tmp_path / "bin").mkdir()
        for tool in TOOLS:
            (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
        environment["PATH"] = str(tmp_path / "bin")
    elif not shutil.which("flock"):
        pytest.skip("no flock")
    code = 'source scripts/common.sh; ensure_packages requirements.txt requirements/dev.txt; cat "$VENV"/.installed-*'
    command = [shutil.which("bash"), "-c", code]
    started = [
        subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for script in started:
        output, error = script.communicate(timeout=LONGEST_WAIT)
        assert script.returncode == 0 and error == "" and "pytest" in output
    assert log.read_text().split() == ["venv", "pip", "pip"]
    assert not (tmp_path / "new" / "venv.making").exists()
