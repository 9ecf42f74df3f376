"""What a GPU will run has a kernel there: tests/golden/gpu_kernels_2.6.2.json lists those of paddlepaddle-gpu."""

import json
import os
import re
import subprocess
import sys

import paddle
import pytest

from tests.conftest import GOLDEN
from tests.helpers import ROOT

# A training iteration and a forecast as on a GPU; Paddle's log at level 6 names the kernel of each operator.
RUN = """
import sys
import src, paddle
from src.config import Config
from src.layers import recall, window_conv
from src.models.model_factory import build_model
from src.step import predict, train_on_batch
from src.utils.optimizer import build_optimizer, build_schedule
from src.utils.weight_average import WeightAverage
window_conv.on_cpu = lambda x: False
recall.SCORES_AT_A_TIME = 500
sizes = dict(img_width=12, patch_size=4, num_hidden="4,4", filter_size=3, input_length=2, total_length=5)
for settings in eval(sys.argv[1]):
    recall.memory_limit = lambda memory=settings.pop("memory", 1e12): memory
    config = Config(**sizes, grad_clip=1, ema=0.9, **settings)
    model = build_model(config)
    optimizer = build_optimizer(config, build_schedule(config), model.parameters())
    average = WeightAverage(model, config.ema)
    frames = paddle.rand([2, 5, 12, 12, 1])
    train_on_batch(config, 1, model, optimizer, frames)
    average.update(1)
    predict(config, model, frames)
"""
SETTINGS = [
    {"optimizer": "adam", "residual": "gate", "center": 3, "flip": True},
    {"optimizer": "sgd", "residual": True, "memory": 0, "recompute": True, "reverse_input": True},
    {"layer_norm": False, "precision": "bf16", "memory": 0},
    {"model_name": "conv_lstm", "l1_weight": 0},
]
KERNELS = {"div_scale": "scale"}  # operators whose kernel has another name


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="Paddle 2.6 logs no kernels")
def test_every_operator_of_a_training_and_a_forecast_has_a_gpu_kernel():
    environment = {**os.environ, "GLOG_v": "6", "GLOG_logtostderr": "1", "GLOG_minloglevel": "0"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, repr(SETTINGS)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    used = set(re.findall(r"(\w+) API kernel key: \[\w+, [^,]+, (\w+)\]", done.stderr))
    assert {"conv2d", "conv2d_grad", "group_norm_grad", "softmax_grad", "adam_", "sgd_"} <= {name for name, _ in used}
    known = json.loads((GOLDEN / "gpu_kernels_2.6.2.json").read_text())
    used |= {(name, kind) for name in ("conv2d", "conv2d_grad", "cast") for kind in ("float16", "bfloat16")}
    missing = {
        f"{name}({kind})"
        for name, kind in used
        if kind not in known.get(KERNELS.get(name, name.rstrip("_")), "").split()
    }
    assert missing == set()
