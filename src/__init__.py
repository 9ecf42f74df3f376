"""E3D-LSTM on PaddlePaddle.

Importing any module of this package prepares the process (see ``src.runtime.process_env``), before or after paddle.
"""

from src.runtime.process_env import prepare_process

prepare_process()
