"""What can go wrong, by what a program would do about it.

FourfoldError
├── AuthenticationError    no API key, or a wrong one
├── PermissionDeniedError  the key may not do this
├── NotFoundError          no such model, job or relay
├── InvalidInputError      what was sent is damaged, unknown or not allowed
├── TooLargeError          it is larger than the service takes
├── ConflictError          not possible in the state that the thing is in
├── BusyError              try again, after `retry_after` seconds if that is known
├── EngineError            the engine does not answer, or not rightly
├── ServiceError           a fault of the service
└── ConnectionLostError    nobody answers, or not to the end

Knows nothing of HTTP libraries.
"""

import json
from collections.abc import Mapping


class FourfoldError(Exception):
    """Any refusal or failure."""

    def __init__(self, message: str, *, code: str, request_id: str | None = None, retry_after: float | None = None) -> None:
        """Args:
        message: one line for people.
        code: a slug for programs; the service's own are listed in its reference.
        request_id: finds the request in the service's log.
        retry_after: seconds after which another try makes sense.
        """
        super().__init__(message)
        self.message, self.code, self.request_id, self.retry_after = message, code, request_id, retry_after

    def __str__(self) -> str:
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.message} ({self.code}{request})"


class AuthenticationError(FourfoldError):
    """There is no API key, or it is unknown, revoked or expired."""


class PermissionDeniedError(FourfoldError):
    """The key lacks the scope for this."""


class NotFoundError(FourfoldError):
    """No such model, job or relay, or it belongs to someone else."""


class InvalidInputError(FourfoldError):
    """What was sent is damaged, unknown or not allowed; the message says what."""


class TooLargeError(FourfoldError):
    """More bytes than the service takes."""


class ConflictError(FourfoldError):
    """Not possible in the state that the thing is in now."""


class BusyError(FourfoldError):
    """The service is at its capacity, or is being restarted, or the key's quota is used up."""


class EngineError(FourfoldError):
    """The engine does not answer, or not rightly."""


class ServiceError(FourfoldError):
    """A fault of the service."""


class ConnectionLostError(FourfoldError):
    """Nobody answers at the service's address, or the connection ended before the answer did.

    The code is `unreachable` (no connection), `lost` (it ended), `timeout` (nothing came for too long) or `gateway` (a proxy
    says so).
    """


_KINDS: dict[type[FourfoldError], tuple[str, ...]] = {
    AuthenticationError: ("unauthorized",),
    PermissionDeniedError: ("forbidden",),
    NotFoundError: ("not_found", "unknown_model"),
    InvalidInputError: (
        *(
            "bad_request",
            "bad_message",
            "bad_multipart",
            "method_not_allowed",
            "not_acceptable",
            "slow_body",
            "unsupported_type",
        ),
        *("range", "invalid", "dimensions", "container", "unreadable", "unsupported", "hdr", "encoder", "decode_timeout"),
        *("target_denied", "unresolved"),
    ),
    TooLargeError: ("too_large",),
    ConflictError: ("conflict", "cancelled", "stream_busy"),
    BusyError: ("busy", "quota", "rate", "restart", "slow_consumer"),
    EngineError: ("engine_unavailable", "engine_timeout", "gpu_oom", "bad_output"),
    ServiceError: ("internal", "crashed", "storage"),
}
KIND_OF_CODE = {code: kind for kind, codes in _KINDS.items() for code in codes}

_KIND_OF_STATUS: dict[int, type[FourfoldError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    429: BusyError,
    503: BusyError,
}

_GATEWAY = (502, 503, 504)
"""What a proxy answers when nobody stands behind it."""

CODE_OF_CLOSE = {1003: "bad_message", 1008: "bad_request", 1009: "too_large", 1011: "internal", 1012: "restart", 1013: "busy"}
"""What a WebSocket that was closed without a word says by its close code."""


def error_of(
    code: str, message: str, *, status: int = 500, request_id: str | None = None, retry_after: float | None = None
) -> FourfoldError:
    """The error for a code of the service; `status` decides where a newer service has a code that we do not know."""
    by_status = _KIND_OF_STATUS.get(status, InvalidInputError if status < 500 else ServiceError)
    return KIND_OF_CODE.get(code, by_status)(message, code=code, request_id=request_id, retry_after=retry_after)


def error_of_answer(status: int, headers: Mapping[str, str], body: bytes) -> FourfoldError:
    """The error that an HTTP answer holds."""
    retry_after, request_id = _seconds(headers.get("retry-after", "")), headers.get("x-request-id")
    try:
        words = json.loads(body)["error"]
        code, message, request_id = str(words["code"]), str(words["message"]), words.get("request_id", request_id)
    except (ValueError, KeyError, TypeError, AttributeError):  # no answer of the service: something else stands in between
        text = f"the address answered HTTP {status}, and not as a Fourfold service does"
        if status in _GATEWAY:
            return ConnectionLostError(text, code="gateway", request_id=request_id, retry_after=retry_after)
        return error_of(f"http_{status}", text, status=status, request_id=request_id, retry_after=retry_after)
    return error_of(code, message, status=status, request_id=request_id, retry_after=retry_after)


def _seconds(value: str) -> float | None:
    """Of a Retry-After header; None if it is a date, or is not there."""
    return float(value) if value.strip().isdecimal() else None
