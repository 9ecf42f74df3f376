"""Install what the project needs into an environment that is there already, as on AI Studio and in other ready images.

    python scripts/install_packages.py [flags of pip install, as -i INDEX]

Paddle, numpy and OpenCV stay as they are. Paddle was built for one generation of numpy. Four packages hold OpenCV's
module cv2 (opencv-python, opencv-contrib-python, and both again as -headless), and a second one overwrites the first.

Needs nothing but Python itself and pip.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOADED = (
    "import cv2, numpy, paddle\n"
    "print(f'Paddle {paddle.__version__}, numpy {numpy.__version__}, OpenCV {cv2.__version__}')"
)


def installed_packages() -> dict[str, str]:
    """The version of each installed package, by its name in small letters with hyphens."""
    return {_plain(found.metadata["Name"]): found.version for found in distributions() if found.metadata["Name"]}


def has_module(name: str) -> bool:
    """Whether a module is there, from whatever package; a folder that an uninstalled one left behind is none."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def requirements(installed: Mapping[str, str], has_paddle: bool, has_opencv: bool) -> list[str]:
    """What to ask pip for: the project's lists, less what has to stay as it is.

    Args:
        installed: the version of each package.
        has_paddle: the module paddle is there; else the build for CPUs is asked for.
        has_opencv: the module cv2 is there.
    """
    wanted = _lines(ROOT / "requirements" / "base.txt")
    if not has_paddle:
        wanted += _lines(ROOT / "requirements.txt")
    asked = []
    for line in wanted:
        name = _plain(re.match(r"[\w.-]+", line)[0])
        if name == "numpy":
            asked.append(_numpy(line, installed))
        elif not (name.startswith("opencv") and has_opencv):
            asked.append(line)
    return asked


def _numpy(line: str, installed: Mapping[str, str]) -> str:
    version = installed.get("numpy")
    paddle = next((installed[name] for name in installed if name.startswith("paddlepaddle")), None)
    if paddle is not None and _major(paddle) < 3 and (version is None or _major(version) > 1):
        return "numpy<2"  # Paddle 2.6 was built for numpy 1
    return f"numpy=={version}" if version else line


def _major(version: str) -> int:
    return int(version.split(".")[0])


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _lines(path: Path) -> list[str]:
    """The requirements of a list, without comments and without the lists that it names."""
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("-")]


def main() -> int:
    asked = requirements(installed_packages(), has_module("paddle"), has_module("cv2"))
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *sys.argv[1:], *asked]
    if subprocess.run(pip).returncode:
        print("install_packages.py: pip could not install the packages; see its message above", file=sys.stderr)
        return 2
    check = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True)
    if check.returncode:
        why = (check.stderr.strip() or "no message").splitlines()[-1]
        advice = "where libGL is named, give this image the headless OpenCV: pip uninstall opencv-python, and run again"
        print(f"install_packages.py: Paddle, numpy or OpenCV cannot be loaded ({why}); {advice}", file=sys.stderr)
        return 2
    print(check.stdout.splitlines()[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
