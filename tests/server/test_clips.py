"""Real clips, scaled down by 4 and brought back: every frame, the same duration, the network's own picture."""

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from engines.backends import find_backend
from models.colour import Colour
from models.evaluation.metrics import luma, psnr
from models.video_io import YuvToRgb
from server.media.decode import DecodedFrame, VideoSource
from tests.support.engines import run, spec_of

CLIPS = (
    "animation_sintel_480p25",
    "game_tinyarena_540p",
    "game_xonotic_item_1080p60",
    "natural_blocks_720p30",
    "natural_dog_720p30",
    "natural_flower_720p30",
    "natural_juggle_720p24",
    "natural_rollercoaster_540p24",
    "natural_street_1080p30",
)


def scaled_down(source: Path, target: Path) -> None:
    """A quarter of the size, cropped to multiples of 8, time stamps kept."""
    with av.open(str(source)) as large, av.open(str(target), "w") as small:
        video = large.streams.video[0]
        video.thread_type = "AUTO"
        stream = small.add_stream("libx264", rate=video.average_rate, options={"crf": "20", "preset": "ultrafast"})
        stream.width, stream.height = (side // 4 // 8 * 8 for side in (video.width, video.height))
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", video.time_base
        for frame in large.decode(video):
            quarter = frame.reformat(video.width // 4, video.height // 4, "yuv420p", interpolation="AREA")
            planes = [np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size) for plane in quarter.planes]
            parts = [
                plane[: stream.height // step, : stream.width // step] for plane, step in zip(planes, (1, 2, 2), strict=True)
            ]
            cropped = np.concatenate([part.ravel() for part in parts]).reshape(-1, stream.width)
            part = av.VideoFrame.from_ndarray(cropped, "yuv420p")
            part.pts, part.time_base = frame.pts, frame.time_base
            small.mux(stream.encode(part))
        small.mux(stream.encode(None))


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return sorted(p.pts * stream.time_base for p in container.demux(stream) if p.pts is not None)


@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_of_a_real_clip(data: Path, tmp_path: Path, name: str) -> None:
    small, large = tmp_path / "small.mp4", tmp_path / "large.mp4"
    scaled_down(data / "video" / f"{name}.mp4", small)
    command = [sys.executable, "-m", "server.cli", "video", str(small), str(large), "--preset", "ultrafast", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    before, after = times(small), times(large)
    assert figures["frames_in"] == figures["frames_out"] == len(before) == len(after)
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) <= Fraction(1, 1000)
    assert figures["output"]["width"] == 4 * figures["input"]["width"]
    assert figures["output"]["height"] == 4 * figures["input"]["height"]
    with av.open(str(small)) as a, av.open(str(large)) as b:
        assert a.duration is not None and b.duration is not None
        assert abs(a.duration - b.duration) <= 1000  # microseconds


@pytest.mark.parametrize("name", ["natural_rollercoaster_540p24", "game_tinyarena_540p"])
def test_yuv_path_gives_the_picture_of_the_rgb_path(data: Path, name: str) -> None:
    """The fastest floating-point precision against FP32 RGB, the same chroma upsampling in front: PSNR-Y of at least 45 dB."""
    with VideoSource(data / "video" / f"{name}.mp4") as source:
        frame = next(item for item in source.read() if isinstance(item, DecodedFrame))
        y, u, v = (
            np.ascontiguousarray(plane[: 256 // s, : 256 // s]) for plane, s in zip(frame.planes, (1, 2, 2), strict=True)
        )
    colour = Colour("bt601", "limited")  # which is also how `luma` weighs
    precision = next(iter(find_backend("openvino").precisions()))
    spec = replace(spec_of("xlsr", 4, "yuv420", 256, 256), colour=colour, precision=precision)
    yuv = run("openvino", spec, (y, u, v))
    planes = [torch.from_numpy(plane.copy())[None, None] for plane in (y, u, v)]
    rgb = YuvToRgb()(*planes, torch.from_numpy(colour.yuv_to_rgb()))[0].clamp(0, 1)
    picture = (rgb * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    (result,) = run("openvino", spec_of("xlsr", 4, "rgb", 256, 256), (picture,))
    assert psnr(yuv[0].astype(float), luma(result)) >= 45
