"""Process settings that make Paddle's CPU kernels run at the machine's speed.

Measured with Paddle 3.3.1 on two AMD cores:

* the bundled MKL takes a slow path on AMD processors and one thread: 9 to 10 GMAC/s for a matrix product; with
  ``MKL_DEBUG_CPU_TYPE=5`` and ``MKL_NUM_THREADS=2`` it reaches 65 to 115 GMAC/s, by machine;
* glibc hands every large block back to the system and faults it in again at the next use: element-wise kernels take
  3 to 5 ns an element; when freed blocks are kept, 0.2 to 1.6 ns.

They count from the first computation on, so paddle may have been imported before. What the user has set in the
environment is never overridden.
"""

import ctypes
import os
import sys
import warnings

from src.runtime import ranks

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEEP_BLOCKS_UP_TO = 2**31 - 1  # bytes; the largest value mallopt's int argument takes


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
    if not _threads_are_the_users():
        os.environ.setdefault("MKL_NUM_THREADS", str(max(1, usable_cores() // ranks.local_count())))


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
