"""Fixtures of every package's tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of test pictures, training pictures and videos, which is not part of the repository."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FOURFOLD_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"there is no data folder {folder}; FOURFOLD_DATA says where it is")
    return folder
