"""Variables of the official TensorFlow E3D-LSTM, by their names, into this model.

Kernels there are DHWIO (depth, rows, columns, in, out), here OIDHW. The official code builds its graph by scopes, so
``generator/e3d-lstm/e3d0/conv3d/kernel`` is W_h of layer 0; a dot may stand for each slash.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import paddle
from paddle import nn

# Scope in the official cell -> layer of EideticLSTMCell.
CELL_SCOPES = {
    "conv3d": "conv_h",
    "hidden": "norm_h",
    "conv3d_1": "conv_x",
    "inputs": "norm_x",
    "self_attn": "norm_c",
    "conv3d_2": "conv_m",
    "global_memory": "norm_m",
    "conv3d_3": "conv_co",
    "conv3d_4": "conv_mo",
    "conv3d_5": "conv_cm",
}
KERNEL_AXES = (4, 3, 0, 1, 2)  # DHWIO -> OIDHW


def load_tf_variables(model: nn.Layer, variables: Mapping[str, np.ndarray]) -> None:
    """Copy the official code's variables into a network (or a single cell, whose scope is then ``e3d0``).

    Args:
        model: an E3DLSTM or an EideticLSTMCell.
        variables: name -> array, one for each parameter of the model.

    Raises:
        ValueError: a variable that is unknown, missing or of another shape; all of them are listed. A bias of
            ``conv3d``, ``conv3d_1`` or ``conv3d_2`` has no place before a layer norm and counts as unknown.
    """
    parameters = tf_parameters(model)
    arrays = {name.split(":")[0].replace("/", "."): np.asarray(array) for name, array in variables.items()}
    problems = [f"unknown {name}" for name in sorted(arrays.keys() - parameters.keys())]
    problems += [f"missing {name}" for name in sorted(parameters.keys() - arrays.keys())]
    for name in sorted(parameters.keys() & arrays.keys()):
        if arrays[name].ndim == 5:
            arrays[name] = arrays[name].transpose(KERNEL_AXES)
        found, expected = list(arrays[name].shape), list(parameters[name].shape)
        if found != expected:
            problems.append(f"{name} has shape {found} (kernels as OIDHW), the model {expected}")
    if problems:
        raise ValueError("these TensorFlow variables do not fit the model: " + "; ".join(problems))
    for name, parameter in parameters.items():
        parameter.set_value(np.ascontiguousarray(arrays[name], dtype="float32"))


def tf_parameters(model: nn.Layer) -> dict[str, paddle.Tensor]:
    """Official name (with dots) -> parameter of the model, for every parameter."""
    if not hasattr(model, "cells"):  # a single one
        return _cell_parameters("e3d0", model)
    parameters = {}
    for index, cell in enumerate(model.cells):
        parameters.update(_cell_parameters(f"generator.e3d-lstm.e3d{index}", cell))
    parameters["generator.e3d-lstm.conv3d.kernel"] = model.decoder.weight
    parameters["generator.e3d-lstm.conv3d.bias"] = model.decoder.bias
    return parameters


def _cell_parameters(scope: str, cell: nn.Layer) -> dict[str, paddle.Tensor]:
    parameters = {}
    for tf_scope, layer_name in CELL_SCOPES.items():
        layer = getattr(cell, layer_name)
        if isinstance(layer, nn.Identity):  # --layer_norm False
            continue
        weight, bias = ("kernel", "bias") if isinstance(layer, nn.Conv3D) else ("gamma", "beta")
        parameters[f"{scope}.{tf_scope}.{weight}"] = layer.weight
        if layer.bias is not None:
            parameters[f"{scope}.{tf_scope}.{bias}"] = layer.bias
    return parameters
