"""The client for programs that use asyncio. `fourfold_client.blocking` has the same for those that do not."""

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from weakref import WeakSet

from fourfold_client._access import Access
from fourfold_client.relays import AsyncRelays
from fourfold_client.types import Engine, Engines, FrameFormat, ImageFormat, Model, Picture, Video

if TYPE_CHECKING:  # what brings httpx and websockets is imported when it is needed
    from fourfold_client._video import Progress
    from fourfold_client.stream import Frames, OnEvent, Stream


class AsyncClient:
    """One Fourfold service. Use it as an async context manager, or call `aclose` at the end."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 120.0,
        retries: int = 3,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Args:
        url: of the service; default FOURFOLD_URL, or http://127.0.0.1:8000.
        api_key: default FOURFOLD_API_KEY; without one, none is sent.
        timeout: seconds that an answer, or its next bytes, may take.
        retries: how often a request is tried again where that is safe.
        tls: whom to trust; default those whom the system trusts.

        Raises:
            ValueError: the address or the key cannot be one.
        """
        from fourfold_client._http import Http

        self._access, self._tls = Access.find(url, api_key), tls
        self._http = Http(self._access, timeout, retries, tls)
        self._streams: WeakSet[Stream] = WeakSet()
        self.relays = AsyncRelays(self._http)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._access.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends its streams and connections."""
        for stream in list(self._streams):
            await stream.aclose()
        await self._http.aclose()

    async def upscale_image(
        self,
        image: "bytes | str | os.PathLike[str] | Any",
        *,
        model: str | None = None,
        scale: int = 4,
        format: ImageFormat = "png",  # noqa: A002
        quality: int | None = None,
    ) -> Picture:
        """Upscales one picture.

        Args:
            image: a PNG, JPEG or WebP file, as bytes or by its path; or an array, uint8 [height, width, 3] in RGB (or without
                channels, or with alpha as the fourth).
            model: a model's name, or auto; None: what the service is set to.
            scale: output pixels for one input pixel, each way: 2, 3 or 4.
            format: of the answer.
            quality: of JPEG and WebP, 1 to 100.

        Raises:
            OSError: the file cannot be read.
            FourfoldError: the service says no, or does not answer.
        """
        file = await _file_of(image)
        answer = await self._http.request(
            "POST",
            "/v1/images",
            params={"model": model, "scale": scale, "quality": quality},
            headers={"Accept": f"image/{format}", "Content-Type": "application/octet-stream"},
            content=lambda: file,
            repeatable=True,  # it leaves nothing behind
        )
        said = answer.headers
        return Picture(
            data=answer.content,
            format=format,
            model=said.get("x-fourfold-model", ""),
            engine=said.get("x-fourfold-engine", ""),
            precision=said.get("x-fourfold-precision", ""),
            server_ms=float(said.get("x-fourfold-server-ms", "nan")),
            alpha_dropped=said.get("x-fourfold-alpha") == "dropped",
        )

    async def upscale_video(
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        model: str | None = None,
        scale: int = 4,
        encoder: str | None = None,
        crf: int | None = None,
        height: int | None = None,
        progress: "Progress | None" = None,
    ) -> Video:
        """Upscales a video file into an MP4 file; nothing stands under the target's name before it is complete.

        The job is removed from the service at the end, also if this is cancelled.

        Args:
            source: the file to upload.
            target: the file to write.
            model: a model's name, or auto; None: what the service is set to.
            scale: output pixels for one input pixel, each way: 2, 3 or 4.
            encoder: by its name; None: the service chooses.
            crf: quality; lower is better and larger.
            height: lines of the result, scaled down after the network.
            progress: called with a VideoProgress whenever there is news; what it raises ends the job.

        Raises:
            OSError: a file cannot be read or written.
            FourfoldError: the service says no, the job failed, or the service was away for too long.
        """
        from fourfold_client._video import VideoTask

        options = {"model": model, "scale": scale, "encoder": encoder, "crf": crf, "height": height}
        return await VideoTask(self._http, Path(source), Path(target), options, progress).run()

    def stream(
        self,
        frames: "Frames",
        *,
        input: FrameFormat = "jpeg",  # noqa: A002
        output: FrameFormat = "jpeg",
        width: int | None = None,
        height: int | None = None,
        model: str | None = None,
        scale: int = 4,
        fps: float = 60.0,
        quality: int = 85,
        late: Literal["drop", "keep"] = "drop",
        in_flight: int = 16,
        reconnect_seconds: float = 60.0,
        on_event: "OnEvent | None" = None,
    ) -> "Stream":
        """Upscales frames as they come: `async with client.stream(frames) as answers: async for frame in answers: …`.

        Args:
            frames: an iterable, plain or async, of bytes, of arrays (rgb24, yuv420p), or of `InputFrame`s that say their time.
                A plain one is read in a thread of its own.
            input: their format.
            output: the format of the answers.
            width: of the frames in pixels, and
            height: needed for rgb24 and yuv420p.
            model: a model's name, or auto; None: what the service is set to.
            scale: output pixels for one input pixel, each way: 2, 3 or 4.
            fps: at which frames will come.
            quality: of JPEG answers, and of H.264, 1 to 100.
            late: `drop`: what is late is dropped, and told. `keep`: every frame is answered.
            in_flight: frames that were taken from `frames` and whose answers were not taken yet, at most.
            reconnect_seconds: how long a lost connection is tried again without any answer.
            on_event: called with every event: see `fourfold_client.events`.
        """
        from fourfold_client._socket import Connector
        from fourfold_client.stream import Options, Stream

        options = Options(input, output, width, height, model, scale, fps, quality, late, in_flight, reconnect_seconds)
        stream = Stream(Connector(self._access, self._tls).connect, frames, options, on_event)
        self._streams.add(stream)
        return stream

    async def models(self) -> list[Model]:
        """The models, the best PSNR first at each scale."""
        return [Model.parsed(words) for words in (await self._http.json("GET", "/v1/models"))["models"]]

    async def engines(self) -> Engines:
        """The engines, and how fast they are."""
        words = await self._http.json("GET", "/v1/engines")
        return Engines([Engine.parsed(row) for row in words["engines"]], words["model"], words["trials"], words["auto"])


async def _file_of(image: Any) -> bytes:
    """A picture file, from whatever `upscale_image` takes."""
    import asyncio

    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return await asyncio.to_thread(Path(image).read_bytes)
    from fourfold_client._png import png_of

    return await asyncio.to_thread(png_of, image)
