"""A network between two: `python -m models.interpolate FIRST SECOND SHARE TARGET`, checkpoints of one architecture and scale.

Network interpolation (Wang et al., "ESRGAN", ECCV Workshops 2018, section 3.4): between a network trained on pixels and one
trained on from it adversarially, every share is a network too, from faithful to crisp, without another training.
"""

import argparse
from pathlib import Path

from models.checkpoint import CheckpointError, load_checkpoint, read_header, read_metadata, save_checkpoint
from models.registry import build_network


def interpolate(first: Path, second: Path, share: float, target: Path) -> None:
    """Writes (1 - `share`) * `first` + `share` * `second` to `target`; a model like any other: `--model TARGET`.

    `first` is the network that `second` was trained on from; the header tells how `second` was trained.

    Raises:
        CheckpointError: `share` is not from 0 to 1, a file is no checkpoint, or the two are not of one architecture and scale.
    """
    if not 0 <= share <= 1:
        raise CheckpointError(f"share {share} is not from 0 to 1")
    header = read_header(first)
    if read_header(second) != header:
        raise CheckpointError(f"{first} and {second} are not of one architecture and scale: {header}, {read_header(second)}")
    networks = [build_network(*header) for _ in range(2)]
    for network, path in zip(networks, (first, second), strict=True):
        load_checkpoint(network, path)
    between, other = (network.state_dict() for network in networks)
    for name, tensor in between.items():
        if tensor.is_floating_point():
            tensor.lerp_(other[name], share)
    metadata = {key: value for key, value in read_metadata(second).items() if not key.startswith("validation_")}
    save_checkpoint(networks[0], target, metadata | {"between": f"{1 - share:g} of its start, {share:g} of its end"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("share", type=float, help="of the second: 0 is the first, 1 the second")
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    interpolate(arguments.first, arguments.second, arguments.share, arguments.target)


if __name__ == "__main__":
    main()
