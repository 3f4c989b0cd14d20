"""The bytes of FLV streams from and to RTMP servers, by FFmpeg's protocol alone: its `data` format passes them on as they are.

Whoever opens a target may be stuck in it for ever, interpreter and all: a server that accepts and says nothing is not given
up by FFmpeg. So `server.streams.egress` does that, in a process that can be killed. Knows nothing of what is in the bytes.
"""

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from server.media.errors import MediaError, UnreadableError

CHUNK_BYTES = 1 << 16
"""That are read at once, at most."""

_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
"""Where systems keep whom they trust: FFmpeg's own build does not know."""


class AwayError(MediaError):
    """A source is not there, or went away.

    Attributes:
        reason: in a word: timeout, unreachable, ended, unreadable.
        final: it makes no sense to connect again.
    """

    def __init__(self, reason: str, problem: str, final: bool = False) -> None:
        super().__init__(problem)
        self.reason, self.final = reason, final


class RtmpSource:
    """A stream that is played from a server; a context manager. One thread owns it."""

    def __init__(self, url: str, address: str | None, timeout_seconds: float) -> None:
        """Connects.

        Args:
            url: of the stream.
            address: the IP address to connect to, in place of the URL's host.
            timeout_seconds: for the connection, and then without a byte.

        Raises:
            AwayError: there is no such server, or it says no.
        """
        options = {"raw_packet_size": str(CHUNK_BYTES), **_options(url, address)}
        timeouts = (timeout_seconds, timeout_seconds)
        try:
            self._container = av.open(_pinned(url, address), format="data", options=options, timeout=timeouts)
        except av.ExitError as error:
            raise AwayError("timeout", f"the source did not answer for {timeout_seconds:g} s") from error
        except (av.FFmpegError, OSError) as error:
            raise AwayError("unreachable", "the source cannot be played") from error
        assert isinstance(self._container, InputContainer)

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they come.

        Raises:
            AwayError: the stream ended, or nothing came for too long.
        """
        try:
            for packet in self._container.demux():
                if packet.size:
                    yield bytes(packet)
        except av.ExitError as error:
            raise AwayError("timeout", "the source sends nothing any more") from error
        except (av.FFmpegError, OSError):
            pass  # a clean end and a broken connection look the same
        raise AwayError("ended", "the source has ended")

    def close(self) -> None:
        self._container.close()


class RtmpTarget:
    """A stream that is published at a server. Every call may last for ever."""

    def __init__(self, url: str, address: str | None) -> None:
        """Does not connect yet; see `RtmpSource`."""
        container = av.open(_with_options(_pinned(url, address), _options(url, address)), "w", format="tee")
        assert isinstance(container, OutputContainer)
        self._container, self._stream, self._count = container, container.add_data_stream(), 0

    def write(self, data: bytes) -> None:
        """Sends whole tags; the first ones, after the header of the file, connect.

        Raises:
            UnreadableError: the server cannot be reached, says no or is gone.
        """
        packet: Packet[Any] = Packet(data)
        packet.stream, packet.pts, packet.dts = self._stream, self._count, self._count
        self._count += 1
        try:
            self._container.mux_one(packet)
        except (av.FFmpegError, OSError) as error:
            raise UnreadableError("the target does not take the stream") from error

    def close(self) -> None:
        """Says goodbye."""
        with suppress(av.FFmpegError, OSError):  # it is gone already
            self._container.close()


def _pinned(url: str, address: str | None) -> str:
    """The URL with the address in the place of its host: nobody looks the name up again."""
    parts = urlsplit(url)
    if address is None:
        return url
    host = f"[{address}]" if ":" in address else address
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit(parts._replace(netloc=f"{user}{host}{port}"))


def _options(url: str, address: str | None) -> dict[str, str]:
    """What FFmpeg's protocols are told: nothing waits until a packet is full; the server hears the name that it was asked by,
    as one machine may serve many; and an encrypted one has to prove that name.
    """
    parts = urlsplit(url)
    options = {"tcp_nodelay": "1"}
    if parts.scheme == "rtmps":
        options |= {"tls_verify": "1", "verifyhost": parts.hostname or ""}
        if authorities := next(filter(os.path.exists, (ssl.get_default_verify_paths().cafile or "", *_AUTHORITIES)), None):
            options["ca_file"] = authorities
    if address is not None:
        names = parts.path.strip("/").split("/")
        # as FFmpeg cuts the path: an application, perhaps an instance of it
        application = "/".join(names[: max(1, min(2, len(names) - 1))])
        options["rtmp_tcurl"] = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{application}"
    return options


def _with_options(url: str, options: dict[str, str]) -> str:
    """The name under which FFmpeg's `tee` writes to a URL: PyAV has no other way to give options to a protocol that writes."""
    given = ":".join(f"{name}={_escaped(value, ':]')}" for name, value in options.items())
    return _escaped(f"[f=data:{given}]{url}", "|")


def _escaped(text: str, special: str) -> str:
    return re.sub(rf"[\\'\s{re.escape(special)}]", r"\\\g<0>", text)
