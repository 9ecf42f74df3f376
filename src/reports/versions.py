"""The versions that a run depends on."""

from __future__ import annotations

import functools
import os
import platform
import subprocess

import cv2
import numpy as np


@functools.cache  # every test of a training shows them; to ask git is to look at every file of the project
def versions() -> dict[str, str | None]:
    """Python's, those of the packages, and the commit of the code."""
    import paddle  # takes a second to load; whoever trains or tests has done so

    return {
        "python": platform.python_version(),
        "paddle": paddle.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "platform": platform.platform(),
        "source": _source_version(),
    }


def _source_version() -> str | None:
    """The commit of the code, "-dirty" added if it was changed; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        folder = os.path.dirname(os.path.abspath(__file__))
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
