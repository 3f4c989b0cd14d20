"""The engine process: many clients, each in memory of its own, and what happens when one side goes."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

import engines.host
from engines.client import EngineProcess, RemoteEngine, read_stats
from engines.host import EngineRequest, Host, HostOptions
from engines.runner import BackendUnavailableError, DeviceMemoryError, EngineDeadError, Frame, Graphs, LateError, Planes
from models.colour import Colour
from models.registry import Form
from server.catalogue import find_graphs
from tests.support.engines import picture_planes, run, spec_of
from tests.support.faulty_host import SmallDevice, faulty_host

COLOUR = Colour("bt709", "limited")


def catalogue() -> dict[str, Graphs]:
    forms: tuple[Form, ...] = ("rgb", "yuv420")
    return {f"{name}-x4-{form}": find_graphs(name, 4, form)[1] for name in ("xlsr", "bicubic") for form in forms}


@pytest.fixture(scope="module")
def process() -> Iterator[EngineProcess]:
    with EngineProcess(catalogue(), HostOptions(2, "openvino", "fp32")) as running:
        yield running


def request(width: int = 32, height: int = 24, graphs: str = "xlsr-x4-yuv420", slots: int = 4) -> EngineRequest:
    return EngineRequest(graphs, width, height, COLOUR if graphs.endswith("yuv420") else None, "latency", slots)


def upscale(engine: RemoteEngine, inputs: Planes) -> Planes:
    slot = engine.pool.acquire()
    for plane, values in zip(slot.inputs, inputs, strict=True):
        plane[...] = values
    assert engine.submit(slot).result(60) > 0
    outputs = tuple(plane.copy() for plane in slot.outputs)
    engine.pool.release(slot)
    return outputs


@pytest.mark.parametrize("form", ["rgb", "yuv420"])
def test_clients_get_the_pictures_that_a_runner_gives(process: EngineProcess, form: Form) -> None:
    inputs = picture_planes(form, 24, 32)
    expected = run("openvino", spec_of("xlsr", 4, form, 32, 24), inputs)
    for lasting in (True, False):
        with RemoteEngine(process.address, replace(request(graphs=f"xlsr-x4-{form}"), lasting=lasting)) as engine:
            assert (engine.ready.backend, engine.ready.precision, engine.ready.scale) == ("openvino", "fp32", 4)
            for ours, theirs in zip(upscale(engine, inputs), expected, strict=True):
                assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_many_clients_at_once_each_see_their_own_frames(process: EngineProcess) -> None:
    failures = []

    def client(number: int) -> None:
        size = (32 + 2 * (number % 3), 24)
        inputs = picture_planes("yuv420", size[1], size[0])
        for plane, level in zip(inputs, (16 + 20 * number, 128, 128), strict=True):
            plane[...] = level
        with RemoteEngine(process.address, request(*size, "bicubic-x4-yuv420")) as engine:
            for _ in range(20):
                luma = upscale(engine, inputs)[0]
                if np.abs(luma.astype(int) - (16 + 20 * number)).max() > 1:
                    failures.append(number)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


def test_what_is_not_served_is_refused_with_what_is(process: EngineProcess) -> None:
    with pytest.raises(BackendUnavailableError, match=r"esrgan-x4-rgb is not served here; there is bicubic-x4-rgb"):
        RemoteEngine(process.address, request(graphs="esrgan-x4-rgb"))
    with pytest.raises(BackendUnavailableError, match="at most 64 slots"):
        RemoteEngine(process.address, request(slots=65))
    with pytest.raises(BackendUnavailableError, match="too much memory"):
        RemoteEngine(process.address, request(60_000, 60_000))


def test_a_late_frame_is_not_computed_where_it_may_be_dropped(process: EngineProcess) -> None:
    with RemoteEngine(process.address, request()) as engine:
        slot = engine.pool.acquire()
        with pytest.raises(LateError):
            engine.submit(slot, time.monotonic() - 1, droppable=True).result(30)
        assert engine.submit(slot, time.monotonic() - 1).result(30) > 0


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"open": 1}',
        b'{"open": {"graphs": "xlsr-x4-rgb"}}',
        b'{"open": {"colour": 7}}',
        b"{" * 4000,
    ],
)
def test_nonsense_costs_the_connection_and_nothing_else(process: EngineProcess, message: bytes) -> None:
    with RemoteEngine(process.address, request()) as bystander:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(10)
            connection.connect(process.address)
            connection.send(message)
            if message:
                assert connection.recv(100) == b""
        upscale(bystander, picture_planes("yuv420", 24, 32))


@pytest.mark.parametrize("number", [-1, 4, 10**9, "x", None])
def test_a_slot_that_is_none_costs_the_connection(process: EngineProcess, number: object) -> None:
    with RemoteEngine(process.address, request()) as engine:
        pending = engine.submit(engine.pool.slots[0])
        engine._socket.send(json.dumps({"frame": number, "due": None, "droppable": False}).encode())
        engine._reader.join(10)
        assert not engine._reader.is_alive()
        if not isinstance(pending.exception(10), EngineDeadError):
            assert pending.result() > 0
        with pytest.raises(EngineDeadError):
            engine.submit(engine.pool.slots[1])


def test_a_client_that_vanishes_leaves_nothing_behind(process: EngineProcess) -> None:
    with RemoteEngine(process.address, request()) as bystander:
        inputs = picture_planes("yuv420", 24, 32)
        upscale(bystander, inputs)
        before = descriptors(process.pid)
        for _ in range(30):
            engine = RemoteEngine(process.address, request(64, 48))
            for slot in engine.pool.slots:
                engine.submit(slot)
            engine.close()
        upscale(bystander, inputs)
        deadline = time.monotonic() + 20
        while descriptors(process.pid) > before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert descriptors(process.pid) <= before


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_its_memory_cannot_be_shrunk_under_it(process: EngineProcess) -> None:
    with RemoteEngine(process.address, request()) as engine, pytest.raises(PermissionError):
        os.ftruncate(engine.pool.descriptor, 0)


def test_it_says_how_busy_it_is(process: EngineProcess) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(process.address)
        before = read_stats(connection)
        with RemoteEngine(process.address, request()) as engine:
            upscale(engine, picture_planes("yuv420", 24, 32))
        after = read_stats(connection)
    assert after["queue_frames"] == 0
    assert after["batches"]["1"] == before["batches"].get("1", 0) + 1


def test_when_it_is_killed_clients_know_at_once_and_can_come_back() -> None:
    with EngineProcess(catalogue(), HostOptions(1, "openvino", "fp32")) as process:
        with RemoteEngine(process.address, request(graphs="bicubic-x4-yuv420")) as engine:
            os.kill(process.pid, signal.SIGSTOP)
            held = engine.submit(engine.pool.acquire())
            os.kill(process.pid, signal.SIGKILL)
            with pytest.raises(EngineDeadError):
                held.result(30)
            with pytest.raises(EngineDeadError):
                engine.submit(engine.pool.acquire())
        assert process.wait(10) == -signal.SIGKILL
        with pytest.raises(EngineDeadError):
            RemoteEngine(process.address, request())
        process.start()
        with RemoteEngine(process.address, request(graphs="bicubic-x4-yuv420")) as engine:
            upscale(engine, picture_planes("yuv420", 24, 32))


def test_a_process_that_cannot_start_says_why() -> None:
    process = EngineProcess(catalogue(), HostOptions(1, "tensorrt"))
    with pytest.raises(BackendUnavailableError, match="NVIDIA"):
        process.start()
    process.close()


def test_a_network_that_cannot_be_compiled_is_refused_and_the_others_are_served(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph")
    graphs = catalogue()
    graphs["broken"] = replace(graphs["xlsr-x4-rgb"], files={"fp32": broken})
    with EngineProcess(graphs, HostOptions(1, "openvino", "fp32")) as process:
        with pytest.raises(BackendUnavailableError, match=r"broken\.onnx"):
            RemoteEngine(process.address, request(graphs="broken"))
        with RemoteEngine(process.address, request(graphs="xlsr-x4-rgb")) as engine:
            upscale(engine, picture_planes("rgb", 24, 32))


def test_without_memory_for_a_batch_frames_are_tried_alone_and_failures_are_told_by_kind(tmp_path: Path) -> None:
    with (
        faulty_host(catalogue(), tmp_path) as address,
        RemoteEngine(address, request(graphs="bicubic-x4-yuv420")) as engine,
    ):
        for slot, value in zip(engine.pool.slots, (1, 66, 3, 4), strict=True):
            slot.inputs[0][...] = value
        futures = [engine.submit(slot) for slot in engine.pool.slots]
        failures = [type(future.exception(10)) for future in futures]
        assert failures == [type(None), DeviceMemoryError, type(None), type(None)]
        assert [int(slot.outputs[0][0, 0]) for slot in engine.pool.slots if slot.number != 1] == [1, 3, 4]


def test_runners_are_shared_and_those_that_nobody_uses_are_few() -> None:
    host = Host(catalogue(), HostOptions(1, "openvino", "fp32"))
    opened = []
    for width in range(16, 48, 2):
        key, station, _ = host.open(request(width, 16, "bicubic-x4-yuv420"))
        same, again, _ = host.open(request(width, 16, "bicubic-x4-yuv420"))
        assert again is station
        opened += [key, same]
    for key in opened:
        host.stations.release(key)
    assert len(host.stations._opened) == 8
    host.scheduler.close()


class LostDevice(SmallDevice):
    """Says of every frame that the device is gone, as a card does after an error that sticks."""

    def infer(self, frames: Sequence[Frame]) -> None:
        raise EngineDeadError("the card does not answer any more")


def host_with_a_lost_device(address: str, started: Connection) -> None:
    engines.host.open_at_once = lambda backend, spec: LostDevice()  # in a process of its own
    engines.host.run(address, catalogue(), HostOptions(1, "openvino", "fp32"), started)


def test_a_lost_device_ends_the_process_and_every_client_knows(tmp_path: Path) -> None:
    context, address = multiprocessing.get_context("spawn"), str(tmp_path / "engine")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=host_with_a_lost_device, args=(address, theirs), daemon=True)
    process.start()
    assert ours.recv() is None
    with RemoteEngine(address, request()) as bystander, RemoteEngine(address, request()) as engine:
        with pytest.raises(EngineDeadError):
            engine.submit(engine.pool.slots[0]).result(30)
        process.join(30)
        assert process.exitcode == engines.host.DEAD_EXIT
        with pytest.raises(EngineDeadError):
            bystander.submit(bystander.pool.slots[0]).result(30)
