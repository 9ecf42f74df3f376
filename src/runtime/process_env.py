"""Process settings that make Paddle's CPU kernels run at the machine's speed.

Measured with Paddle 3.3.1 on two AMD cores:

* the bundled MKL takes a slow path on AMD processors and one thread: 9 to 10 GMAC/s for a matrix product; with
  ``MKL_DEBUG_CPU_TYPE=5`` and ``MKL_NUM_THREADS=2`` it reaches 65 to 115 GMAC/s, by machine;
* glibc hands every large block back to the system and faults it in again at the next use: element-wise kernels take
  3 to 5 ns an element; when freed blocks are kept, 0.2 to 1.6 ns;
* MKL's threads wait for each other by spinning. Where other programs use the cores, two of them take two to four times
  as long as one (at worst 30 times); with ``KMP_BLOCKTIME=0`` they sleep instead, which costs a third on a quiet
  machine. A small network gains an eighth by a second thread at most.

They count from the first computation on, so paddle may have been imported before. What the user has set in the
environment is never overridden.
"""

import contextlib
import ctypes
import os
import sys
import time
import warnings
from pathlib import Path

from src.runtime import ranks

# Multiplications of a layer's largest convolution below which one thread is taken.
FEW_MULTIPLICATIONS = 1.5e8
SECONDS_OF_LOOKING = 0.1  # at how busy the cores are

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEEP_BLOCKS_UP_TO = 2**31 - 1  # bytes; the largest value mallopt's int argument takes

_threads_are_ours = False


def prepare_process() -> None:
    """Set the MKL variables and the allocator's thresholds, each only where the user has not."""
    set_mkl_variables()
    _keep_freed_memory()
    # Paddle advises to install a compiler cache at every import; nothing here compiles.
    warnings.filterwarnings("ignore", message="No ccache found")


def set_mkl_variables() -> None:
    """Set the MKL variables where the user has not. The ranks on a machine share its cores."""
    # MKL's variable forces the AVX2 kernels. On Intel that would switch AVX-512 off, so it is for AMD only.
    if _is_amd():
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
    if not _threads_are_the_users() and "MKL_NUM_THREADS" not in os.environ:
        global _threads_are_ours
        os.environ["MKL_NUM_THREADS"] = str(max(1, usable_cores() // ranks.local_count()))
        _threads_are_ours = True


def fit_threads(multiplications: float) -> None:
    """Take one thread for a small network; for a larger one have the threads sleep where the cores are busy.

    It has to come before the first computation, and leaves what the user has set. The number of threads is a function
    of the flags alone: it changes the last bits of a sum, and a run that is resumed is to be the same to the bit.

    Args:
        multiplications: of a layer's largest convolution, for a batch.
    """
    if not _threads_are_ours:
        return
    if multiplications < FEW_MULTIPLICATIONS:
        from paddle.base import core

        core.set_num_threads(1)
    elif "KMP_BLOCKTIME" not in os.environ and cores_in_use() >= 0.5:
        os.environ["KMP_BLOCKTIME"] = "0"


def start_threads() -> None:
    """Have the OpenMP runtime of Paddle's MKL start now, before other threads do, by a product of small matrices.

    It sets an environment variable when it starts. Were that in the first iteration, a thread that decodes JPEGs could
    read the environment in the same moment, which now and then ends the process (SIGSEGV in getenv).
    """
    import paddle

    paddle.ones([2, 2]).matmul(paddle.ones([2, 2]))


def cores_in_use() -> float:
    """How many of the usable cores other programs use at this moment; 0 where that is not known."""
    before = _ticks()
    time.sleep(SECONDS_OF_LOOKING)
    used = [(busy - was_busy, ticks - were) for (was_busy, were), (busy, ticks) in zip(before, _ticks())]
    return sum(busy / ticks for busy, ticks in used if ticks)


def _ticks() -> list[tuple[int, int]]:
    """Of each usable core: ticks of work, and of all, since the machine was started (proc(5), /proc/stat)."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            rows = {row.split()[0]: [int(number) for number in row.split()[1:9]] for row in file if row[:3] == "cpu"}
    except (OSError, ValueError):  # not Linux
        return []
    cores = (rows.get(f"cpu{core}") for core in sorted(os.sched_getaffinity(0)))
    return [(sum(ticks) - ticks[3] - ticks[4], sum(ticks)) for ticks in cores if ticks]  # but idle and iowait


def _threads_are_the_users() -> bool:
    """Whether it is the user who has set OMP_NUM_THREADS: Paddle sets it to 1 when it is imported where it is not set,
    so a rank has that 1 from the launcher."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        return "OMP_NUM_THREADS" in os.environ
    if ranks.is_launched():
        return False
    if "paddle" not in sys.modules:
        return True
    try:
        with open("/proc/self/environ", "rb") as environment:  # as the process was started
            return any(entry.startswith(b"OMP_NUM_THREADS=") for entry in environment.read().split(b"\0"))
    except OSError:  # not Linux
        return True


def usable_cores() -> int:
    """Cores this process may run on (a cluster's or container's share, not the machine's total)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less if a container or a cluster allows less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in control_groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):  # of cgroup 2 and 1
            with contextlib.suppress(OSError, ValueError):  # no such file; "max"
                limits.append(int((folder / name).read_text(encoding="ascii")))
    return min(limits)


def control_groups(controller: str) -> list[Path]:
    """Folders of this process's control group for a controller, and of the groups that it is in (cgroups(7))."""
    try:
        rows = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return []
    found = []
    for _, controllers, path in (row.split(":", 2) for row in rows):
        if controllers == "" or controller in controllers.split(","):
            group = Path("/sys/fs/cgroup", controllers, path.lstrip("/"))
            found += [group, *group.parents]
    return found


def _is_amd() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cpuinfo:
            return any("AuthenticAMD" in line for line in cpuinfo if line.startswith("vendor_id"))
    except OSError:  # not Linux
        return False


def _keep_freed_memory() -> None:
    # MALLOC_* variables are read by glibc when a process starts, too early for us: mallopt does the same from inside.
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt(M_MMAP_THRESHOLD, KEEP_BLOCKS_UP_TO)
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        mallopt(M_TRIM_THRESHOLD, KEEP_BLOCKS_UP_TO)


def set_gpu_allocator(grow: bool) -> None:
    """Choose how Paddle takes GPU memory: as it is needed, or nearly the whole card at the start.

    The part of the card is FLAGS_fraction_of_gpu_memory_to_use, by Paddle's default 0.92.
    """
    os.environ.setdefault("FLAGS_allocator_strategy", "auto_growth" if grow else "naive_best_fit")
