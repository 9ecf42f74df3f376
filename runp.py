"""Train or test E3D-LSTM, or forecast how a video goes on.

    python runp.py --train_data_paths data/kth --valid_data_paths data/kth --save_dir checkpoints/kth
    python runp.py --train_data_paths data/kth --valid_data_paths data/kth --save_dir checkpoints/kth --resume
    python runp.py --is_training False --valid_data_paths data/kth --pretrained_model checkpoints/kth/500
    python runp.py --predict_video film.mp4 --pretrained_model checkpoints/kth/500 --gen_frm_dir results
    python runp.py --help

Exit status: 0 done, 2 a flag or a file is wrong (one line says which), 130 stopped by Ctrl-C, 143 by
SIGTERM, 129 by a lost connection.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence

from src.config import Config
from src.errors import UserError
from src.flag_values import list_flags
from src.runtime import ranks
from src.runtime.process_env import set_gpu_allocator
from src.runtime.signals import (
    Stopped,
    StopRequest,
    handle_signals,
    raise_stopped,
    sigterm_waits,
    stop_with_launcher,
)


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        config = Config.from_command_line(arguments)
        config.check_run(ranks.is_first())
        stop_with_launcher()
        set_gpu_allocator(config.allow_gpu_growth)
        # Loads paddle, which takes seconds: after the flags are known to be right. A signal waits until it is loaded.
        with sigterm_waits():
            with StopRequest() as stop:
                from src import evaluator, trainer
            before = handle_signals(raise_stopped)
        try:
            stop.check()
            if config.predict_video:
                evaluator.predict_video(config)
            elif config.is_training:
                trainer.train(config)
            else:
                evaluator.test(config)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0
    except ModuleNotFoundError as error:
        return _leave(f"the package {error.name} is not installed for {sys.executable}; see Install in README.md", 2)
    except UserError as error:
        return _leave(str(error), 2)
    except ImportError as error:
        if ".so" not in str(error):  # a fault of ours
            raise
        return _leave(f"a library cannot be loaded ({error}); free memory, or see Install in README.md", 2)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "can't start new thread" in str(error)):
            raise
        return _leave(_out_of_memory(config, error), 2)
    except Stopped as stop:
        return _leave(str(stop), stop.status)
    except KeyboardInterrupt:
        return _leave("stopped by SIGINT", 130)


def _out_of_memory(config: Config, error: Exception) -> str:
    """What was asked for, and the flags that decide how much memory a run takes."""
    # Paddle's message has many lines; numpy's goes on with a shape.
    found = re.search(r"(Fail to alloc|Unable to allocate|Cannot allocate)( memory of)? [\d.]+ ?\w*", str(error))
    flags = ["img_width", "total_length", "num_hidden"]
    if not config.predict_video and config.batch_size > 1:
        flags.insert(0, "batch_size")
    advice = f"lower one of {list_flags(flags, vars(config))}"
    if config.is_training and not config.predict_video and not config.recompute:
        advice += ", or give --recompute True"
    return f"out of memory{f' ({found[0]})' if found else ''}; {advice}"


def _leave(message: str, status: int) -> int:
    try:
        print(f"runp.py: {' '.join(message.split())}", file=sys.stderr)
    except OSError:  # the terminal is gone
        pass
    return status


def _open_closed_streams() -> None:
    """Give the null device to standard streams that are closed, as by >&-: else the next file to be opened, a
    checkpoint say, has the stream's number, and receives what libraries print."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))


if __name__ == "__main__":
    _open_closed_streams()
    # A path may hold letters that the terminal's encoding lacks: no reason to end a run.
    sys.stdout.reconfigure(errors="backslashreplace")
    status = main()
    try:
        sys.stdout.flush()
    except OSError:  # piped to head, say: Python would complain when it closes the stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
