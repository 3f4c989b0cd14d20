"""Which card there is, and why there is none."""

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from engines.card import NO_DEVICE, Card, describe_device, find_card, require_cuda
from engines.runner import BackendUnavailableError

CARD = Card("NVIDIA H200", (9, 0), (13, 0))


class FakeDriver:
    """Stands for libcuda."""

    def __init__(self, fails: dict[str, int] | None = None) -> None:
        self.fails = fails or {}

    def __getattr__(self, function: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if function == "cuGetErrorString":
                arguments[1]._obj.value = b"no CUDA-capable device is detected"
            elif function == "cuDeviceGetName":
                arguments[0].value = b"NVIDIA H200"
            elif function == "cuDriverGetVersion":
                arguments[0]._obj.value = 12080
            elif function == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 9, 76: 0}[arguments[1]]
            return self.fails.get(function, 0)

        return call


def no_driver(name: str) -> Any:
    return ctypes.CDLL(f"{name}.of.a.machine.without.it")


def test_the_driver_says_what_card_there_is() -> None:
    card = find_card(lambda name: FakeDriver())
    assert card == Card("NVIDIA H200", (9, 0), (12, 8))
    assert str(card) == "NVIDIA H200, compute capability 9.0, driver for CUDA 12.8"


def test_no_driver_and_no_card_are_told_apart() -> None:
    with pytest.raises(BackendUnavailableError, match="no NVIDIA driver on this machine"):
        find_card(no_driver)
    with pytest.raises(BackendUnavailableError, match=r"no CUDA-capable device is detected \(cuInit, error 100\)"):
        find_card(lambda name: FakeDriver({"cuInit": 100}))
    assert describe_device(lambda: find_card(no_driver)) == NO_DEVICE


def fake_torch(cuda: str | None, init: Exception | None = None) -> Any:
    def initialise() -> None:
        if init:
            raise init

    return SimpleNamespace(__version__="2.13.0", version=SimpleNamespace(cuda=cuda), cuda=SimpleNamespace(init=initialise))


@pytest.mark.parametrize(
    ("torch_", "says"),
    [
        (fake_torch(None), r"PyTorch 2.13.0 was built without CUDA"),
        (fake_torch("14.1"), r"driver is too old: it supports CUDA 13.0, PyTorch 2.13.0 needs 14.1"),
        (fake_torch("13.2", RuntimeError("busy")), "PyTorch 2.13.0 cannot use NVIDIA H200: busy"),
    ],
)
def test_why_pytorch_cannot_use_the_card(torch_: Any, says: str) -> None:
    with pytest.raises(BackendUnavailableError, match=says):
        require_cuda(lambda: CARD, lambda: torch_)


def test_a_card_that_pytorch_can_use() -> None:
    assert require_cuda(lambda: CARD, lambda: fake_torch("13.2")) is CARD

    def missing() -> Any:
        raise ImportError("No module named 'torch'")

    with pytest.raises(BackendUnavailableError, match=r"No module named 'torch'.*fourfold\[gpu\]"):
        require_cuda(lambda: CARD, missing)
