"""Messages between the api process and a worker: whole, in order, bounded, and never more in memory than was agreed."""

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from server.streams import wire
from server.streams.wire import AsyncChannel, Channel, Kind, WireError

Body = Callable[[AsyncChannel, Channel], Awaitable[None]]


def over_a_socketpair(body: Body) -> None:
    """Runs `body` with both ends of a wire; closes them after it."""

    async def run() -> None:
        ours, theirs = socket.socketpair()
        api, worker = await AsyncChannel.open(ours), Channel(theirs)
        try:
            await asyncio.wait_for(body(api, worker), 60)
        finally:
            await api.aclose()
            worker.close()

    asyncio.run(run())


def received(worker: Channel) -> tuple[Kind, bytes]:
    kind, payload = worker.receive() or pytest.fail("nothing came")
    return kind, bytes(payload)


def test_what_is_sent_arrives_both_ways() -> None:
    async def body(api: AsyncChannel, worker: Channel) -> None:
        await api.send_json({"name": "Größe", "n": 1})
        await api.send_frame(b"ab", memoryview(b"cd"), b"")
        await api.send_frame()
        kind, payload = received(worker)
        assert (kind, json.loads(payload)) == (Kind.JSON, {"name": "Größe", "n": 1})
        assert received(worker) == (Kind.FRAME, b"abcd")
        assert received(worker) == (Kind.FRAME, b"")
        worker.send_json({"answer": None})
        worker.send_frame(b"x", memoryview(b"yz"))
        assert await api.receive() == (Kind.JSON, b'{"answer": null}')
        assert await api.receive() == (Kind.FRAME, b"xyz")

    over_a_socketpair(body)


def test_large_messages_of_several_threads_stay_whole() -> None:
    size, messages, threads = 700_001, 5, 4

    async def body(api: AsyncChannel, worker: Channel) -> None:
        def send(number: int) -> None:
            half = memoryview(bytes([number]) * size)
            for _ in range(messages):
                worker.send_frame(half, half)

        senders = [threading.Thread(target=send, args=(number,)) for number in range(threads)]
        for sender in senders:
            sender.start()
        seen = [(await api.receive() or pytest.fail("ended early"))[1] for _ in range(messages * threads)]
        assert all(len(payload) == 2 * size and len(set(payload)) == 1 for payload in seen)
        assert sorted(payload[0] for payload in seen) == sorted(list(range(threads)) * messages)
        for sender in senders:
            sender.join()

    over_a_socketpair(body)


def test_a_worker_that_does_not_read_holds_the_sender_back() -> None:
    async def body(api: AsyncChannel, worker: Channel) -> None:
        sent = 0

        async def send() -> None:
            nonlocal sent
            while sent < 1000:
                await api.send_frame(bytes(100_000))
                sent += 1

        sending = asyncio.create_task(send())
        await asyncio.sleep(0.3)
        assert sent < 20  # what a socket and a small buffer take
        for _ in range(1000):
            assert await asyncio.to_thread(worker.receive)
        await sending

    over_a_socketpair(body)


@pytest.mark.parametrize("half_sent", [b"", b"\x05", struct.pack("<IB", 100, 1) + b"only some"])
def test_the_end_of_the_other_side_is_none_also_in_the_middle_of_a_message(half_sent: bytes) -> None:
    async def body(api: AsyncChannel, worker: Channel) -> None:
        worker._socket.sendall(half_sent)
        worker.close()
        assert await api.receive() is None
        with pytest.raises(ConnectionError):
            for _ in range(100):
                await api.send_frame(bytes(100_000))

    over_a_socketpair(body)


def test_a_worker_sees_that_the_api_is_gone() -> None:
    async def body(api: AsyncChannel, worker: Channel) -> None:
        await api.aclose()
        assert worker.receive() is None
        with pytest.raises(OSError):
            worker.send_json({})

    over_a_socketpair(body)


@pytest.mark.parametrize("header", [struct.pack("<IB", 0xFFFFFFFF, 1), struct.pack("<IB", 1, 7)])
def test_what_is_no_message_is_refused_before_memory_is_taken(header: bytes) -> None:
    async def body(api: AsyncChannel, worker: Channel) -> None:
        api._protocol._transport.write(header)
        with pytest.raises(WireError):
            worker.receive()
        worker._socket.sendall(header)
        with pytest.raises(WireError):
            await api.receive()

    over_a_socketpair(body)


def test_a_message_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_MESSAGE_BYTES", 10)

    async def body(api: AsyncChannel, worker: Channel) -> None:
        sends: list[Any] = [api.send_frame, worker.send_frame]
        for send in sends:
            with pytest.raises(WireError, match="11 bytes"):
                await send(b"12345", b"678901")
        await api.send_frame(b"0123456789")
        assert received(worker) == (Kind.FRAME, b"0123456789")

    over_a_socketpair(body)
