"""Install the build of Paddle that runs on this machine's NVIDIA cards into the environment of this interpreter.

    bash scripts/setup_gpu.sh      makes .venv and calls this

No card was at hand when this was written. paddlepaddle-gpu 2.6.2 and NVIDIA's libraries were installed and opened
without one, for Python 3.11; PyPI was seen to have 2.6.2 for Python 3.9 to 3.12, and not for 3.13. Paddle's own index
could not be reached: what :data:`BUILDS` says of its builds comes from Paddle's documents and from reports of users.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.command import command  # noqa: E402
from src.errors import UserError  # noqa: E402

INDEX = "https://www.paddlepaddle.org.cn/packages/stable"

Version = tuple[int, int]


class Card(NamedTuple):
    """A card, and the compute capability that says which machine code it runs, as (7, 0)."""

    name: str
    capability: Version
    driver: Version


class Build(NamedTuple):
    """A build of Paddle."""

    requirement: str  # for pip
    index: str  # where pip finds it; empty: PyPI
    capabilities: tuple[Version, Version]  # lowest and highest of the cards
    driver: Version  # oldest
    newest_python: Version  # the oldest is 3.9


# In the order in which they are taken. A driver runs programs of older versions of CUDA, and of newer minor ones.
CUDA_11, CUDA_12 = (450, 80), (525, 60)
BUILDS = (
    # Machine code for 6.1, 7.0, 7.5, 8.0 and 8.6; a card runs code of a smaller minor version too.
    Build("paddlepaddle-gpu==2.6.2", "", ((6, 1), (8, 9)), CUDA_11, (3, 12)),
    Build("paddlepaddle-gpu>=3.0,<3.4", f"{INDEX}/cu126/", ((7, 0), (9, 0)), CUDA_12, (3, 13)),
    Build("paddlepaddle-gpu>=3.0,<3.4", f"{INDEX}/cu118/", ((6, 1), (8, 9)), CUDA_11, (3, 13)),
    Build("paddlepaddle-gpu>=3.0,<3.4", f"{INDEX}/cu129/", ((8, 0), (12, 1)), CUDA_12, (3, 13)),
)

# Drivers before 510 do not tell the compute capability. The first pattern that is found in a card's name decides.
CAPABILITIES = (
    (r"V100|TITAN V|GV100", (7, 0)),
    (r"P100|GP100", (6, 0)),
    (r"\bT4\b|RTX 20\d0|GTX 16\d0|TITAN RTX|Quadro RTX|T1000|T2000", (7, 5)),
    (r"A100|A30\b", (8, 0)),
    (r"\bA(2|10|16|40)\b|RTX 30\d0|RTX A\d000", (8, 6)),
    (r"\bP(4|6|40)\b|GTX 10\d0|TITAN X", (6, 1)),
)


def nvidia_smi(fields: str) -> list[list[str]]:
    """Fields of the cards that CUDA_VISIBLE_DEVICES leaves, or of all: a list for each card.

    Raises:
        UserError: there is no nvidia-smi, or it cannot reach the driver.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    arguments = [*(["-i", shown] if shown else []), f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        result = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(
            f"nvidia-smi cannot be run ({error}): expected NVIDIA's driver, which brings it; install the driver, or "
            "train on the CPU with bash scripts/quickstart.sh"
        ) from None
    if result.returncode:
        said = result.stdout.strip() or result.stderr.strip() or f"status {result.returncode}"
        raise UserError(f"nvidia-smi fails ({said}): restart the machine, or install the driver again")
    return [[part.strip() for part in line.split(",")] for line in result.stdout.splitlines() if line.strip()]


def find_cards() -> list[Card]:
    """The cards of this machine.

    Raises:
        UserError: there is none, or one whose compute capability is not known.
    """
    try:
        lines = nvidia_smi("name,driver_version,compute_cap")
    except UserError as error:
        if "not a valid field" not in str(error):
            raise
        lines = nvidia_smi("name,driver_version")
    cards = []
    for name, driver, *told in lines:
        by_name = next((known for names, known in CAPABILITIES if re.search(names, name)), None)
        capability = version(told[0]) if told else by_name
        if capability is None:
            raise UserError(
                f"{name}: its compute capability is not known here; update the driver (from 510 on it tells)"
            )
        cards.append(Card(name, capability, version(driver)))
    if not cards:
        raise UserError("nvidia-smi lists no card: expected one or more; see CUDA_VISIBLE_DEVICES, or the driver")
    return cards


def version(text: str) -> Version:
    """(7, 0) of "7.0", (535, 104) of "535.104.05"; (0, 0) of what is no version."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def choose_build(
    cards: Sequence[Card], python: Version = sys.version_info[:2], machine: str = platform.machine()
) -> Build:
    """The first of :data:`BUILDS` that runs on all the cards, with the driver and with this Python.

    Raises:
        UserError: there is none; which of the three is in the way, and what to do.
    """
    if machine != "x86_64":
        raise UserError(f"this machine is {machine}: Paddle's builds for NVIDIA cards need x86_64; train on the CPU")
    names = ", ".join(f"{card.name} (compute capability {'.'.join(map(str, card.capability))})" for card in cards)
    fitting = [b for b in BUILDS if all(b.capabilities[0] <= card.capability <= b.capabilities[1] for card in cards)]
    if not fitting:
        advice = "choose some by CUDA_VISIBLE_DEVICES, or train on the CPU"
        raise UserError(f"{names}: no build of Paddle runs on all of it; expected 6.1 to 12.1; {advice}")
    oldest = min(build.driver for build in fitting)
    fitting = [build for build in fitting if build.driver <= cards[0].driver]
    if not fitting:
        found, needed = (".".join(map(str, driver)) for driver in (cards[0].driver, oldest))
        raise UserError(f"{names}: the driver is {found}; update it to {needed} or newer")
    for build in fitting:
        if (3, 9) <= python <= build.newest_python:
            return build
    raise UserError(
        f"Python {python[0]}.{python[1]}: Paddle's builds need 3.9 to 3.13; remove the environment and set PYTHON, "
        "as in PYTHON=python3.11"
    )


def pip_calls(build: Build, installed: Sequence[str], is_same: bool) -> list[list[str]]:
    """The arguments of pip, call after call, that lead to a build.

    Two builds of Paddle hold the same files, and so do NVIDIA's libraries of two versions of CUDA: another build goes
    first, with its libraries.

    Args:
        installed: names of packages.
        is_same: whether this script has put this build there.
    """
    paddles = [name for name in installed if name.startswith("paddlepaddle")]
    calls = []
    if paddles and not (is_same and paddles == ["paddlepaddle-gpu"]):
        calls.append(["uninstall", "--yes", *paddles, *(name for name in installed if name.startswith("nvidia-"))])
    if build.index:
        calls.append(["install", "-r", "requirements/base.txt"])
        calls.append(["install", build.requirement, "--index-url", build.index])
    else:
        calls.append(["install", "-r", "requirements-gpu.txt", "-r", "requirements/cuda11.txt", build.requirement])
    return calls


def install(build: Build) -> None:
    """Bring this environment to a build.

    Raises:
        UserError: pip fails.
    """
    names = {str(package.metadata["Name"]) for package in metadata.distributions()}
    installed = sorted(re.sub(r"[-_.]+", "-", name).lower() for name in names)
    mark = Path(sys.prefix) / ".paddle-build"
    is_same = mark.exists() and mark.read_text(encoding="utf-8") == f"{build}"
    mark.unlink(missing_ok=True)
    for arguments in pip_calls(build, installed, is_same):
        print(f"\n== pip {' '.join(arguments)}", flush=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--quiet"]
        if subprocess.run(pip, cwd=ROOT).returncode:
            raise UserError(
                f"pip {' '.join(arguments)} failed, see its message above; it needs 10 GB of disk and "
                f"{build.index or 'PyPI'}; run again when it has them"
            )
    if not build.index:
        link_libraries(Path(sysconfig.get_path("purelib")))
    mark.write_text(f"{build}", encoding="utf-8")


def link_libraries(site_packages: Path) -> None:
    """Put links to NVIDIA's libraries, with and without their version, into paddle/libs.

    Paddle 2.6.2 opens them as libcudnn.so and the like. LD_LIBRARY_PATH is read when a process starts, too early for us
    to set it, but Paddle's own libraries look in this folder too. The versioned names are for what they open in turn.
    """
    folder = site_packages / "paddle" / "libs"
    for old in folder.glob("lib*.so*"):
        if old.is_symlink():
            old.unlink()
    for library in site_packages.glob("nvidia/*/lib/lib*.so.*"):
        for name in (library.name, library.name.split(".so.")[0] + ".so"):
            (folder / name).symlink_to(os.path.relpath(library, folder))


def try_card() -> str:
    """Have Paddle compute on the card, in a process of its own: what it may do on a wrong card is to abort.

    Raises:
        UserError: it cannot; the cause and the cure.
    """
    code = (
        "import sys\nfrom src.errors import UserError\nfrom src.runtime.device import set_device\nimport paddle\n"
        "try:\n    print(f\"Paddle {paddle.__version__} computes on {set_device('gpu')}\")\n"
        "except UserError as error:\n    sys.exit(str(error))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if result.returncode == 0:
        return result.stdout.splitlines()[-1]
    said = (result.stderr.strip() or "no message").splitlines()[-1]
    raise UserError(said if result.returncode == 1 else f"Paddle ended with status {result.returncode} ({said})")


@command("run again")
def main() -> None:
    cards = find_cards()
    build = choose_build(cards)
    install(build)
    driver = ".".join(map(str, cards[0].driver))
    done = f"{build.requirement} of {build.index or 'PyPI'} is installed for {cards[0].name}, driver {driver}"
    try:
        print(f"\n== {done}; {try_card()}")
    except UserError as error:
        raise UserError(f"{done}, but does not compute: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
