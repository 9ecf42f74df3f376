"""Frames as numbers in [0, 1], and as patches: a p x p square of pixels becomes the channels of one position.

The network sees an image of H x W pixels as a grid of H/p x W/p positions with p*p*C channels each.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

Frames = TypeVar("Frames")  # numpy.ndarray or paddle.Tensor: both have shape, reshape and transpose


def to_unit_range(pixels: np.ndarray) -> np.ndarray:
    """Pixels of 8 bits (0 .. 255, of any type) as float32 in [0, 1]."""
    return np.asarray(pixels, np.float32) / np.float32(255)


def reshape_patch(x: Frames, patch_size: int) -> Frames:
    """Cut frames into patches.

    Args:
        x: frames ``[B, T, H, W, C]``, a numpy array or a paddle Tensor.
        patch_size: p, the side of a patch in pixels; must divide H and W.

    Returns:
        ``[B, T, H/p, W/p, p*p*C]`` of the same type; the channel of pixel (py, px) of a patch, colour c, is
        ``(py*p + px)*C + c``.

    Raises:
        ValueError: x has not five axes, or patch_size does not divide H and W.
    """
    if len(x.shape) != 5:
        raise ValueError(f"reshape_patch takes frames [B, T, H, W, C], got shape {tuple(x.shape)}")
    batch, length, height, width, channels = x.shape
    p = patch_size
    if p < 1 or height % p or width % p:
        raise ValueError(f"patch_size {p} does not divide the frame size {height} x {width}")
    x = x.reshape([batch, length, height // p, p, width // p, p, channels])
    x = x.transpose([0, 1, 2, 4, 3, 5, 6])  # (B, T, H/p, W/p, py, px, C)
    return x.reshape([batch, length, height // p, width // p, p * p * channels])


def reshape_patch_back(x: Frames, patch_size: int) -> Frames:
    """Put patches together again: the inverse of :func:`reshape_patch`.

    Args:
        x: patches ``[B, T, H/p, W/p, p*p*C]``, a numpy array or a paddle Tensor.
        patch_size: p, the side of a patch in pixels; p*p must divide the last axis.

    Returns:
        frames ``[B, T, H, W, C]`` of the same type.

    Raises:
        ValueError: x has not five axes, or p*p does not divide the last one.
    """
    if len(x.shape) != 5:
        raise ValueError(f"reshape_patch_back takes patches [B, T, H/p, W/p, p*p*C], got shape {tuple(x.shape)}")
    batch, length, rows, columns, patch_channels = x.shape
    p = patch_size
    if p < 1 or patch_channels % (p * p):
        raise ValueError(f"patch_size {p}: {p * p} does not divide the {patch_channels} channels of a patch")
    channels = patch_channels // (p * p)
    x = x.reshape([batch, length, rows, columns, p, p, channels])
    x = x.transpose([0, 1, 2, 4, 3, 5, 6])  # (B, T, H/p, py, W/p, px, C)
    return x.reshape([batch, length, rows * p, columns * p, channels])
