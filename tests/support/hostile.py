"""Files made to do harm, and a trap for what they would call."""

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support import clips

SECRET = "the-secret-of-the-house"

_DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{remote}/clip.mp4</BaseURL>'
    "<SegmentBase/></Representation></AdaptationSet></Period></MPD>"
)

PLAYLISTS = {
    "ffconcat": "ffconcat version 1.0\nfile '{local}'\n",
    "ffconcat of a host": "ffconcat version 1.0\nfile '{remote}/clip.mp4'\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-VERSION:3\n#EXTINF:1,\n{local}\n#EXT-X-ENDLIST\n",
    "hls of a host": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{remote}/1.ts\n#EXT-X-ENDLIST\n",
    "hls with a key": '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="{remote}/key"\n#EXTINF:1,\n{local}\n',
    "hls master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{remote}/other.m3u8\n",
    "dash": _DASH,
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "text": SECRET + "\n" * 100,
    "nothing": "",
}
"""Playlists by their kinds: to be filled in with `local`, a file, and `remote` and `port` of a canary."""


def playlist(name: str, local: Path, port: int) -> bytes:
    """One of PLAYLISTS, pointing at a file and at a port of the loopback interface."""
    return PLAYLISTS[name].format(local=local, remote=f"http://127.0.0.1:{port}", port=port).encode()


@contextmanager
def canary() -> Iterator[tuple[int, list[bytes]]]:
    """A port of the loopback interface, TCP and UDP, and what came in there until the end of the block."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        port = listener.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))
        for trap in (listener, datagrams):
            trap.setblocking(False)
        yield port, seen
        with suppress(BlockingIOError):
            seen.append(repr(listener.accept()[1]).encode())
        with suppress(BlockingIOError):
            seen.append(datagrams.recv(2048))


def with_streams(path: Path, count: int) -> Path:
    """A clip whose video track is there `count` times more."""
    data = clips.write(path).read_bytes()
    moov, trak = data.index(b"moov") - 4, data.index(b"trak") - 4
    (moov_size,), (trak_size,) = struct.unpack(">I", data[moov : moov + 4]), struct.unpack(">I", data[trak : trak + 4])
    tracks = data[trak : trak + trak_size] * (count + 1)
    header = struct.pack(">I", moov_size + count * trak_size)
    path.write_bytes(data[:moov] + header + data[moov + 4 : trak] + tracks + data[trak + trak_size :])
    return path


def damaged(data: bytes, dice: random.Random) -> bytes:
    """A file cut off somewhere, or with some bits flipped, most of them where its structure is."""
    if dice.random() < 0.3:
        return data[: dice.randrange(1, len(data))]
    changed = bytearray(data)
    region = dice.choice([len(data), min(len(data), 600), -min(len(data), 2000)])
    for _ in range(dice.choice([1, 4, 30])):
        place = dice.randrange(abs(region)) + (len(data) + region if region < 0 else 0)
        changed[place] ^= 1 << dice.randrange(8)
    return bytes(changed)
