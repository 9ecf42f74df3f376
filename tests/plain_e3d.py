"""The E3D-LSTM as its equations stand: the definition to test and to measure against, never to train with.

One function a line of the equations, conv3d for every convolution, softmax attention with its scores kept. It takes the
parameters of a model of ``src`` by name, so both compute with the very same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import paddle
import paddle.nn.functional as F

Parameters = Mapping[str, paddle.Tensor]


def plain_e3d(model: paddle.nn.Layer, frames: paddle.Tensor, real_input_flag: paddle.Tensor | None) -> paddle.Tensor:
    """The network of ``src.models.eidetic_3d_lstm_net.E3DLSTM``, with its inputs and outputs.

    Args:
        model: an E3DLSTM; its parameters and epsilon are used, its code is not.
        frames: patches ``[B, T, H, W, C]``.
        real_input_flag: ``[B, T-input_length-1]``, also with three more axes of 1; 1 feeds the true frame.

    Returns:
        predictions of the frames 1 .. T-1, ``[B, T-1, H, W, C]``.
    """
    parameters = dict(model.named_parameters())
    batch, length, rows, columns, _ = frames.shape
    frames = frames.transpose([0, 1, 4, 2, 3])  # (B, T, C, H, W)
    layers = len(model.cells)
    n = model.hidden_channels

    zero = paddle.zeros([batch, n, 2, rows, columns])
    h, c, m = [zero] * layers, [zero] * layers, zero
    history = [zero.flatten(2)] * layers  # (B, n, S*2*H*W)
    frame_before = paddle.zeros_like(frames[:, 0])
    predictions = []
    for t in range(length - 1):
        frame = frames[:, t]
        if t >= model.input_length:
            flag = real_input_flag[:, t - model.input_length].reshape([batch, 1, 1, 1])
            frame = flag * frame + (1 - flag) * predictions[-1]
        x = paddle.stack([frame_before, frame], axis=2)  # (B, C, 2, H, W)
        frame_before = frame
        for layer in range(layers):
            if t > 0:
                history[layer] = paddle.concat([history[layer], c[layer].flatten(2)], axis=2)
            own = {
                name[len(f"cells.{layer}.") :]: value
                for name, value in parameters.items()
                if name.startswith(f"cells.{layer}.")
            }
            h[layer], c[layer], m = plain_cell(own, x, h[layer], c[layer], m, history[layer], model.norm_epsilon)
            x = h[layer]
        decoded = F.conv3d(x, parameters["decoder.weight"], parameters["decoder.bias"], stride=(2, 1, 1))
        prediction = decoded.squeeze(2)
        predictions.append(frame + prediction if model.residual else prediction)
    return paddle.stack(predictions, axis=1).transpose([0, 1, 3, 4, 2])


def plain_cell(
    p: Parameters,
    x: paddle.Tensor,
    h: paddle.Tensor,
    c: paddle.Tensor,
    m: paddle.Tensor,
    history: paddle.Tensor,
    epsilon: float,
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """One step of one layer: h', c', m' from ``[B, n, 2, H, W]`` states and the history ``[B, n, S*2*H*W]``."""
    i_h, g_h, r_h, o_h = norm(p, "norm_h", conv(p, "conv_h", h), epsilon).split(4, axis=1)
    i_x, g_x, r_x, o_x, im_x, gm_x, fm_x = norm(p, "norm_x", conv(p, "conv_x", x), epsilon).split(7, axis=1)
    i, r, g = F.sigmoid(i_x + i_h), F.sigmoid(r_x + r_h), F.tanh(g_x + g_h)
    c = norm(p, "norm_c", c + recall(r, history), epsilon) + i * g

    i_m, f_m, g_m, m_m = norm(p, "norm_m", conv(p, "conv_m", m), epsilon).split(4, axis=1)
    m = F.sigmoid(fm_x + f_m + 1) * F.tanh(m_m) + F.sigmoid(im_x + i_m) * F.tanh(gm_x + g_m)

    o = F.tanh(o_x + o_h + conv(p, "conv_co", c) + conv(p, "conv_mo", m))
    h = F.tanh(F.conv3d(paddle.concat([c, m], axis=1), p["conv_cm.weight"], p["conv_cm.bias"])) * F.sigmoid(o)
    return h, c, m


def recall(r: paddle.Tensor, history: paddle.Tensor) -> paddle.Tensor:
    """softmax(r K^T) K over every position of the history."""
    scores = paddle.matmul(r.flatten(2), history, transpose_x=True)  # (B, 2*H*W, S*2*H*W)
    return paddle.matmul(history, F.softmax(scores, axis=-1), transpose_y=True).reshape(r.shape)


def conv(p: Parameters, name: str, x: paddle.Tensor) -> paddle.Tensor:
    """3-D convolution, kernel (2, k, k); "SAME" puts the zero slice of the depth after the window."""
    return F.conv3d(x, p[f"{name}.weight"], p.get(f"{name}.bias"), padding="SAME")


def norm(p: Parameters, name: str, x: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    """Mean and variance over all axes but the batch, gain and shift per channel; nothing where it is left out."""
    if f"{name}.weight" not in p:
        return x
    mean = x.mean(axis=[1, 2, 3, 4], keepdim=True)
    variance = (x - mean).square().mean(axis=[1, 2, 3, 4], keepdim=True)
    shape = [1, -1, 1, 1, 1]
    return (x - mean) / (variance + epsilon).sqrt() * p[f"{name}.weight"].reshape(shape) + p[f"{name}.bias"].reshape(
        shape
    )
