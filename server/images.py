"""Upscaling pictures: PNG, JPEG and WebP files through the RGB graph; alpha is kept."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from engines.build import open_runner
from engines.choose import Choice, choose
from engines.runner import EngineSpec, PlaneFrame
from models.errors import FourfoldError
from models.resize import UInt8Image
from server.catalogue import cores, find_graphs

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MAX_PIXELS = 4096 * 4096
"""Input pixels of one picture; the network's intermediate maps take about 200 bytes for each."""


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
        height, width, _ = rgb.shape
        result = np.empty((height * self.scale, width * self.scale, 3), np.uint8)
        self._runner.infer([PlaneFrame((np.ascontiguousarray(rgb),), (result,))])
        return result

    def upscale_file(self, source: Path, target: Path) -> dict[str, Any]:
        """Upscales `source` into `target`, whose suffix names the format, and returns both sizes.

        EXIF rotation is applied. Alpha is interpolated bicubically, and lost with a note where the format has none.

        Raises:
            ImageError: see there; `target` exists only once it is complete.
        """
        picture = _read(source)
        alpha = picture.getchannel("A") if "A" in picture.getbands() else None
        result = Image.fromarray(self.upscale(np.asarray(picture.convert("RGB"))))
        kept = alpha is not None and FORMATS[_suffix(target)] != "JPEG"
        if alpha is not None and kept:
            result.putalpha(alpha.resize(result.size, Image.Resampling.BICUBIC))
        _write(result, target)
        sizes = {"input": _size(picture), "output": _size(result)}
        return {"source": str(source), "target": str(target), **sizes, "alpha_lost": alpha is not None and not kept}

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


def _read(path: Path) -> Image.Image:
    """The picture at `path`, upright, as RGB or RGBA."""
    try:
        with Image.open(path, formats=["PNG", "JPEG", "WEBP"]) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ImageError(f"{path} is {picture.width}x{picture.height}; at most {MAX_PIXELS} pixels can be upscaled")
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            has_alpha = "A" in upright.getbands() or "transparency" in upright.info
            return upright.convert("RGBA" if has_alpha else "RGB")
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not a PNG, JPEG or WebP picture") from error
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist; give the path of a picture") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} cannot be read: {error}") from error


def _write(picture: Image.Image, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    options: dict[str, Any] = {"quality": 95} if FORMATS[_suffix(path)] != "PNG" else {}
    try:
        picture.save(partial, FORMATS[_suffix(path)], **options)
        partial.replace(path)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ImageError(f"{path}: pictures are written as {', '.join(FORMATS)}")
    return suffix


def _size(picture: Image.Image) -> dict[str, int]:
    return {"width": picture.width, "height": picture.height}
