"""Train or test E3D-LSTM.

    python runp.py --train_data_paths data/kth --valid_data_paths data/kth --save_dir checkpoints/kth
    python runp.py --is_training False --valid_data_paths data/kth --pretrained_model checkpoints/kth/500
    python runp.py --help

Exit status: 0 done, 2 a flag or a file is wrong (one line says which), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from src.config import Config
from src.errors import UserError
from src.utils.process_env import set_gpu_allocator


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        config = Config.from_command_line(arguments)
        config.check_run()
        set_gpu_allocator(config.allow_gpu_growth)
        from src import trainer  # loads paddle, which takes seconds: after the flags are known to be right

        trainer.train(config) if config.is_training else trainer.test(config)
        return 0
    except UserError as error:
        print(f"runp.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("runp.py: stopped; checkpoints written before stay", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
