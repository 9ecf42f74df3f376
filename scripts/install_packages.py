"""Install what the project needs beside the Paddle of a ready image, as on AI Studio.

    python scripts/install_packages.py [flags of pip install, as -i INDEX]

Paddle, numpy and OpenCV stay as they are. A plain `pip install -r` takes a newer numpy, as pandas asks for one: Paddle
2.6 and OpenCV 4.6 were built for numpy 1. And it adds a second OpenCV, which overwrites the first: four packages hold
the module cv2.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.command import command  # noqa: E402
from src.errors import UserError  # noqa: E402


def is_installed(module: str) -> bool:
    """Whether a module is there, from whatever package; a folder that an uninstalled one left behind is none."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def requirements() -> list[str]:
    """What to ask pip for: the project's lists, less what has to stay. Without Paddle its build for CPUs is in them."""
    lists = ["requirements/base.txt"] if is_installed("paddle") else ["requirements/base.txt", "requirements.txt"]
    lines = [line.split("#")[0].strip() for name in lists for line in (ROOT / name).read_text("utf-8").splitlines()]
    asked = [line for line in lines if line and not line.startswith("-r")]
    if is_installed("cv2"):
        asked = [line for line in asked if not line.startswith("opencv")]
    if is_installed("numpy"):
        asked = [line for line in asked if not line.startswith("numpy")] + [f"numpy=={metadata.version('numpy')}"]
    return asked


@command("run again")
def main() -> None:
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *sys.argv[1:], *requirements()]
    if subprocess.run(pip).returncode:
        raise UserError("pip could not install the packages; see its message above")
    import cv2
    import numpy
    import paddle

    print(f"Paddle {paddle.__version__}, numpy {numpy.__version__}, OpenCV {cv2.__version__}")


if __name__ == "__main__":
    sys.exit(main())
