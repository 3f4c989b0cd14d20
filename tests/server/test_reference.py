"""The page of settings, limits and codes says what the code does."""

from dataclasses import fields
from pathlib import Path

from server.api._access import HOOKS, PUBLIC
from server.api.relays import Wish
from server.errors import CODES
from server.keyfile import Limits
from server.metrics import Metrics
from server.reference import DOCS, HTTP_TARGET, TARGET, http_reference, reference
from server.settings import Settings

SERVER = Path(__file__).parents[2] / "server"


def test_the_page_is_up_to_date() -> None:
    assert TARGET.read_text() == reference(), "run python -m server.reference"
    assert HTTP_TARGET.read_text() == http_reference(), "run python -m server.reference"


def test_the_page_names_everything() -> None:
    page = TARGET.read_text()
    for name in (*Limits.__dataclass_fields__, *CODES):
        assert f"| `{name}` |" in page
    for name in Settings.model_fields:
        assert f"| `FOURFOLD_{name.upper()}` |" in page


def test_every_metric_and_every_route_is_named() -> None:
    page, routes = TARGET.read_text(), HTTP_TARGET.read_text()
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"| `{name}` | {family.type} |" in page or not name.startswith("fourfold_")
    for route in ("POST /v1/images", "GET /v1/videos/{id}/content", "DELETE /v1/videos/{id}", "GET /health/ready"):
        assert f"`{route}`" in routes


def test_commands_stay_commands_and_bodies_have_their_fields() -> None:
    routes = HTTP_TARGET.read_text()
    assert "\n\n    curl --data-binary @small.png" in routes
    for name in Wish.model_fields:
        assert f"| `{name}` |" in routes


def test_pages_say_what_needs_no_key() -> None:
    names = {f"`{'/web/' if path.startswith('/web/') else path}`" for path in (*PUBLIC, HOOKS)}
    for page in (TARGET, HTTP_TARGET, DOCS / "service.md"):
        assert [name for name in names if name not in page.read_text()] == [], page


def test_every_setting_and_every_limit_is_used() -> None:
    source = "\n".join(path.read_text() for path in SERVER.rglob("*.py"))
    assert [name for name in Settings.model_fields if f".{name}" not in source] == []
    assert [limit.name for limit in fields(Limits) if f"limits.{limit.name}" not in source] == []
