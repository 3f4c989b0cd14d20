"""Networks and peers that misbehave: a TCP proxy that delays, throttles, stalls and cuts, and a server that never speaks."""

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path

import pytest

CHUNK_BYTES = 16384  # read at once; kernel and stream buffers are kept small, too, so that a stall is felt soon


class Proxy:
    """Stands before a TCP server of the loopback interface. Its faults may be set and taken back at any time.

    Attributes:
        port: to connect to.
        delay_seconds: that each byte takes longer, in both directions.
        bytes_per_second: that pass towards the server, and as many back; None: all.
    """

    def __init__(self, target_port: int, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        """Args:
        target_port: of the server.
        port: to listen at; 0: any.
        context: for encrypted connections to the proxy; those to the server are plain.
        """
        self._context = context
        self.delay_seconds = 0.0
        self.bytes_per_second: float | None = None
        self._target_port, self._stalled, self._down = target_port, False, False
        self._pairs: set[asyncio.StreamWriter] = set()
        self._socket = socket.create_server(("127.0.0.1", port))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK_BYTES)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def stall(self) -> None:
        """Reads nothing any more from either side; connections stay."""
        self._stalled = True

    def resume(self) -> None:
        self._stalled = False

    def cut(self) -> None:
        """Resets every connection; new ones are taken."""
        self._call(self._cut())

    def down(self) -> None:
        """Cuts, and closes new connections at once, until `up`."""
        self._down = True
        self.cut()

    def up(self) -> None:
        self._down = False

    async def _serve(self) -> None:
        self._server = await asyncio.start_server(self._connected, sock=self._socket, limit=CHUNK_BYTES, ssl=self._context)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._pairs.add(writer)
        try:
            if self._down:
                return
            with suppress(OSError):
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port, limit=CHUNK_BYTES)
                self._pairs.add(server_writer)
                await asyncio.gather(self._pump(reader, server_writer), self._pump(server_reader, writer))
        finally:
            writer.transport.abort()
            self._pairs.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, until either end is closed; then the other direction's reader sees its end."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        sending = asyncio.ensure_future(self._send(waiting, writer))
        try:
            data = b" "
            while data:
                while self._stalled:
                    await asyncio.sleep(0.01)
                data = await reader.read(CHUNK_BYTES)
                await waiting.put((self._loop.time() + self.delay_seconds, data))
            await sending
        finally:
            sending.cancel()
            self._pairs.discard(writer)
            writer.close()

    async def _send(self, waiting: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await waiting.get()
            if not data:
                return
            await asyncio.sleep(due - self._loop.time())
            with suppress(OSError):  # gone; the reader of the other direction finds out
                writer.write(data)
                await writer.drain()
            if self.bytes_per_second:
                await asyncio.sleep(len(data) / self.bytes_per_second)

    async def _cut(self) -> None:
        for writer in list(self._pairs):
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await task

    def _call(self, work: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._call(self._serve())
        return self

    def __exit__(self, *exception: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SilentServer:
    """Accepts every connection, and never reads or says anything: an RTMP client waits for its handshake."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def connections(self) -> int:
        """So many came so far."""
        return len(self._open)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._open.append(self._listener.accept()[0])

    def __enter__(self) -> "SilentServer":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends accept
        self._thread.join()
        for each in (self._listener, *self._open):
            each.close()


def certificate(folder: Path, names: str) -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key. Args: names: as openssl has them, such as DNS:localhost."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl here; `make system` installs it")
    cert, key = folder / "cert.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    name = ["-subj", "/CN=localhost", "-addext", f"subjectAltName={names}"]
    subprocess.run([*make, *name, "-keyout", str(key), "-out", str(cert)], capture_output=True, check=True)
    return cert, key
