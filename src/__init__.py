"""E3D-LSTM on PaddlePaddle.

Importing this package prepares the process for paddle (see ``src.runtime.process_env``), so import it before paddle.
"""

from src.runtime.process_env import prepare_process

prepare_process()
