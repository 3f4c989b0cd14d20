"""squeeze_distance: nought for equal pictures, larger for worse ones; weights that do not fit are named."""

from pathlib import Path

import numpy as np
import pytest

from models.evaluation.squeeze import SqueezeDistance
from models.evaluation.weights import WeightsError
from models.resize import downscale, upscale
from models.training.content import MobileNetV2Features
from tests.support.frames import natural


def test_orders_pictures_as_an_eye_would(data: Path) -> None:
    distance = SqueezeDistance(data / "weights" / "squeezenet1_1_imagenet_f16.npz")
    truth = natural(96, 128)
    noisy = np.clip(truth + np.random.default_rng(0).normal(0, 4, truth.shape), 0, 255).astype(np.uint8)
    blurred = [upscale(downscale(truth, factor), factor) for factor in (2, 4)]
    assert distance.of_images(truth, truth) == 0
    assert 0 < distance.of_images(truth, noisy) < distance.of_images(truth, blurred[1])
    assert distance.of_images(truth, blurred[0]) < distance.of_images(truth, blurred[1])


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.npz cannot be read"):
        SqueezeDistance(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut"])
def test_broken_weights_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.npz"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.npz cannot be read"):
        SqueezeDistance(path)


@pytest.mark.parametrize(("network", "settings"), [(SqueezeDistance, {}), (MobileNetV2Features, {"taps": [16]})])
def test_weights_of_another_network_are_named(tmp_path: Path, network: type, settings: dict[str, list[int]]) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, **{"features.0.weight": np.zeros((4, 3, 3, 3), np.float16), "extra": np.zeros(1)})
    with pytest.raises(WeightsError, match=rf"does not fit {network.__name__}: .*features\.0"):
        network(path, **settings)
