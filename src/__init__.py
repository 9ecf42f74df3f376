"""E3D-LSTM on PaddlePaddle.

Importing this package prepares the process for paddle (see ``src.utils.process_env``), so import it before paddle.
"""

from src.utils.process_env import prepare_process

prepare_process()
