"""What the OpenAPI document says of errors: one body form, and the codes that each route answers with."""

from typing import Any

from pydantic import BaseModel, Field

from server.errors import CODES


class ErrorDetail(BaseModel):
    """Why a request was refused."""

    code: str = Field(description="A slug that stays the same over versions.", examples=["too_large"])
    message: str = Field(description="One line for people: the limit, the value that broke it, what to do.")
    request_id: str = Field(description="The X-Request-Id of this answer, which the service's log names too.")


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


ANY_ERROR: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorBody, "description": "Any other error; `internal` (500) is a fault of the service."}
}
"""The `responses` that every route has."""


def errors(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with these codes, beside what every route can answer."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        status, meaning = CODES[code].status, f"`{code}`: {CODES[code].meaning}"
        known = by_status.get(status)
        description = f"{known['description']} {meaning}" if known else meaning
        by_status[status] = {"model": ErrorBody, "description": description}
    return by_status
