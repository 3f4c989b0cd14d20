"""Pictures, models, engines, access: the clients against the real service."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourfold_client import AsyncClient, Client
from tests.support.pictures import encoded, ramp
from tests.support.service import RunningService


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_picture_as_a_file(service: RunningService, tmp_path: Path, kind: Any) -> None:
    (tmp_path / "small.png").write_bytes(encoded(ramp(24, 32), "PNG"))
    with Client(service.url) as client:
        picture = client.upscale_image(tmp_path / "small.png", model="bicubic", scale=3, format=kind, quality=90)
    picture.save(tmp_path / "large")
    with Image.open(tmp_path / "large") as written:
        assert (written.size, written.format) == ((96, 72), kind.upper())
    assert (picture.model, picture.format) == ("bicubic", kind)
    assert picture.engine and picture.precision and picture.server_ms > 0
    assert repr(picture) == f"<Picture {kind}, {len(picture.data)} bytes, by bicubic>"


@pytest.mark.anyio
@pytest.mark.parametrize("shape", [(10, 12, 3), (10, 12, 4), (10, 12, 1), (10, 12)])
async def test_an_array_is_the_same_picture(service: RunningService, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, (10, 24, *shape[2:]), np.uint8)[:, ::2]  # with gaps in memory
    assert array.shape == shape
    async with AsyncClient(service.url) as client:
        from_array = await client.upscale_image(array, model="bicubic", scale=2)
        from_file = await client.upscale_image(encoded(array.squeeze(), "PNG"), model="bicubic", scale=2)
    assert from_array.data == from_file.data
    assert not from_array.alpha_dropped


def test_alpha_that_gets_lost_is_told(service: RunningService) -> None:
    with Client(service.url) as client:
        assert client.upscale_image(np.zeros((16, 16, 4), np.uint8), model="bicubic", format="jpeg").alpha_dropped


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)])
def test_other_arrays_are_no_pictures(service: RunningService, array: Any) -> None:
    with Client(service.url) as client, pytest.raises(TypeError, match="uint8"):
        client.upscale_image(array)


@pytest.mark.anyio
async def test_models_and_engines(service: RunningService) -> None:
    async with AsyncClient(service.url) as client:
        models, engines = await client.models(), await client.engines()
    assert {(model.name, model.scale) for model in models} >= {("xlsr", 4), ("bicubic", 2)}
    assert next(model for model in models if model.name == "xlsr").parameters == 27920
    assert {engine.engine for engine in engines.engines if engine.works} >= {"openvino"}
    assert engines.model


def test_the_address_comes_from_the_environment(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_URL", service.url + "/")
    with Client() as client:
        assert repr(client) == f"<Client of {service.url}>"
        assert client.models()


def test_a_client_may_be_closed_twice(service: RunningService) -> None:
    with Client(service.url) as client:
        client.close()
    client.close()


def test_both_clients_offer_the_same() -> None:
    def names(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")} - {"aclose", "close"}

    assert names(Client) == names(AsyncClient)
    with Client() as client:
        assert {name for name in dir(client.relays) if not name.startswith("_")} == {
            "create",
            "delete",
            "get",
            "list",
            "wait",
            "watch",
        }
        assert client.upscale_video.__doc__ == AsyncClient.upscale_video.__doc__


@pytest.mark.parametrize(
    "make",
    [
        lambda: Client("127.0.0.1:8000"),
        lambda: Client("ftp://127.0.0.1"),
        lambda: Client("http://me:canary@127.0.0.1"),
        lambda: Client(api_key="canary\nX-Other: header"),
        lambda: Client(api_key="canary canary"),
        lambda: Client(api_key="canary\u00e4"),
    ],
)
def test_an_address_or_a_key_that_cannot_be_one_is_refused_and_not_shown(make: Callable[[], Client]) -> None:
    with pytest.raises(ValueError, match=r"address of the service|API key") as caught:
        make()
    assert "canary" not in str(caught.value)
