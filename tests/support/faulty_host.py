"""An engine host in this process whose device has memory for one frame a call, and for none that begins with 66."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import engines.host
from engines.host import Host, HostOptions
from engines.runner import DeviceMemoryError, Frame, Graphs, Plane


class SmallDevice:
    """Paints every frame in the value of its first byte."""

    def infer(self, frames: Sequence[Frame]) -> None:
        first = frames[0].inputs[0].flat[0]
        if len(frames) > 1 or first == 66:
            raise DeviceMemoryError("the card has no memory for these frames")
        frames[0].outputs[0][...] = first

    def pin(self, memory: Plane) -> None: ...

    def unpin(self, memory: Plane) -> None: ...

    def close(self) -> None: ...


@contextmanager
def faulty_host(catalogue: dict[str, Graphs], folder: Path) -> Iterator[str]:
    """Its address."""
    host, address = Host(catalogue, HostOptions(1, "openvino", "fp32")), str(folder / "engine")
    with pytest.MonkeyPatch.context() as patch, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        for opens in ("open_at_once", "open_runner"):
            patch.setattr(engines.host, opens, lambda backend, spec: SmallDevice())
        listener.bind(address)
        listener.listen()
        serving = threading.Thread(target=host.serve, args=(listener,))
        serving.start()
        yield address
        listener.shutdown(socket.SHUT_RDWR)
        serving.join()
    host.scheduler.close()
