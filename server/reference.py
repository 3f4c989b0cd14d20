"""`python -m server.reference` writes docs/reference.md: every setting, every error code, what the limits of keys mean."""

from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from server.errors import CODES
from server.keyfile import SCOPES
from server.settings import MIB, PREFIX, Settings

TARGET = Path(__file__).parents[1] / "docs" / "reference.md"

HEAD = """# Settings, keys and error codes of the service

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
browser's WebSocket offers the subprotocol `fourfold.bearer.KEY`. With keys, everything but `/health/live` and `/hooks/`
asks for one.

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


def reference() -> str:
    """The page."""
    settings = _table(["variable", "default", "is"], [_setting(name, field) for name, field in Settings.model_fields.items()])
    codes = _table(
        ["code", "HTTP", "WebSocket", "means"],
        [[f"`{name}`", str(code.status), str(code.close), code.meaning] for name, code in CODES.items()],
    )
    return "\n".join([HEAD, *settings, KEYS.replace("SCOPES", ", ".join(f"`{scope}`" for scope in SCOPES)), *codes, ""])


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
