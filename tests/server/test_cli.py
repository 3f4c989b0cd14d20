"""The command line as a user meets it: what is written, what is printed where, and the exit codes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.evaluation.metrics import luma
from server.media.frames import read_picture, write_clip
from tests.support.runs import draw_pictures

FOURFOLD = (sys.executable, "-m", "server.cli")
WIDTH, HEIGHT, FRAMES = 64, 48, 12


def fourfold(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*FOURFOLD, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False)


def pictures(frames: int = FRAMES) -> list[np.ndarray]:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [128 + 60 * np.sin(rows / 6 + i / 3) + 50 * np.cos(columns / 5 - i / 2) for i in range(frames)]
    return [np.stack([wave, 255 - wave, wave / 2], axis=-1).astype(np.uint8) for wave in waves]


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_clip(path, pictures(), 25)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".flv"])
def test_video_writes_every_frame_four_times_larger(clip: Path, suffix: str) -> None:
    result = fourfold("video", clip, clip.with_name("out" + suffix), "--json")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert (figures["frames_in"], figures["frames_out"], figures["frames_dropped"]) == (FRAMES, FRAMES, 0)
    assert (figures["output"]["width"], figures["output"]["height"]) == (4 * WIDTH, 4 * HEIGHT)
    assert figures["stages_ms"].keys() == {"decode", "infer", "encode"}
    assert read_picture(clip.with_name("out" + suffix), FRAMES - 1).shape == (4 * HEIGHT, 4 * WIDTH, 3)


def test_result_looks_like_the_source(clip: Path) -> None:
    assert fourfold("video", clip, clip.with_name("out.mp4"), "--quiet").returncode == 0
    small, large = read_picture(clip, 5), read_picture(clip.with_name("out.mp4"), 5)
    averaged = large.reshape(HEIGHT, 4, WIDTH, 4, 3).mean(axis=(1, 3))
    assert np.abs(luma(averaged) - luma(small)).mean() < 2
    assert np.abs(averaged - small).mean(axis=(0, 1)).max() < 6  # reading the clip repeats chroma samples, we interpolate them


def test_engine_process_gives_the_same_file(clip: Path) -> None:
    here, there = clip.with_name("here.mkv"), clip.with_name("there.mkv")
    assert fourfold("video", clip, here, "--quiet").returncode == 0
    assert fourfold("video", clip, there, "--quiet", "--engine-process").returncode == 0
    for number in (0, FRAMES - 1):
        assert np.array_equal(read_picture(here, number), read_picture(there, number))


@pytest.mark.parametrize(
    ("scale", "height", "expected"), [("2", None, (96, 128)), ("3", None, (144, 192)), ("4", "96", (96, 128))]
)
def test_scale_and_height(clip: Path, scale: str, height: str | None, expected: tuple[int, int]) -> None:
    extra = ["--height", height] if height else []
    assert fourfold("video", clip, clip.with_name("out.mp4"), "--scale", scale, "--quiet", *extra).returncode == 0
    assert read_picture(clip.with_name("out.mp4"), 0).shape[:2] == expected


@pytest.mark.parametrize(("name", "content", "arguments", "words"), [
    ("missing.mp4", None, (), "missing.mp4"),
    ("text.mp4", b"just text\n" * 50, (), "text.mp4"),
    ("list.mp4", b"ffconcat version 1.0\nfile other.mp4\n", (), "list.mp4"),
    ("playlist.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nother.ts\n#EXT-X-ENDLIST\n", (), "playlist.mp4"),
])  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, name: str, content: bytes | None, arguments: tuple[str, ...], words: str
) -> None:
    source = tmp_path / name
    if content is not None:
        source.write_bytes(content)
    before = set(tmp_path.iterdir())
    result = fourfold("video", source, tmp_path / "out.mp4", *arguments)
    assert result.returncode == 1
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("arguments", "words"), [
    (("--encoder", "mpeg1"), "libx264"),
    (("--encoder", "h264_nvenc"), "driver"),
    (("--model", "nope"), "there are xlsr (x4)"),
    (("--model", "nowhere.safetensors"), "does not exist"),
    (("--engine", "abacus"), "openvino"),
    (("--precision", "fp16"), "openvino cannot run xlsr-x4 in fp16 here; it can in"),
])  # fmt: skip
def test_wrong_choices_say_what_there_is(clip: Path, arguments: tuple[str, ...], words: str) -> None:
    result = fourfold("video", clip, clip.with_name("out.mp4"), "--quiet", *arguments)
    assert result.returncode == 1
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not clip.with_name("out.mp4").exists()


def test_truncated_file_is_refused(clip: Path) -> None:
    clip.write_bytes(clip.read_bytes()[:-400])
    result = fourfold("video", clip, clip.with_name("out.mp4"))
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert not clip.with_name("out.mp4").exists()


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)])
def test_killed_half_way_leaves_no_output(tmp_path: Path, name: str, code: int) -> None:
    import signal

    source, target = tmp_path / "long.mp4", tmp_path / "out.mp4"
    write_clip(source, pictures(200) * 5, 25)
    heeding = ("env", "--default-signal=INT")  # who runs the suite in the background ignores it, and so would a child
    with subprocess.Popen([*heeding, *FOURFOLD, "video", source, target, "--quiet"], stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not any(".partial" in p.name and p.stat().st_size > 1000 for p in tmp_path.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(getattr(signal, name))
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in errors
    assert not target.exists()
    if name != "SIGKILL":
        assert [p.name for p in tmp_path.iterdir()] == ["long.mp4"]


def test_wrong_usage_exits_with_2(clip: Path) -> None:
    assert fourfold("video", clip).returncode == 2
    assert fourfold("video", clip, "out.mp4", "--scale", "9").returncode == 2
    assert fourfold("build", "xlsr", "--size", "big").returncode == 2


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    result = fourfold("--help")
    assert result.returncode == 0
    for command in ("video", "image", "demo", "models", "engines", "evaluate", "evaluate-video", "train", "build", "bench"):
        assert command in result.stdout
    heavy = (
        "import sys, server.cli; print([m for m in ('numpy', 'av', 'openvino', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_serving_needs_no_torch(clip: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = sys.modules['safetensors'] = None\n"
        f"sys.argv = ['fourfold', 'video', {str(clip)!r}, {str(clip.with_name('out.mp4'))!r}, '--quiet']\n"
        "from server.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_int8_is_there_by_name_and_refused_where_it_is_not(clip: Path) -> None:
    target = clip.with_name("int8.mp4")
    result = fourfold("video", clip, target, "--model", "xlsr", "--precision", "int8", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["precision"] == "int8"
    result = fourfold("video", clip, target.with_name("no.mp4"), "--model", "bicubic", "--precision", "int8")
    assert result.returncode == 1 and "openvino cannot run bicubic-x4 in int8 here" in result.stderr


def test_models_and_engines_say_what_there_is() -> None:
    models = json.loads(fourfold("models", "--json").stdout)["models"]
    assert {"name", "scale", "parameters", "psnr_y", "bytes"} <= models[0].keys()
    engines = json.loads(fourfold("engines", "--json").stdout)
    assert [e["engine"] for e in engines["engines"] if e["works"]] == ["openvino", "onnxruntime"]
    assert engines["model"] == "xlsr-x4"
    assert all(trial["frame_ms"] > 0 and trial["refusal"] is None for trial in engines["trials"])
    assert engines["auto"].startswith(engines["trials"][0]["backend"])


def test_a_smaller_processor_finds_an_engine_too(tmp_path: Path) -> None:
    """With AVX2 alone some engines cannot even be compiled: `auto` takes another one."""
    result = fourfold("engines", "--json", FOURFOLD_CACHE=str(tmp_path), ONEDNN_MAX_CPU_ISA="AVX2")
    assert result.returncode == 0, result.stderr
    trials = json.loads(result.stdout)["trials"]
    assert trials[0]["refusal"] is None and trials[0]["frame_ms"] > 0


def test_build_twice_compiles_once(tmp_path: Path) -> None:
    arguments = ("build", "xlsr", "--size", "64x48", "--json")
    built = [json.loads(fourfold(*arguments, FOURFOLD_CACHE=str(tmp_path)).stdout)["built"] for _ in range(2)]
    assert built == [True, False]


def test_image_keeps_alpha_orientation_and_formats(tmp_path: Path) -> None:
    rgba = np.dstack([pictures(1)[0], np.tile(np.linspace(0, 255, WIDTH, dtype=np.uint8), (HEIGHT, 1))])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(rgba).convert("P").save(tmp_path / "palette.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(rgba[:, :, :3]).save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(rgba[:, :, 0].astype(np.uint16) << 8).save(tmp_path / "deep.png")
    Image.new("RGB", (1, 1), (10, 200, 30)).save(tmp_path / "one.webp", lossless=True)
    names = ["a.png", "palette.png", "turned.jpg", "deep.png", "one.webp"]
    result = fourfold("image", *(tmp_path / name for name in names), "-o", tmp_path / "out", "--json")
    assert result.returncode == 0, result.stderr
    out = {name: opened(tmp_path / "out" / name) for name in names}
    assert (out["a.png"].mode, out["a.png"].size) == ("RGBA", (4 * WIDTH, 4 * HEIGHT))
    alpha = np.asarray(out["a.png"])[:, :, 3]
    assert abs(int(alpha[:, 0].mean()) - 0) < 3 and abs(int(alpha[:, -1].mean()) - 255) < 3
    assert out["turned.jpg"].size == (4 * HEIGHT, 4 * WIDTH)
    assert out["one.webp"].size == (4, 4)
    assert abs(np.asarray(out["deep.png"].convert("L")).mean() - rgba[:, :, 0].mean()) < 4


def test_image_refusals(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for source, target in (
        (tmp_path / "text.png", "o.png"),
        (tmp_path / "gone.png", "o.png"),
        (tmp_path / "text.png", "o.gif"),
    ):
        result = fourfold("image", source, "-o", tmp_path / target)
        assert result.returncode == 1
        assert len(result.stderr.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["text.png"]


def test_evaluate_scores_bicubic_as_the_literature_does(data: Path) -> None:
    arguments = ("evaluate", "--model", "bicubic", "--data", data / "test/set5", "--lr", data / "test_lr_x4/set5", "--json")
    scores = json.loads(fourfold(*arguments).stdout)
    assert abs(scores["psnr_y"] - 28.43) <= 0.02
    assert scores["images"] == len(scores["per_image"]) == 5
    assert scores["lpips"] is None


def test_checkpoint_file_is_a_model(clip: Path, tmp_path: Path) -> None:
    checkpoint = Path("models/checkpoints/xlsr-x4.safetensors")
    target = clip.with_name("out.mp4")
    result = fourfold("video", clip, target, "--model", checkpoint, "--json", FOURFOLD_CACHE=str(tmp_path / "cache"))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["model"] == "xlsr-x4"


def test_demo_makes_what_it_names(tmp_path: Path) -> None:
    figures = json.loads(fourfold("demo", tmp_path / "demo", "--json").stdout)
    assert figures["frames_out"] == 90
    assert opened(Path(figures["side_by_side"])).size == (1920, 540)
    assert read_picture(Path(figures["result"]), 0).shape == (1080, 1920, 3)


def test_train_runs_resumes_and_gives_a_model(tmp_path: Path, clip: Path) -> None:
    draw_pictures(tmp_path / "data" / "train")
    shipped = Path("models/training/configs/xlsr-x4.toml").read_text()
    small = {"steps = 150_000": "steps = 4", "crop = 32": "crop = 8", "validate_steps = 2_500": "validate_steps = 2"}
    small |= {
        "validation_side = 128": "validation_side = 16",
        "compile = true": "compile = false",
        "rescale = [1.0, 0.75, 0.5]": "rescale = [1.0]",
    }
    for before, after in small.items():
        assert before in shipped
        shipped = shipped.replace(before, after)
    (tmp_path / "tiny.toml").write_text(shipped)
    arguments = ("train", tmp_path / "tiny.toml", "--data", tmp_path / "data", "--run", tmp_path / "run")
    for words in ("step 4", "resumed at step 4"):
        result = fourfold(*arguments)
        assert result.returncode == 0, result.stderr
        assert words in result.stderr
    trained, target = tmp_path / "run" / "best.safetensors", clip.with_name("out.mp4")
    cache = {"FOURFOLD_CACHE": str(tmp_path / "cache")}
    assert fourfold("video", clip, target, "--quiet", "--model", trained, **cache).returncode == 0
    wrong = fourfold("video", clip, target, "--quiet", "--model", trained, "--scale", "2", **cache)
    assert wrong.returncode == 1 and "--scale 4" in wrong.stderr


def test_train_without_data_says_where_it_looks(tmp_path: Path) -> None:
    result = fourfold("train", "models/training/configs/xlsr-x4.toml", "--data", tmp_path, "--run", tmp_path / "run")
    assert result.returncode == 1
    assert "FOURFOLD_DATA" in result.stderr and "Traceback" not in result.stderr
