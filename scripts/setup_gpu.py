"""Install the build of Paddle that runs on this machine's NVIDIA cards into the environment of this interpreter.

    bash scripts/setup_gpu.sh      makes .venv and calls this

Each decision is a function of what nvidia-smi prints and of Python's version. No card was at hand when this was
written. paddlepaddle-gpu 2.6.2 and NVIDIA's libraries were installed and opened without one, for Python 3.11; PyPI was
seen to have 2.6.2 for Python 3.9 to 3.12, and not for 3.13. Paddle's own index could not be reached. What
:data:`BUILDS` says of its builds comes from Paddle's documents and from reports of users.
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


class Card(NamedTuple):
    """A card, and the compute capability that says which machine code it runs, as (7, 0)."""

    name: str
    capability: tuple[int, int]


class Build(NamedTuple):
    """A build of Paddle."""

    requirement: str  # for pip
    index: str  # where pip finds it; empty: PyPI
    made_with: str  # version of CUDA
    cards: tuple[tuple[int, int], tuple[int, int]]  # lowest and highest compute capability
    cuda: int  # version that the driver has to know; drivers run programs of older versions, and of newer minor ones
    pythons: tuple[tuple[int, int], tuple[int, int]]  # oldest and newest


# In the order in which they are taken.
BUILDS = (
    # Machine code for 6.1, 7.0, 7.5, 8.0 and 8.6; a card runs code of a smaller minor version too.
    Build("paddlepaddle-gpu==2.6.2", "", "11.8", ((6, 1), (8, 9)), 11, ((3, 9), (3, 12))),
    Build("paddlepaddle-gpu>=3.0,<3.4", f"{INDEX}/cu126/", "12.6", ((7, 0), (9, 0)), 12, ((3, 9), (3, 13))),
    Build("paddlepaddle-gpu>=3.0,<3.4", f"{INDEX}/cu118/", "11.8", ((6, 1), (8, 9)), 11, ((3, 9), (3, 13))),
    Build("paddlepaddle-gpu>=3.0,<3.4", f"{INDEX}/cu129/", "12.9", ((8, 0), (12, 1)), 12, ((3, 9), (3, 13))),
)

# Drivers before 510 may not tell the compute capability. The first pattern that is found in a card's name decides.
CAPABILITIES = (
    (r"V100|TITAN V|GV100", (7, 0)),
    (r"P100|GP100", (6, 0)),
    (r"\bT4\b|RTX 20\d0|GTX 16\d0|TITAN RTX|Quadro RTX|T1000|T2000", (7, 5)),
    (r"A100|A30\b", (8, 0)),
    (r"\bA(2|10|16|40)\b|RTX 30\d0|RTX A\d000", (8, 6)),
    (r"\bP(4|6|40)\b|GTX 10\d0|TITAN X", (6, 1)),
)


def nvidia_smi(*arguments: str) -> str:
    """What nvidia-smi prints of the cards that CUDA_VISIBLE_DEVICES leaves, or of all.

    Raises:
        UserError: there is no nvidia-smi, or it cannot reach the driver.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    command = ["nvidia-smi", *(["-i", shown] if shown and arguments else []), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(
            f"nvidia-smi cannot be run ({getattr(error, 'strerror', None) or 'no answer'}): expected NVIDIA's driver, "
            "which brings it; install the driver, or train on the CPU with bash scripts/quickstart.sh"
        ) from None
    if result.returncode:
        said = (result.stdout.strip() or result.stderr.strip() or f"status {result.returncode}").splitlines()[0]
        raise UserError(
            f"nvidia-smi fails ({said}): expected a driver that runs; restart the machine, or install the driver again"
        )
    return result.stdout


def read_cuda(output: str) -> tuple[int, int]:
    """The newest CUDA that the driver knows, as (12, 4), from the table that nvidia-smi prints.

    Raises:
        UserError: it names none.
    """
    found = re.search(r"CUDA (?:UMD )?Version: *(\d+)\.(\d+)", output)
    if found is None:
        driver = re.search(r"Driver Version: *([\d.]+)", output)
        raise UserError(
            f"nvidia-smi names no CUDA version (driver {driver.group(1) if driver else 'unknown'}): expected a driver "
            "from 450.80 on, and in a container libcuda.so; update the driver, or start the container with --gpus all"
        )
    return int(found.group(1)), int(found.group(2))


def read_cards(output: str) -> list[Card]:
    """The cards of ``--query-gpu=name,compute_cap``, or of ``--query-gpu=name`` of a driver that knows only that.

    Raises:
        UserError: there is none, or one whose compute capability is not known.
    """
    cards = []
    for line in filter(None, map(str.strip, output.splitlines())):
        name, _, told = line.partition(",")
        version = re.fullmatch(r" *(\d+)\.(\d+)", told)
        if version:
            capability = int(version.group(1)), int(version.group(2))
        else:
            capability = next((known for names, known in CAPABILITIES if re.search(names, name)), None)
        if capability is None:
            raise UserError(
                f"nvidia-smi lists {line!r}, whose compute capability is not known here; update the driver (from 510 "
                "on it tells), or install Paddle as https://www.paddlepaddle.org.cn/install/quick says"
            )
        cards.append(Card(name.strip(), capability))
    if not cards:
        raise UserError("nvidia-smi lists no card: expected one or more; see CUDA_VISIBLE_DEVICES, or the driver")
    return cards


def find_cards() -> list[Card]:
    """The cards of this machine."""
    try:
        return read_cards(nvidia_smi("--query-gpu=name,compute_cap", "--format=csv,noheader"))
    except UserError as error:
        if "not a valid field" not in str(error):
            raise
        return read_cards(nvidia_smi("--query-gpu=name", "--format=csv,noheader"))


def choose_build(
    cards: Sequence[Card],
    cuda: tuple[int, int],
    python: tuple[int, int] = sys.version_info[:2],
    machine: str = platform.machine(),
) -> Build:
    """The first of :data:`BUILDS` that runs on all the cards, with the driver and with this Python.

    Raises:
        UserError: there is none; which of the three is in the way, and what to do.
    """
    if machine != "x86_64":
        raise UserError(f"this machine is {machine}: Paddle's builds for NVIDIA cards need x86_64; train on the CPU")
    names = ", ".join(f"{card.name} (compute capability {card.capability[0]}.{card.capability[1]})" for card in cards)
    for_cards = [
        build for build in BUILDS if all(build.cards[0] <= card.capability <= build.cards[1] for card in cards)
    ]
    if not for_cards:
        advice = "choose cards by CUDA_VISIBLE_DEVICES" if len(set(cards)) > 1 else "take another card, or the CPU"
        raise UserError(f"{names}: no build of Paddle runs on it; expected compute capability 6.1 to 12.1; {advice}")
    for_driver = [build for build in for_cards if build.cuda <= cuda[0]]
    if not for_driver:
        needed = min(build.cuda for build in for_cards)
        raise UserError(
            f"{names}: the driver knows CUDA {cuda[0]}.{cuda[1]}, Paddle's builds for it need {needed}; "
            f"update the driver to {'450.80' if needed == 11 else '525.60'} or newer"
        )
    for build in for_driver:
        if build.pythons[0] <= python <= build.pythons[1]:
            return build
    oldest, newest = min(build.pythons[0] for build in for_driver), max(build.pythons[1] for build in for_driver)
    raise UserError(
        f"Python {python[0]}.{python[1]}: Paddle's builds for {names} need {oldest[0]}.{oldest[1]} to "
        f"{newest[0]}.{newest[1]}; remove the environment and set PYTHON, as in PYTHON=python3.11"
    )


def steps(build: Build, installed: Sequence[str], made_with: str = "") -> list[list[str]]:
    """The arguments of pip, call after call, that lead to a build.

    Two builds of Paddle hold the same files, and so do NVIDIA's libraries of two versions of CUDA: another build goes
    first, with its libraries.

    Args:
        installed: what is there, as name==version.
        made_with: version of CUDA of the Paddle that is there; empty: none.
    """
    wanted = "paddlepaddle-gpu==3." if build.index else build.requirement
    paddles = [name for name in installed if re.match(r"paddlepaddle(-\w+)?==", name)]
    calls = []
    if any(not name.startswith(wanted) for name in paddles) or (paddles and made_with != build.made_with):
        outdated = sorted(name.partition("==")[0] for name in installed if re.match(r"paddlepaddle|nvidia-", name))
        calls.append(["uninstall", "--yes", *outdated])
    if build.index:
        calls.append(["install", "-r", "requirements/base.txt"])
        calls.append(["install", build.requirement, "--index-url", build.index])
    else:
        calls.append(["install", "-r", "requirements-gpu.txt", "-r", "requirements/cuda11.txt", build.requirement])
    return calls


def installed_packages() -> list[str]:
    """name==version of every package of this environment."""
    found = [(package.metadata["Name"], package.version) for package in metadata.distributions()]
    # A broken package has no name. Names differ in case and in their hyphens from one way to install to another.
    return sorted(f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}" for name, version in found if name)


def cuda_of_paddle(site_packages: Path) -> str:
    """The version of CUDA that the Paddle there was made with; empty where it has none. Paddle is not imported."""
    try:
        text = (site_packages / "paddle" / "version" / "__init__.py").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"^cuda_version *= *'([\d.]+)'", text, re.MULTILINE)
    return found.group(1) if found else ""


def link_libraries(site_packages: Path) -> list[Path]:
    """Put links to NVIDIA's libraries, with and without their version, into paddle/libs, and return them.

    Paddle 2.6.2 opens them as libcudnn.so and the like. LD_LIBRARY_PATH is read when a process starts, too early for us
    to set it, but Paddle's own libraries look in this folder too. The versioned names are for what they open in turn.
    """
    folder = site_packages / "paddle" / "libs"
    for old in folder.glob("lib*.so*"):
        if old.is_symlink():
            old.unlink()
    links = []
    for library in sorted(site_packages.glob("nvidia/*/lib/lib*.so.*")):
        for name in (library.name, library.name.split(".so.")[0] + ".so"):
            link = folder / name
            link.symlink_to(os.path.relpath(library, folder))
            links.append(link)
    return links


def try_card() -> str:
    """Have Paddle compute on the card, in a process of its own: what it may do on a wrong card is to abort.

    Raises:
        UserError: it cannot; the cause and the cure.
    """
    code = (
        "import sys\nfrom src.errors import UserError\nfrom src.runtime.device import set_device\n"
        "try:\n    print(set_device('gpu'))\nexcept UserError as error:\n    sys.exit(str(error))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if result.returncode == 0:
        return result.stdout.split()[-1]
    said = (result.stderr.strip() or "no message").splitlines()[-1]
    raise UserError(said if result.returncode == 1 else f"Paddle ended with status {result.returncode} ({said})")


def install(build: Build) -> None:
    """Bring this environment to a build.

    Raises:
        UserError: pip fails.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    site_packages = Path(sysconfig.get_path("purelib"))
    for arguments in steps(build, installed_packages(), cuda_of_paddle(site_packages)):
        print(f"\n== pip {' '.join(arguments)}", flush=True)
        if subprocess.run([*pip, *arguments, "--quiet"], cwd=ROOT).returncode:
            raise UserError(
                f"pip {' '.join(arguments)} failed, see its message above; it needs 10 GB of disk and "
                f"{build.index or 'PyPI'}; run again when it has them"
            )
    if not build.index:
        link_libraries(site_packages)


@command("run again")
def main() -> None:
    cuda = read_cuda(nvidia_smi())
    cards = find_cards()
    build = choose_build(cards, cuda)
    install(build)
    version = next(name for name in installed_packages() if name.startswith("paddlepaddle-gpu=="))
    driver = f"driver for CUDA {cuda[0]}.{cuda[1]}"
    done = f"{version} of {build.index or 'PyPI'} is installed for {cards[0].name}, {driver}"
    try:
        print(f"\n== {done}; it computes on {try_card()}")
    except UserError as error:
        raise UserError(f"{done}, but does not compute: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
