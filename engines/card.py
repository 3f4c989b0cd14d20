"""The NVIDIA card of this machine, and why there is none: asked of the driver, without loading anything large."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engines.runner import BackendUnavailableError

NO_DEVICE = "no device"
"""What stands for the card where there is none; an engine that was compiled so is never taken for one of a card."""

_COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Card:
    """The NVIDIA card that this process would use."""

    name: str
    capability: tuple[int, int]
    cuda: tuple[int, int]  # the newest CUDA that the driver supports

    def __str__(self) -> str:
        return f"{self.name}, compute capability {_dotted(self.capability)}, driver for CUDA {_dotted(self.cuda)}"


def find_card(load: Callable[[str], Any] = ctypes.CDLL) -> Card:
    """Asks the driver alone, which takes milliseconds. A process that has asked must not use a card in children it forks.

    Raises:
        BackendUnavailableError: there is no driver, it does not work, or it has no card.
    """
    try:
        driver = load("libcuda.so.1")
    except OSError as error:
        raise BackendUnavailableError("there is no NVIDIA driver on this machine (libcuda.so.1 was not found)") from error

    def ask(function: str, *arguments: Any) -> None:
        if code := getattr(driver, function)(*arguments):
            text = ctypes.c_char_p()
            driver.cuGetErrorString(code, ctypes.byref(text))
            why = (text.value or b"unknown error").decode()
            raise BackendUnavailableError(f"the NVIDIA driver has no usable card: {why} ({function}, error {code})")

    version, device, name, parts = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256), list[int]()
    ask("cuInit", 0)
    ask("cuDriverGetVersion", ctypes.byref(version))
    ask("cuDeviceGet", ctypes.byref(device), 0)
    ask("cuDeviceGetName", name, len(name), device)
    for attribute in _COMPUTE_CAPABILITY:
        value = ctypes.c_int()
        ask("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        parts.append(value.value)
    return Card(name.value.decode(), (parts[0], parts[1]), (version.value // 1000, version.value % 1000 // 10))


def require_cuda(find: Callable[[], Card] = find_card, import_torch: Callable[[], Any] | None = None) -> Card:
    """The card, after making sure that PyTorch can use it.

    Raises:
        BackendUnavailableError: there is no card, no PyTorch, one without CUDA, or a driver that is too old for it.
    """
    card = find()
    try:
        torch = (import_torch or _import_torch)()
    except ImportError as error:
        raise BackendUnavailableError(f"PyTorch cannot be loaded ({error}); pip install 'fourfold[gpu]'") from error
    if torch.version.cuda is None:
        raise BackendUnavailableError(f"PyTorch {torch.__version__} was built without CUDA; install a CUDA build of it")
    if card.cuda[0] < int(torch.version.cuda.split(".")[0]):  # within a major version old drivers run newer programs
        raise BackendUnavailableError(
            f"the NVIDIA driver is too old: it supports CUDA {_dotted(card.cuda)}, PyTorch {torch.__version__} needs "
            f"{torch.version.cuda}"
        )
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        raise BackendUnavailableError(f"PyTorch {torch.__version__} cannot use {card.name}: {error}") from error
    return card


def describe_device(find: Callable[[], Card] = find_card) -> str:
    """The card in words, `NO_DEVICE` where there is none: what was compiled there is filed under that."""
    try:
        return str(find())
    except BackendUnavailableError:
        return NO_DEVICE


def _import_torch() -> Any:
    import torch

    return torch


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
