"""`python -m server.reference` writes what the code knows best: docs/reference.md (every setting, every error code, what the
limits of keys mean, every metric) and docs/http.md (every route)."""

from pathlib import Path
from typing import Any, get_args

from prometheus_client.metrics import MetricWrapperBase
from pydantic.fields import FieldInfo

from server.app import create_app
from server.errors import CODES
from server.keyfile import SCOPES
from server.metrics import Metrics
from server.settings import MIB, PREFIX, Settings

DOCS = Path(__file__).parents[1] / "docs"
TARGET, HTTP_TARGET = DOCS / "reference.md", DOCS / "http.md"

HEAD = """# Settings, keys, error codes and metrics of the service

Written by `python -m server.reference` from the code; do not edit.

## Settings

A setting is a variable of the environment, or a key of the TOML file that `FOURFOLD_CONFIG` names (without the
prefix, in lower case); variables win. A value that is wrong, or a name that is none, stops `fourfold serve` with exit
code 1 and one line that says what to do. `FOURFOLD_CACHE` is the folder of compiled engines (default
`~/.cache/fourfold`).
"""

KEYS = """
## API keys

`fourfold keys add NAME --scope SCOPE [--expires DAYS] [--limit WHAT=N]` prints a key once; only its SHA-256 is kept,
in the file that `FOURFOLD_API_KEYS_FILE` (or `--file`) names; `fourfold keys list` and `fourfold keys revoke NAME` do
what they say. A running service notices within seconds. Requests show a key as `Authorization: Bearer KEY`; a
browser's WebSocket offers the subprotocol `fourfold.bearer.KEY`. With keys, everything asks for one but `/health/live`,
the web page (`/` and `/web/`) and `/hooks/`, which has a secret of its own.

Stream keys, for publishing to the RTMP server and playing from it, are in a file of their own, which
`FOURFOLD_STREAM_KEYS_FILE` names: `fourfold keys stream add NAME --for publish` (or `--for play`), `list`, `revoke`. The
RTMP server's calls of `/hooks/` show neither, but the secret of `FOURFOLD_HOOK_SECRET_FILE`.

After ten wrong keys within a minute, an address can for a while only use keys that it has used before. Behind a
proxy, set `FOURFOLD_TRUSTED_PROXIES`: else all clients have the proxy's address.

The scopes are SCOPES; `admin` has all of them. `/v1/models`, `/v1/engines`, `/docs` and `/health/ready` need any key.

A limit of a key lowers what the settings allow to everyone; none is counted over time:

| limit | of |
| --- | --- |
| `streams` | WebSocket sessions at once, and relays at once |
| `bytes` | the body of one request |
| `pixels` | one input picture, or one frame of a video, session or relay |
| `seconds` | one video, of its own time; one session or relay, of the clock |

## Error codes

The body of every answer that is an error is `{"error": {"code", "message", "request_id"}}`. A WebSocket gets
`{"type": "error", "code", "message"}` and is closed with the number in the third column; before it was accepted it
gets the HTTP answer. `fourfold_rejected_total{reason}` counts them by code.
"""


METRICS = """
## Metrics

`GET /metrics` has them in the text format of Prometheus; it needs the scope `metrics`. The edges of histograms in
seconds lie closely up to 0.1; 8.3, 16.7 and 33.3 ms are among them.
"""

HTTP = """# HTTP API

Written by `python -m server.reference` from the code; do not edit. A running service has the same as a page to try it
out at `/docs`, and for generators at `/openapi.json`.

With keys, each request shows one: `Authorization: Bearer KEY`. Only `/health/live` and the web page (`/` and `/web/`)
need none, and `/hooks/`, which has a secret of its own. Errors have one form and
[a list of codes](reference.md#error-codes). Live frames go over [the WebSocket](websocket.md) at `/v1/stream`.
"""


def reference() -> str:
    """The page of settings, keys, codes and metrics."""
    settings = _table(["variable", "default", "is"], [_setting(name, field) for name, field in Settings.model_fields.items()])
    codes = _table(
        ["code", "HTTP", "WebSocket", "means"],
        [[f"`{name}`", str(code.status), str(code.close), code.meaning] for name, code in CODES.items()],
    )
    return "\n".join(
        [HEAD, *settings, KEYS.replace("SCOPES", ", ".join(f"`{scope}`" for scope in SCOPES)), *codes, METRICS, *_metrics(), ""]
    )


def http_reference() -> str:
    """The page of routes."""
    document: dict[str, Any] = create_app(Settings.model_construct()).openapi()
    schemas = document["components"]["schemas"]
    routes = [
        _route(method, path, told, schemas) for path, found in document["paths"].items() for method, told in found.items()
    ]
    return "\n".join([HTTP, *("\n".join(route) for route in routes)])


def _route(method: str, path: str, told: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    given = told.get("parameters", [])
    rows = [_row(one["name"], one["schema"], one.get("description", f"In the {one['in']}.")) for one in given]
    table = [*_table(["parameter", "default", "is"], rows), ""] if rows else []
    codes = ", ".join(code for code in told["responses"] if code.isdigit())
    body = _body(told.get("requestBody", {}).get("content", {}), schemas)
    return [
        *(f"## {told['summary']}", "", f"`{method.upper()} {path}`", "", told.get("description", ""), ""),
        *(*table, *body, f"Answers: {codes}.", ""),
    ]


def _body(content: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    """Types that a body may have, and the fields of those that have some."""
    rows = []
    for kind in content.values():
        schema = schemas[kind["schema"]["$ref"].rpartition("/")[2]] if "$ref" in kind["schema"] else kind["schema"]
        for name, field in schema.get("properties", {}).items():
            rows.append(_row(name, field, field.get("description", "The file, in a form."), name in schema["required"]))
    table = [*_table(["field", "default", "is"], rows), ""] if rows else []
    return [f"Body: {', '.join(f'`{kind}`' for kind in content)}.", "", *table] if content else []


def _row(name: str, schema: dict[str, Any], about: str, required: bool = False) -> list[str]:
    """Of a parameter or a field: name, default, and what it is, with its bounds or values."""
    kind = schema | next(iter(schema.get("anyOf", [])), {})
    bounds = [f"{word} {kind[key]:.15g}" for word, key in (("from", "minimum"), ("to", "maximum")) if key in kind]
    values = [*([" ".join(bounds)] if bounds else []), *([", ".join(map(str, kind["enum"]))] if "enum" in kind else [])]
    default = "required" if required else f"`{schema['default']}`" if schema.get("default") not in (None, "") else ""
    return [f"`{name}`", default, " ".join([about, *(f"({value})" for value in values)])]


def _metrics() -> list[str]:
    found = [metric for metric in vars(Metrics()).values() if isinstance(metric, MetricWrapperBase)]
    return _table(["metric", "type", "labels", "is"], [_metric(metric) for metric in found])


def _metric(metric: MetricWrapperBase) -> list[str]:
    (told,) = metric.describe()
    name = f"{told.name}_total" if told.type == "counter" else told.name
    return [f"`{name}`", told.type, ", ".join(f"`{label}`" for label in metric._labelnames), told.documentation]


def _setting(name: str, field: FieldInfo) -> list[str]:
    choices = [f"`{choice}`" for choice in get_args(field.annotation) if isinstance(choice, str)]
    about = [field.description or "", *([f"One of {', '.join(choices)}."] if choices else [])]
    return [f"`{PREFIX}{name.upper()}`", _default(name, field.default), " ".join(about)]


def _default(name: str, value: Any) -> str:
    if name == "data_folder":
        return "`~/.local/share/fourfold`"
    if value is None or value == ():
        return ""
    if name.endswith("_bytes") and value % MIB == 0:
        return f"`{value}` ({value // MIB} MiB)"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


if __name__ == "__main__":
    TARGET.write_text(reference())
    HTTP_TARGET.write_text(http_reference())
