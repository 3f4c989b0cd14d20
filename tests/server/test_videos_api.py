"""Video jobs over HTTP, as curl meets them, with the real service."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from server.keyfile import Limits, add_key
from tests.server.media.support import frames_of, packets_of
from tests.support import clips
from tests.support.bystander import unharmed, watched
from tests.support.hostile import SECRET, canary, playlist
from tests.support.service import RunningService, running_service

FAST = {"model": "bicubic", "scale": 2}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service")) as service, watched(service):
        yield service


@contextmanager
def client_of(service: RunningService, key: str | None = None) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {key}"} if key else service.headers
    with httpx.Client(base_url=service.url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    """Finds no job, and leaves none."""
    with client_of(service) as client:
        yield client
        for video in client.get("/v1/videos").json()["videos"]:
            client.delete(video["links"]["self"])


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write(tmp_path_factory.mktemp("clips") / "short.mp4", tone=True)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some seconds of work."""
    return clips.write(tmp_path_factory.mktemp("clips") / "long.mp4", width=160, height=96, frames=600, rate=60)


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work that nobody waits for the end of."""
    return clips.write(tmp_path_factory.mktemp("clips") / "longer.mp4", width=160, height=96, frames=3000, rate=60)


def upload(client: httpx.Client, path: Path, **options: Any) -> httpx.Response:
    return client.post("/v1/videos", content=path.read_bytes(), params=FAST | options)


def added(client: httpx.Client, path: Path, **options: Any) -> dict[str, Any]:
    """A job of a file that is right."""
    answer = upload(client, path, **options)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def ended(client: httpx.Client, video: dict[str, Any]) -> dict[str, Any]:
    """What became of a job."""
    deadline = time.monotonic() + 60
    while (now := client.get(video["links"]["self"]).raise_for_status().json())["state"] not in ("done", "failed"):
        assert time.monotonic() < deadline, now
        time.sleep(0.05)
    return dict(now)


def under_way(client: httpx.Client, video: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (now := client.get(video["links"]["self"]).json())["frames"] < 5:
        assert time.monotonic() < deadline, now
        time.sleep(0.02)
    return dict(now)


def result(client: httpx.Client, video: dict[str, Any], folder: Path) -> Path:
    """The result of a job that is done, as a file."""
    target = folder / "result.mp4"
    target.write_bytes(client.get(video["links"]["content"]).raise_for_status().content)
    return target


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_video_from_upload_to_download(client: httpx.Client, service: RunningService, short: Path, tmp_path: Path) -> None:
    with unharmed(service):
        answer = upload(client, short)
        video = answer.json()
        assert (answer.status_code, answer.headers["Location"]) == (202, f"/v1/videos/{video['id']}")
        assert (video["state"], video["progress"], video["frames"], video["error"]) == ("queued", 0, 0, None)
        done = ended(client, video)
        assert (done["state"], done["progress"], done["frames"]) == ("done", 1, 12) and done["fps"] > 0
        assert done["result"]["frames_out"] == 12 and done["result"]["model"] == "bicubic"
        assert any("bicubic x2" in note for note in done["notes"])
        target = result(client, video, tmp_path)
        assert client.delete(f"/v1/videos/{video['id']}").status_code == 204
        assert refusal(client.get(f"/v1/videos/{video['id']}")) == (404, "not_found")
    assert [frame.planes[0].shape for frame in frames_of(target)] == [(64, 96)] * 12
    assert packets_of(target, "audio").data == packets_of(short, "audio").data


def test_a_video_in_a_form(client: httpx.Client, short: Path) -> None:
    form = {"video": ("Tom & Jerry; $(clip).mp4", short.read_bytes(), "video/mp4")}
    answer = client.post("/v1/videos", params=FAST, data={"comment": "x" * 1000}, files=form)
    assert answer.status_code == 202
    assert ended(client, answer.json())["frames"] == 12


def test_curl_as_the_documentation_has_it(client: httpx.Client, service: RunningService, short: Path) -> None:
    url = f"{service.url}/v1/videos?model=bicubic&scale=2"
    for upload in (["-T", str(short), "-X", "POST"], ["--data-binary", f"@{short}"], ["-F", f"video=@{short}"]):
        told = subprocess.run(["curl", "-sS", *upload, url], capture_output=True, text=True, check=True)
        assert '"state":"queued"' in told.stdout, told
    assert len(client.get("/v1/videos").json()["videos"]) == 3


def test_parts_of_a_result(client: httpx.Client, short: Path) -> None:
    video = ended(client, added(client, short))
    url = video["links"]["content"]
    whole = client.get(url)
    assert (whole.headers["content-type"], whole.headers["accept-ranges"]) == ("video/mp4", "bytes")
    size, tag = len(whole.content), whole.headers["etag"]
    for asked, start, end in (("100-199", 100, 200), ("100-", 100, size), ("-50", size - 50, size), ("0-99999999", 0, size)):
        part = client.get(url, headers={"Range": f"bytes={asked}"})
        assert (part.status_code, part.content) == (206, whole.content[start:end])
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    assert client.get(url, headers={"Range": "bytes=0-9", "If-Range": tag}).status_code == 206
    assert client.get(url, headers={"Range": "bytes=0-9", "If-Range": '"another"'}).content == whole.content
    beyond = client.get(url, headers={"Range": f"bytes={size}-"})
    assert refusal(beyond) == (416, "range") and beyond.headers["content-range"] == f"bytes */{size}"
    assert client.get(url, headers={"Range": "bytes=" + "9" * 5000 + "-"}).status_code in (200, 400, 416)
    head = client.head(url)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(size), b"")


def test_content_is_not_there_before_it_is_whole(client: httpx.Client, longer: Path) -> None:
    running, waiting = added(client, longer), added(client, longer)
    under_way(client, running)
    for video in (running, waiting):
        assert refusal(client.get(video["links"]["content"])) == (409, "conflict")
    for path in ("/v1/videos/none", "/v1/videos/none/content", "/v1/videos/..%2F..%2Fjobs.sqlite3/content", "/v1/videos/%00"):
        assert refusal(client.get(path)) == (404, "not_found")


def test_lists_in_pages(client: httpx.Client, short: Path) -> None:
    ids = [added(client, short)["id"] for _ in range(5)][::-1]
    assert [video["id"] for video in client.get("/v1/videos").json()["videos"]] == ids
    seen, cursor = list[str](), None
    while True:
        page = client.get("/v1/videos", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [video["id"] for video in page["videos"]]
        if not (cursor := page["next"]):
            break
    assert seen == ids
    assert client.get("/v1/videos", params={"cursor": "unknown"}).json() == {"videos": [], "next": None}


@pytest.mark.parametrize(
    ("query", "status", "code", "told"),
    [
        ("model=esrgan", 404, "unknown_model", "there is no model esrgan at x4; there are xlsr (x4)"),
        ("model=xlsr-live&scale=2", 404, "unknown_model", "xlsr-live at x2"),
        ("model=../../etc/passwd", 404, "unknown_model", ""),
        ("model=/my.safetensors", 404, "unknown_model", ""),
        ("scale=5", 422, "invalid", "scale is '5'"),
        ("encoder=libx264%20-vf%20movie=/etc/passwd", 422, "encoder", "choose auto, libx264"),
        ("encoder=h264%0d%0aX: y", 422, "encoder", ""),
        ("crf=64", 422, "invalid", "crf"),
        ("height=1", 422, "invalid", "height"),
        ("height=x", 422, "invalid", "height"),
    ],
)
def test_parameters_are_checked_before_the_body(service: RunningService, query: str, status: int, code: str, told: str) -> None:
    with unharmed(service), socket.create_connection((service.host, service.port), timeout=30) as sock:
        query = query.replace(" ", "%20")
        sock.sendall(f"POST /v1/videos?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\nfirst bytes".encode())
        answer = b""
        while b'"}}' not in answer:
            piece = sock.recv(65536)
            assert piece, answer
            answer += piece
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and f'"code":"{code}"'.encode() in answer
    assert told.encode() in answer


def test_what_cannot_be_upscaled_is_refused(client: httpx.Client, service: RunningService, tmp_path: Path) -> None:
    hdr = clips.write(tmp_path / "hdr.mkv", tags={"color_trc": 16})
    tiny = clips.write(tmp_path / "tiny.mp4", width=2, height=2)
    wide = clips.write(tmp_path / "wide.mp4", width=4096, height=16)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clips.write(tmp_path / "whole.mp4", frames=50, container={"movflags": "faststart"}).read_bytes()[:-600])
    empty, text = tmp_path / "empty", tmp_path / "text.mp4"
    empty.touch()
    text.write_text("Dear diary, this is no film.\n" * 1000)
    expected = [(hdr, "hdr"), (tiny, "dimensions"), (cut, "unreadable"), (empty, "container"), (text, "container")]
    with unharmed(service):
        before = service.metrics()
        for path, code in expected:
            answer = upload(client, path)
            assert refusal(answer) == (422, code)
            assert str(tmp_path) not in answer.text and str(service.data_folder) not in answer.text
        assert refusal(upload(client, wide, height=500)) == (422, "encoder")  # before there is a job
        after = service.metrics()
    assert client.get("/v1/videos").json()["videos"] == []
    name = 'fourfold_rejected_total{reason="container"}'
    assert after[name] - before.get(name, 0) == 2


@pytest.mark.parametrize("name", ["ffconcat", "hls with a key", "dash", "sdp"])
def test_playlists_open_nothing(client: httpx.Client, service: RunningService, tmp_path: Path, name: str) -> None:
    local = clips.write(tmp_path / f"{SECRET}.mp4")
    with unharmed(service), canary() as (port, seen):
        body = playlist(name, local, port)
        started = time.monotonic()
        answers = [client.post("/v1/videos", content=body), client.post("/v1/videos", files={"video": ("video.mp4", body)})]
        assert time.monotonic() - started < 2
        for answer in answers:
            assert refusal(answer) == (422, "container") and SECRET not in answer.text
    assert seen == []


@pytest.mark.parametrize("name", ["../../jobs.sqlite3", "..\\..\\x.mp4", "/etc/passwd", "a\tb.mp4", "a\x7fb"])
def test_names_of_files_are_names(service: RunningService, short: Path, name: str) -> None:
    head = f'--b\r\nContent-Disposition: form-data; name="video"; filename="{name}"\r\n\r\n'.encode("latin-1")
    headers = service.headers | {"Content-Type": "multipart/form-data; boundary=b"}
    with unharmed(service):
        body = head + short.read_bytes() + b"\r\n--b--\r\n"
        answer = httpx.post(f"{service.url}/v1/videos", content=body, headers=headers, timeout=60)
    assert refusal(answer) == (422, "invalid")


def test_a_large_upload_is_never_in_memory(client: httpx.Client, service: RunningService) -> None:
    def peak() -> int:
        status = Path(f"/proc/{service.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) >> 10  # MiB

    blocks = 256
    with unharmed(service):
        before = peak()
        raw = client.post("/v1/videos", content=(bytes(1 << 20) for _ in range(blocks)))
        edge = b'--b\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\n', b"\r\n--b--\r\n"
        pieces = (edge[0], *(bytes(1 << 20) for _ in range(blocks)), edge[1])
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        form = client.post("/v1/videos", content=iter(pieces), headers=kind)
        assert peak() - before < 64
    assert refusal(raw) == refusal(form) == (422, "container")


def test_pictures_keep_their_times_colours_and_turn(client: httpx.Client, tmp_path: Path) -> None:
    path = clips.write(
        tmp_path / "clip.mkv",
        pix_fmt="yuv420p10le",
        time_base=Fraction(1, 12),
        pts=[0, 1, 2, 5, 6, 9, 10, 11, 15, 16, 20, 24],
        rotation=90,
        sample_aspect_ratio=Fraction(4, 3),
        tags={"colorspace": 9, "color_primaries": 9, "color_trc": 14, "color_range": 1},
        tone=True,
        chapters=[(0, 500, "One"), (500, 1000, "Two")],
    )
    done = ended(client, added(client, path))
    assert "10-bit reduced to 8 bit" in done["notes"]
    target = result(client, done, tmp_path)
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        assert (frame.width, frame.height, frame.rotation, frame.format.name) == (96, 64, 90, "yuv420p")
        assert (int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc), int(frame.color_range)) == (
            9,
            9,
            14,
            1,
        )
        assert stream.sample_aspect_ratio == Fraction(4, 3)
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["One", "Two"]
    assert packets_of(target, "audio").data == packets_of(path, "audio").data
    before, after = (packets_of(path, "video").times for path in (path, target))
    assert [time - after[0] for time in after] == [pytest.approx(time - before[0], abs=0.001) for time in before]


def test_a_variable_rate_from_a_raw_stream(client: httpx.Client, tmp_path: Path) -> None:
    """A stream that says nothing of its rate."""
    done = ended(client, added(client, clips.write(tmp_path / "clip.h264", format="h264", rate=25), encoder="libx265", crf=30))
    assert done["result"]["output"]["codec"] == "hevc" and done["frames"] == 12


def test_lines_of_the_result_can_be_chosen(client: httpx.Client, short: Path) -> None:
    done = ended(client, added(client, short, height=48))
    assert (done["result"]["output"]["width"], done["result"]["output"]["height"]) == (72, 48)


def test_removing_a_running_video(client: httpx.Client, service: RunningService, long: Path) -> None:
    with unharmed(service):
        video = added(client, long)
        under_way(client, video)
        assert client.delete(video["links"]["self"]).status_code == 204
        assert refusal(client.delete(video["links"]["self"])) == (404, "not_found")


def test_an_engine_that_dies_costs_a_job_only_time(client: httpx.Client, service: RunningService, long: Path) -> None:
    video = added(client, long)
    under_way(client, video)
    engine = next(pid for pid in service.descendants() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(engine, signal.SIGKILL)
    done = ended(client, video)
    assert (done["state"], done["frames"]) == ("done", 600)


def test_a_service_that_was_killed_goes_on(tmp_path: Path, short: Path, long: Path) -> None:
    with running_service(tmp_path) as service, client_of(service) as client:
        videos = [added(client, path) for path in (short, long, short)]
        ended(client, videos[0])
        under_way(client, videos[1])
        service.process.kill()
        service.process.wait()
    with running_service(tmp_path) as service, client_of(service) as client:
        assert [ended(client, video)["frames"] for video in videos] == [12, 600, 12]
        assert len(frames_of(result(client, videos[1], tmp_path))) == 600


def test_a_service_that_stops_leaves_the_rest_for_later(tmp_path: Path, short: Path, long: Path) -> None:
    with running_service(tmp_path, shutdown_grace_seconds=0.5) as service, client_of(service) as client:
        videos = [added(client, path) for path in (long, short)]
        under_way(client, videos[0])
        assert service.stop() == 0
    with running_service(tmp_path) as service, client_of(service) as client:
        assert [(done["frames"], done["error"]) for done in (ended(client, video) for video in videos)] == [
            (600, None),
            (12, None),
        ]


def test_the_queue_is_bounded(tmp_path: Path, longer: Path) -> None:
    with running_service(tmp_path, max_jobs_queued=1) as service, client_of(service) as client:
        under_way(client, added(client, longer))
        added(client, longer)
        refused = upload(client, longer)
        assert refusal(refused) == (503, "busy") and int(refused.headers["Retry-After"]) > 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk; the quota is tested without")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk(small_disk: Path, short: Path) -> None:
    with running_service(small_disk) as service, client_of(service) as client, unharmed(service):
        assert refusal(client.post("/v1/videos", content=bytes(3_000_000))) == (507, "storage")
        video = added(client, short)
        assert ended(client, video)["state"] == "done"
        client.delete(video["links"]["self"])


def test_a_quota(tmp_path: Path, short: Path) -> None:
    with running_service(tmp_path, storage_bytes=1_000_000) as service, client_of(service) as client, unharmed(service):
        refused = client.post("/v1/videos", content=bytes(1_000_001))
        assert refusal(refused) == (507, "storage") and "1000000 bytes" in refused.text
        video = added(client, short)
        assert ended(client, video)["state"] == "done"
        client.delete(video["links"]["self"])


def test_keys_have_their_own_videos_and_limits(tmp_path: Path, short: Path) -> None:
    keys = tmp_path / "keys.json"
    admin = add_key(keys, "admin", ["admin"], None, Limits())
    ann = add_key(keys, "ann", ["videos"], None, Limits())
    bob = add_key(keys, "bob", ["videos"], None, Limits(pixels=1000))
    eve = add_key(keys, "eve", ["videos"], None, Limits(seconds=2))
    slow = clips.write(tmp_path / "slow.mp4", rate=5)
    with running_service(tmp_path, key=admin, api_keys_file=keys) as service:
        with client_of(service, ann) as client:
            video = ended(client, added(client, short))
        with client_of(service, bob) as client:
            for method, path in (("GET", "self"), ("GET", "content"), ("DELETE", "self")):
                assert refusal(client.request(method, video["links"][path])) == (404, "not_found")
            assert client.get("/v1/videos").json()["videos"] == []
            assert client.get("/v1/videos", params={"cursor": video["id"]}).json()["videos"] == []
            assert refusal(upload(client, short)) == (422, "dimensions")
        with client_of(service, eve) as client:
            assert ended(client, added(client, short))["state"] == "done"
            assert refusal(upload(client, slow)) == (422, "unsupported")
        with client_of(service, ann) as client:
            assert client.get(video["links"]["content"]).status_code == 200
