"""Tiles through an engine process that has its limits."""

from pathlib import Path

import numpy as np
import pytest

from server.catalogue import find_graphs
from server.errors import ServiceError
from server.streams.tile_engine import TileEngine
from tests.support.faulty_host import faulty_host


def test_without_memory_on_the_device_a_picture_is_refused_and_the_next_one_upscaled(tmp_path: Path) -> None:
    key = "bicubic-x2-rgb"
    with faulty_host({key: find_graphs("bicubic", 2, "rgb")[1]}, tmp_path) as address, TileEngine(address) as engine:
        with pytest.raises(ServiceError, match="no memory left") as refusal:
            engine.upscale(key, np.full((8, 6, 3), 66, np.uint8))
        assert refusal.value.code == "gpu_oom"
        assert (engine.upscale(key, np.full((8, 6, 3), 5, np.uint8)) == np.full((16, 12, 3), 5)).all()
