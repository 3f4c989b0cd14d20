"""`fourfold keys …`: see `server.cli`."""

from pathlib import Path
from typing import Annotated

import typer

from models.errors import FourfoldError
from server.terminal import Json, print_json, table

keys = typer.Typer(no_args_is_help=True, help="API keys: make, list and revoke them.")

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


def _key_file(given: Path | None) -> Path:
    from server.settings import read_settings

    path = given or read_settings().api_keys_file
    if path is None:
        raise FourfoldError("where are the keys to be kept? give --file, or set FOURFOLD_API_KEYS_FILE")
    return path
