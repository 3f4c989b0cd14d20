"""What the service answers when it says no: one error type, and one table of codes with their HTTP and WebSocket forms.

FourfoldError
├── ServiceError     what a caller is told
└── SettingsError    a setting is missing or wrong; the service does not start

Knows nothing of FastAPI; `server.api._errors` turns these into answers.
"""

from dataclasses import dataclass

from models.errors import FourfoldError


@dataclass(frozen=True)
class Code:
    """How one kind of error is answered."""

    status: int  # of HTTP
    close: int  # of a WebSocket: 1003 unsupported, 1008 policy, 1009 too big, 1011 internal, 1012 restart, 1013 try later
    meaning: str


CODES: dict[str, Code] = {
    "bad_request": Code(400, 1008, "The request is no HTTP, or its body could not be parsed."),
    "bad_message": Code(400, 1003, "A WebSocket message of the wrong kind or form: text where a frame is due, or the reverse."),
    "bad_multipart": Code(400, 1003, "The multipart body is broken or lacks the field."),
    "unauthorized": Code(401, 1008, "No API key, or one that is unknown, revoked or expired."),
    "forbidden": Code(403, 1008, "The key lacks the scope for this, or the page's origin is not allowed."),
    "not_found": Code(404, 1008, "There is nothing at this address, or it belongs to someone else."),
    "unknown_model": Code(404, 1008, "No such model at this scale; the message lists what there is."),
    "method_not_allowed": Code(405, 1008, "The address does not know this method."),
    "not_acceptable": Code(406, 1008, "None of the types that Accept names can be written."),
    "slow_body": Code(408, 1008, "No byte of the body came for too long."),
    "conflict": Code(409, 1008, "Not possible in the state that the thing is in now."),
    "stream_busy": Code(409, 1008, "Somebody publishes to this stream already."),
    "too_large": Code(413, 1009, "The body, picture file or message is larger than the limit."),
    "unsupported_type": Code(415, 1003, "Not one of the media types that are taken."),
    "range": Code(416, 1008, "The Range lies outside of the result."),
    "invalid": Code(422, 1008, "A parameter has a value that is not allowed; the message names both."),
    "dimensions": Code(422, 1008, "The picture or video has more pixels than the limit, or a size that does not work."),
    "container": Code(422, 1003, "Not one of the video containers that are opened."),
    "unreadable": Code(422, 1003, "The media is damaged or cut off."),
    "unsupported": Code(422, 1003, "The media is sound, but nothing that can be upscaled rightly."),
    "hdr": Code(422, 1003, "HDR video (PQ or HLG) is not upscaled."),
    "target_denied": Code(422, 1008, "Relays may not connect to this source or target; the settings say where they may."),
    "unresolved": Code(422, 1008, "The host of a source or target has no address."),
    "encoder": Code(422, 1003, "The encoder is unknown, or refuses the picture size or a setting."),
    "quota": Code(429, 1008, "The key has as many of these at once, or this one lasts as long, as its limit allows."),
    "rate": Code(429, 1008, "Too many requests, frames or wrong keys in too short a time."),
    "internal": Code(500, 1011, "A fault of the service; the request id finds it in the log."),
    "bad_output": Code(500, 1011, "The engine gave a picture that cannot be right; it was not sent."),
    "crashed": Code(500, 1011, "The process that worked on this ended unexpectedly; others are not touched."),
    "engine_unavailable": Code(503, 1013, "The engine does not answer just now; it is being restarted."),
    "gpu_oom": Code(503, 1013, "The device has no memory left for this, not even for one frame alone."),
    "busy": Code(503, 1013, "The service is at its capacity."),
    "restart": Code(503, 1012, "The service is shutting down; a new connection reaches its successor."),
    "slow_consumer": Code(503, 1013, "The client does not read its answers."),
    "decode_timeout": Code(504, 1011, "Reading the media took longer than allowed."),
    "engine_timeout": Code(504, 1011, "The engine did not answer in time."),
    "storage": Code(507, 1011, "There is no room left for uploads or results."),
}


class ServiceError(FourfoldError):
    """What a caller is told: the limit, the value that broke it, and what to do. Never a path, a key or a trace."""

    def __init__(self, code: str, message: str, *, retry_after: int | None = None) -> None:
        """Args:
        code: one of CODES.
        message: one line for the caller.
        retry_after: seconds after which another try makes sense.
        """
        super().__init__(message)
        self.code, self.message, self.retry_after = code, message, retry_after
        self.status, self.close_code = CODES[code].status, CODES[code].close


class SettingsError(FourfoldError):
    """A setting is missing or wrong: names the key, the value unless it is a secret, and the fix."""
