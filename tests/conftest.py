"""Fixtures of every package's tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled engines and trials of one run of the suite; never the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOURFOLD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of test pictures, training pictures and videos, which is not part of the repository."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FOURFOLD_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"there is no data folder {folder}; FOURFOLD_DATA says where it is")
    return folder


@pytest.fixture
def anyio_backend() -> str:
    """Of tests marked `anyio`: the service runs on asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def no_blocking(request: pytest.FixtureRequest) -> Iterator[None]:
    """A blocking call of the service in the event loop fails an `anyio` test."""
    if request.node.get_closest_marker("anyio") is None:
        yield
        return
    with blockbuster_ctx("server"):
        yield
