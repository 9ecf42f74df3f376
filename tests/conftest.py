"""Shared by the tests. Importing src first prepares the process before paddle is loaded."""

import os
from pathlib import Path

import numpy as np
import pytest

import src  # noqa: F401  (before paddle)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def extra_data() -> Path:
    """Folder with data that is not part of the project; tests that need it skip without it."""
    folder = os.environ.get("E3D_EXTRA_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("E3D_EXTRA_DATA names no folder")
    return Path(folder)


def load_golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def relative_l2(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found.astype("float64") - expected) / np.linalg.norm(expected.astype("float64")))
