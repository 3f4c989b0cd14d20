"""Upscaling picture files on the command line: through the RGB graph, in this process; alpha is kept."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from engines.build import open_runner
from engines.choose import Choice, choose
from engines.runner import EngineSpec, PlaneFrame
from models.errors import FourfoldError
from models.resize import UInt8Image
from server.catalogue import cores, find_graphs
from server.errors import ServiceError
from server.pictures import PictureFormat, check_result, read_picture, write_picture
from server.tiles import upscale

FORMATS: dict[str, PictureFormat] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MAX_PIXELS = 4096 * 4096
"""Input pixels of one picture: its result fills some gigabytes of memory while it is encoded."""


class ImageError(FourfoldError):
    """A picture cannot be read, is too large, or cannot be written."""


class ImageUpscaler:
    """An engine for pictures of any size; a context manager."""

    def __init__(
        self,
        model: str = "auto",
        scale: int = 4,
        engine: str = "auto",
        precision: str = "auto",
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Raises: FourfoldError: no such model, or an engine that does not work here."""
        self.model, graphs = find_graphs(model, scale, "rgb")
        self.choice: Choice = choose(EngineSpec(graphs), "latency", cores(), engine, precision, say)
        self.scale = scale
        self._runner = open_runner(self.choice.backend, self.choice.spec)

    def upscale(self, rgb: UInt8Image) -> UInt8Image:
        """[H, W, 3] uint8 RGB -> [scale * H, scale * W, 3] uint8 RGB."""
        return upscale(rgb, self.scale, self._upscale_tile)

    def upscale_file(self, source: Path, target: Path) -> dict[str, Any]:
        """Upscales `source` into `target`, whose suffix names the format, and returns both sizes.

        Raises:
            ImageError: see there; `target` exists only once it is complete.
        """
        to = FORMATS[_suffix(target)]
        try:
            with source.open("rb") as file:
                picture = read_picture(file, MAX_PIXELS)
            height, width, _ = picture.rgb.shape
            check_result(width, height, self.scale, to)
        except ServiceError as error:
            raise ImageError(f"{source}: {error}") from error
        except FileNotFoundError as error:
            raise ImageError(f"{source} does not exist; give the path of a picture") from error
        except OSError as error:
            raise ImageError(f"{source} cannot be read: {error.strerror}") from error
        _write(write_picture(picture, self.upscale(picture.rgb), to).getbuffer(), target)
        sizes = {"input": _size(width, height), "output": _size(width * self.scale, height * self.scale)}
        lost = picture.alpha is not None and to == "JPEG"
        return {"source": str(source), "target": str(target), **sizes, "alpha_lost": lost}

    def _upscale_tile(self, rgb: UInt8Image) -> UInt8Image:
        height, width, _ = rgb.shape
        result = np.empty((height * self.scale, width * self.scale, 3), np.uint8)
        self._runner.infer([PlaneFrame((np.ascontiguousarray(rgb),), (result,))])
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._runner.close()


def plan_targets(sources: list[Path], output: Path) -> list[tuple[Path, Path]]:
    """Where each picture goes: `output` itself for one picture, a file of the same name in the folder `output` for several.

    Raises:
        ImageError: `output` does not fit the number of pictures, or two pictures would get one name.
    """
    if len(sources) == 1 and not output.is_dir():
        _suffix(output)
        return [(sources[0], output)]
    if output.suffix and not output.is_dir():
        raise ImageError(f"{output} is one file for {len(sources)} pictures; give a folder")
    targets = [output / source.name for source in sources]
    if len(set(targets)) < len(targets):
        raise ImageError("two of the pictures have the same name; upscale them into different folders")
    return list(zip(sources, targets, strict=True))


def upscale_images(upscaler: ImageUpscaler, pairs: list[tuple[Path, Path]], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Upscales each source into its target."""
    results = []
    for source, target in pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
        results.append(upscaler.upscale_file(source, target))
        if results[-1]["alpha_lost"]:
            say(f"{target}: JPEG has no alpha; it was dropped (write PNG or WebP to keep it)")
    return results


def _write(data: memoryview, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise ImageError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ImageError(f"{path}: pictures are written as {', '.join(FORMATS)}")
    return suffix


def _size(width: int, height: int) -> dict[str, int]:
    return {"width": width, "height": height}
