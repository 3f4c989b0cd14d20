"""Services that the clients speak to."""

from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx

import fourfold_client._http
import fourfold_client._png
import fourfold_client._socket
import fourfold_client._video
import fourfold_client.stream  # noqa: F401 - all that is imported late: an import reads files, which is no fault in the event loop
from tests.support.service import RunningService, running_service


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One without keys, and with limits that tests can reach."""
    limits = {"max_image_bytes": 1 << 20, "max_frame_bytes": 1 << 20, "slow_consumer_seconds": 1.0}
    with running_service(tmp_path_factory.mktemp("clients"), **limits) as running:
        yield running


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own service is none of the tests' business."""
    for name in ("FOURFOLD_URL", "FOURFOLD_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_blocking(request: pytest.FixtureRequest) -> Iterator[None]:
    """A blocking call of the client in the event loop fails an `anyio` test."""
    if request.node.get_closest_marker("anyio") is None:
        yield
        return
    with blockbuster_ctx("fourfold_client"):
        yield
