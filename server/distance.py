"""`squeeze_distance` where it can be had: it needs PyTorch and SqueezeNet's weights, which are no part of the project."""

from collections.abc import Callable
from pathlib import Path

from models.evaluation.protocol import SQUEEZENET, Distance


def find_distance(data: Path, say: Callable[[str], None]) -> Distance | None:
    """The distance with the weights below `data`, or None; `say` is told why not.

    Raises:
        WeightsError: the weights are there and broken.
    """
    if not (data / SQUEEZENET).exists():
        say(f"no squeeze_distance: there is no {data / SQUEEZENET}; FOURFOLD_DATA says where the data directory is")
        return None
    try:
        from models.evaluation.squeeze import SqueezeDistance
    except ImportError as error:
        say(f"no squeeze_distance: it needs PyTorch ({error}); pip install 'fourfold[train]'")
        return None
    return SqueezeDistance(data / SQUEEZENET).of_images
