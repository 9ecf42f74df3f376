"""E3D-LSTM on PaddlePaddle.

Importing any module of this package prepares the process (see ``src.runtime.process_env``), before or after paddle.
"""

# Paddle 2.6 exports an old zlib under the names of the system's. A program that loads Python's only after it, as by
# importing src.trainer, ends there (SIGSEGV in inflateReset2).
import zlib  # noqa: F401

from src.runtime.process_env import prepare_process

prepare_process()
