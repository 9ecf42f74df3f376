"""PSNR, SSIM, MSE and MAE of predicted frames. docs/testing.md states the same definitions.

PSNR and SSIM are taken on uint8 frames, MSE and MAE on frames in [0, 1].
"""

from __future__ import annotations

import math

import numpy as np
from skimage.metrics import structural_similarity

PEAK = 255  # of a uint8 frame
UNITS = {"psnr": "PSNR dB", "ssim": "SSIM", "mse": "MSE", "mae": "MAE"}
# The trivial forecasts that a model is compared with, and their columns in tables.
BASELINES = {"repeat_last_frame": "repeat", "mean_frame": "mean"}


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Frames in [0, 1] (clipped to it) as uint8: x 255, the fraction cut off, as the official code does."""
    return (np.clip(frames, 0.0, 1.0) * PEAK).astype(np.uint8)


def frame_psnr(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """PSNR of each frame in dB: 20 log10(255) - 10 log10(mse); inf where the frames are equal.

    Args:
        pred, true: uint8 ``[N, H, W, C]`` or ``[N, H, W]``.

    Returns:
        float64 ``[N]``.

    Raises:
        ValueError: shapes that differ, or frames that are not uint8.
    """
    _check_frames(pred, true)
    # In int32: the difference of two uint8 wraps around (3 - 5 = 254), the known fault of published KTH tables.
    difference = pred.astype(np.int32) - true.astype(np.int32)
    mse = np.mean(np.square(difference), axis=tuple(range(1, pred.ndim)), dtype=np.float64)
    with np.errstate(divide="ignore"):
        return 20 * math.log10(PEAK) - 10 * np.log10(mse)


def batch_psnr(pred: np.ndarray, true: np.ndarray) -> float:
    """Mean over N of :func:`frame_psnr`, in dB; same arguments."""
    return float(np.mean(frame_psnr(pred, true)))


def frame_ssim(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """SSIM of each frame: skimage's structural_similarity with its default 7 x 7 window and data_range 255.

    Args:
        pred, true: uint8 ``[N, H, W, C]`` or ``[N, H, W]``, at least 7 x 7 pixels.

    Returns:
        float64 ``[N]`` in [-1, 1].

    Raises:
        ValueError: shapes that differ, frames that are not uint8 or too small.
    """
    _check_frames(pred, true)
    channel_axis = 2 if pred.ndim == 4 else None
    return np.array(
        [structural_similarity(p, t, data_range=PEAK, channel_axis=channel_axis) for p, t in zip(pred, true)]
    )


def frame_mse(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Sum of squared differences of each frame, the prediction clipped to [0, 1] (the field's "MSE per frame").

    Args:
        pred, true: float ``[N, H, W, C]`` or ``[N, H, W]``, true in [0, 1].

    Returns:
        float64 ``[N]``.
    """
    return np.sum(np.square(_difference(pred, true)), axis=tuple(range(1, pred.ndim)), dtype=np.float64)


def frame_mae(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Sum of absolute differences of each frame (the field's "MAE per frame"); otherwise as :func:`frame_mse`."""
    return np.sum(np.abs(_difference(pred, true)), axis=tuple(range(1, pred.ndim)), dtype=np.float64)


def _difference(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    if pred.shape != true.shape:
        raise ValueError(f"frames of different shapes: {pred.shape} and {true.shape}")
    return np.clip(pred, 0.0, 1.0) - true


def _check_frames(pred: np.ndarray, true: np.ndarray) -> None:
    if pred.shape != true.shape:
        raise ValueError(f"frames of different shapes: {pred.shape} and {true.shape}")
    if pred.ndim not in (3, 4) or pred.dtype != np.uint8 or true.dtype != np.uint8:
        raise ValueError(f"expected uint8 frames [N, H, W, C] or [N, H, W], got {pred.dtype} {pred.shape}")
