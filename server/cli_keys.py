"""`fourfold keys …`: see `server.cli`."""

from pathlib import Path
from typing import Annotated

import typer

from models.errors import FourfoldError
from server.terminal import Json, print_json, table

keys = typer.Typer(no_args_is_help=True, help="API keys and stream keys: make, list and revoke them.")

stream = typer.Typer(no_args_is_help=True, help="Stream keys, for the RTMP server: who may publish, and who may play.")
keys.add_typer(stream, name="stream")

KeyFile = Annotated[Path | None, typer.Option(help="The file of hashed keys; default FOURFOLD_API_KEYS_FILE.")]


@keys.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, dots, dashes, underscores.")],
    scope: Annotated[list[str], typer.Option(help="images, videos, streams, relays, metrics or admin; may be given again.")],
    expires: Annotated[int | None, typer.Option(min=1, metavar="DAYS", help="Days until it expires; default never.")] = None,
    limit: Annotated[
        list[str],
        typer.Option(
            metavar="WHAT=N",
            help="streams (at once), bytes (of one request), pixels (of one input frame) or seconds (of one video or session).",
        ),
    ] = [],  # noqa: B006
    file: KeyFile = None,
) -> None:
    """Make a key and print it: once, for only its hash is kept."""
    from datetime import UTC, datetime, timedelta

    from server.keyfile import add_key, parse_limits, parse_scopes

    expiry = datetime.now(UTC) + timedelta(days=expires) if expires else None
    print(add_key(_key_file(file), name, parse_scopes(scope), expiry, parse_limits(limit)))


@keys.command("list")
def keys_list(file: KeyFile = None, json: Json = False) -> None:
    """List the keys: names, scopes, expiry and limits."""
    from server.keyfile import key_rows

    rows = key_rows(_key_file(file))
    if json:
        print_json({"keys": rows})
        return
    limits = [", ".join(f"{what} {most}" for what, most in row["limits"].items() if most is not None) for row in rows]
    table(
        ["name", "scopes", "expires", "limits"],
        [[r["name"], ", ".join(r["scopes"]), r["expires"] or "never", own] for r, own in zip(rows, limits, strict=True)],
    )


@keys.command("revoke")
def keys_revoke(name: Annotated[str, typer.Argument(help="As `fourfold keys list` shows it.")], file: KeyFile = None) -> None:
    """Remove a key; a running service notices within seconds."""
    from server.keyfile import revoke_key

    revoke_key(_key_file(file), name)


StreamKeyFile = Annotated[Path | None, typer.Option(help="The file of hashed stream keys; default FOURFOLD_STREAM_KEYS_FILE.")]


@stream.command("add")
def stream_add(
    name: Annotated[str, typer.Argument(help="The stream's name: letters, digits, dashes, underscores; * for all streams.")],
    purpose: Annotated[str, typer.Option("--for", help="publish or play.")],
    expires: Annotated[int | None, typer.Option(min=1, metavar="DAYS", help="Days until it expires; default never.")] = None,
    file: StreamKeyFile = None,
) -> None:
    """Make a stream key and print it: once, for only its hash is kept."""
    from datetime import UTC, datetime, timedelta

    from server.stream_keys import add_stream_key

    expiry = datetime.now(UTC) + timedelta(days=expires) if expires else None
    print(add_stream_key(_stream_key_file(file), name, purpose, expiry))


@stream.command("list")
def stream_list(file: StreamKeyFile = None, json: Json = False) -> None:
    """List the stream keys: names, what they are for, expiry."""
    from server.stream_keys import stream_key_rows

    rows = stream_key_rows(_stream_key_file(file))
    if json:
        print_json({"keys": rows})
        return
    table(["stream", "for", "expires"], [[row["name"], row["purpose"], row["expires"] or "never"] for row in rows])


@stream.command("revoke")
def stream_revoke(
    name: Annotated[str, typer.Argument(help="As `fourfold keys stream list` shows it.")],
    purpose: Annotated[str | None, typer.Option("--for", help="publish or play; default both.")] = None,
    file: StreamKeyFile = None,
) -> None:
    """Remove the keys of a stream; a running service notices within seconds."""
    from server.stream_keys import revoke_stream_keys

    revoke_stream_keys(_stream_key_file(file), name, purpose)


def _key_file(given: Path | None) -> Path:
    from server.settings import read_settings

    return _given(given or read_settings().api_keys_file, "FOURFOLD_API_KEYS_FILE")


def _stream_key_file(given: Path | None) -> Path:
    from server.settings import read_settings

    return _given(given or read_settings().stream_keys_file, "FOURFOLD_STREAM_KEYS_FILE")


def _given(path: Path | None, setting: str) -> Path:
    if path is None:
        raise FourfoldError(f"where are the keys to be kept? give --file, or set {setting}")
    return path
