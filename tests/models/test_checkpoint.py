"""Checkpoints fit their network or say in one line why not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint import CheckpointError, load_checkpoint, load_start, save_checkpoint
from models.registry import MODELS, build_network
from models.xlsr import XLSR, XLSRConfig

SHIPPED = next(model for model in MODELS if model.title == "xlsr-x4").checkpoint


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(XLSR(XLSRConfig(scale=4)), path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    network, other = XLSR(XLSRConfig(scale=2)), XLSR(XLSRConfig(scale=2))
    save_checkpoint(network, tmp_path / "x.safetensors", {"step": "7"})
    load_checkpoint(other, tmp_path / "x.safetensors")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_names_a_missing_tensor(tmp_path: Path) -> None:
    tensors = load_file(SHIPPED)
    del tensors["tail.bias"], tensors["mix.weight"]
    save_file(tensors, tmp_path / "x.safetensors")
    assert "missing: mix.weight, tail.bias" in refused(tmp_path / "x.safetensors")


def test_names_a_left_over_tensor(tmp_path: Path) -> None:
    save_file({**load_file(SHIPPED), "mix.bias": torch.zeros(32)}, tmp_path / "x.safetensors")
    assert "left over: mix.bias" in refused(tmp_path / "x.safetensors")


def test_names_a_tensor_of_the_wrong_shape(tmp_path: Path) -> None:
    save_checkpoint(XLSR(XLSRConfig(scale=2)), tmp_path / "x2.safetensors", {})
    message = refused(tmp_path / "x2.safetensors")
    assert "tail.weight [12, 32, 3, 3] instead of [48, 32, 3, 3]" in message and "tail.bias" in message


def test_a_refused_checkpoint_leaves_the_network_alone(tmp_path: Path) -> None:
    network = XLSR(XLSRConfig(scale=4))
    before = network.head.weight.clone()
    tensors = load_file(SHIPPED)
    del tensors["tail.bias"]
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError):
        load_checkpoint(network, tmp_path / "x.safetensors")
    assert torch.equal(network.head.weight, before)


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\x08\0\0\0\0\0\0\0{broken}", SHIPPED.read_bytes()[:-100]])
def test_names_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert "cannot be read" in refused(path)


def test_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "nowhere.safetensors")
    assert "cannot be read" in refused(tmp_path)


def test_a_start_at_another_scale_keeps_its_fresh_tail(tmp_path: Path) -> None:
    torch.manual_seed(1)
    trained, fresh = build_network("xlsr", 4), build_network("xlsr", 2)
    save_checkpoint(trained, tmp_path / "start.safetensors", {})
    tail = fresh.state_dict()["tail.weight"].clone()
    load_start(fresh, tmp_path / "start.safetensors")
    assert torch.equal(fresh.state_dict()["tail.weight"], tail)
    for name, tensor in fresh.state_dict().items():
        assert name.startswith("tail.") or torch.equal(tensor, trained.state_dict()[name])


def test_a_start_at_the_same_scale_is_the_whole_network(tmp_path: Path) -> None:
    trained, fresh = build_network("xlsr", 3), build_network("xlsr", 3)
    save_checkpoint(trained, tmp_path / "start.safetensors", {})
    load_start(fresh, tmp_path / "start.safetensors")
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in fresh.state_dict().items())


def test_a_start_of_another_architecture_is_refused(tmp_path: Path) -> None:
    save_checkpoint(build_network("swift-srgan", 4), tmp_path / "start.safetensors", {})
    with pytest.raises(CheckpointError, match=r"does not fit XLSR: missing: head\.weight"):
        load_start(build_network("xlsr", 4), tmp_path / "start.safetensors")
