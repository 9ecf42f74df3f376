"""Where a tensor is."""

from __future__ import annotations

import paddle


def on_cpu(x: paddle.Tensor) -> bool:
    """Whether x is on a CPU. False in a static graph: what will run it is not known, and it can hold no PyLayer."""
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()
