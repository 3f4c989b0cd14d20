"""Runs files through source and sink, and reads back what came out."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from server.media.decode import DecodedFrame, VideoSource
from server.media.encode import EncoderSettings, VideoSink

SCALE = 4


def enlarged(frame: DecodedFrame) -> Any:
    """The picture with every pixel four times four, as I420."""
    height, width = frame.planes[0].shape
    planes = [plane.repeat(SCALE, 0).repeat(SCALE, 1).ravel() for plane in frame.planes]
    return np.concatenate(planes).reshape(height * SCALE * 3 // 2, width * SCALE)


def convert(source_path: Path, target: Path, **settings: Any) -> list[str]:
    """Enlarges a file; the notes of both ends."""
    with VideoSource(source_path) as source:
        size = source.width * SCALE, source.height * SCALE
        with VideoSink(target, source, *size, EncoderSettings(**settings)) as sink:
            for event in source.read():
                if isinstance(event, DecodedFrame):
                    sink.encode(enlarged(event), event.pts, event.duration)
                else:
                    sink.copy(event)
        return source.notes + sink.notes


def frames_of(path: Path) -> list[DecodedFrame]:
    """All frames of a file, through our source."""
    with VideoSource(path) as source:
        return [event for event in source.read() if isinstance(event, DecodedFrame)]


@dataclass
class Packets:
    """The packets of one stream: bytes, and seconds."""

    data: list[bytes]
    times: list[Fraction]


def packets_of(path: Path, kind: str) -> Packets:
    """The packets of the first stream of a kind, in order of presentation, through PyAV alone."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        packets = [p for p in container.demux(stream) if p.size]
        packets.sort(key=lambda p: p.pts or 0)
        return Packets([bytes(p) for p in packets], [(p.pts or 0) * p.time_base for p in packets])
