"""Every setting of the service: FOURFOLD_… variables, over a TOML file named by FOURFOLD_CONFIG, over the defaults here."""

import os
import re
import tomllib
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.registry import MODELS
from server.errors import ServiceError, SettingsError
from server.targets import parse_pattern, parse_place

PREFIX = "FOURFOLD_"
ELSEWHERE = ("FOURFOLD_CACHE", "FOURFOLD_CONFIG", "FOURFOLD_DATA")
"""Variables that others read: the cache of compiled engines, this module, training and tests."""

MIB = 1024**2

File = Annotated[Path, AfterValidator(Path.expanduser)]
Names = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(lambda value: value.replace(",", " ").split() if isinstance(value, str) else value),
]
EngineName = Literal["auto", "tensorrt", "torch", "onnxruntime-cuda", "openvino", "onnxruntime"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16", "int8"]

_WEB_FOLDER = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?(/[\w.~-]+)*/?", re.ASCII)


def _known_model(name: str) -> str:
    names = ["auto", *dict.fromkeys(model.name for model in MODELS)]
    if name not in names:
        raise ValueError(f"input should be {', '.join(names)}")
    return name


ModelName = Annotated[str, AfterValidator(_known_model)]


def _patterns(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        parse_pattern(text)
    return texts


def _server(url: str) -> str:
    try:
        parse_place("source", f"{url.rstrip('/')}/live/name")
    except ServiceError:
        raise ValueError("input should be rtmp://HOST:PORT") from None
    return url.rstrip("/")


def _web_folder(url: str) -> str:
    if not _WEB_FOLDER.fullmatch(url):
        raise ValueError("input should be like https://media.example.com/hls, without user, password or query")
    return url.rstrip("/")


Patterns = Annotated[Names, AfterValidator(_patterns)]
WebFolder = Annotated[str, AfterValidator(_web_folder)]
RtmpServer = Annotated[str, AfterValidator(_server)]


def _default_data_folder() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "fourfold"


def _secret(default: Any, description: str) -> Any:
    """A field whose value is never shown: people put the secret itself where the name of its file belongs."""
    return Field(default, description=description, json_schema_extra={"secret": True})


class Settings(BaseSettings):
    """What an operator may choose. `load_settings` makes one and turns what is wrong into one line."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    tls_cert: File | None = Field(None, description="Certificate chain, a PEM file; given together with tls_key.")
    tls_key: File | None = _secret(None, "Private key of tls_cert, a PEM file.")
    allow_anonymous: bool = Field(False, description="Listen on other addresses than loopback without API keys.")
    api_keys_file: File | None = _secret(
        None, "File of hashed API keys, written by `fourfold keys`; without it none is asked for."
    )
    allowed_origins: Names = Field(
        (), description="Origins of web pages that may use the service, beside its own; separated by commas."
    )
    trusted_proxies: Names = Field(
        (), description="Addresses of proxies whose X-Forwarded-For and -Proto are believed; separated by commas."
    )
    data_folder: File = Field(default_factory=_default_data_folder, description="Folder of jobs, uploads, results and relays.")

    model: ModelName = Field("auto", description="Model of requests that name none: a model's name, or auto (the best PSNR).")
    engine: EngineName = Field("auto", description="Backend of the engine; auto: the fastest that works here.")
    precision: PrecisionName = Field("auto", description="Precision of the engine; auto: the fastest that is right.")

    log_format: Literal["console", "json"] = Field(
        "console", description="Form of the log: for people, or a JSON object a line."
    )

    max_image_bytes: int = Field(32 * MIB, gt=0, description="Bytes of one picture's request body.")
    max_image_pixels: int = Field(2048 * 2048, gt=0, description="Input pixels of one picture.")
    max_video_bytes: int = Field(4096 * MIB, gt=0, description="Bytes of one video's request body.")
    max_video_pixels: int = Field(1920 * 1080, gt=0, description="Input pixels of one frame of a video or a stream.")
    max_output_pixels: int = Field(8192 * 8192, gt=0, description="Output pixels of one picture or frame.")
    max_frame_bytes: int = Field(16 * MIB, gt=0, description="Bytes of one WebSocket message.")

    storage_bytes: int = Field(20 * 1024 * MIB, gt=0, description="Bytes of all uploads and results together.")
    job_retention_seconds: int = Field(
        86400, gt=0, description="Seconds that a finished job and its result, or a relay that ended, are kept."
    )
    max_jobs_running: int = Field(1, gt=0, description="Video jobs that run at once.")
    max_jobs_queued: int = Field(100, gt=0, description="Video jobs that wait.")

    max_streams: int = Field(64, gt=0, description="WebSocket sessions at once.")
    max_streams_per_key: int = Field(16, gt=0, description="WebSocket sessions of one key at once, where the key has no limit.")
    frame_queue: int = Field(8, gt=0, description="Frames of one stream that may wait.")
    live_budget_ms: int = Field(250, gt=0, description="Milliseconds from a live frame's bytes in to its bytes out.")
    slow_consumer_seconds: float = Field(10.0, gt=0, description="Seconds without a byte read before a client is dropped.")
    ping_seconds: float = Field(
        20.0, gt=0, description="Seconds between WebSocket pings; half of it without a pong ends a session."
    )

    rtmp_server: RtmpServer = Field(
        "rtmp://127.0.0.1:1935",
        description="RTMP server whose streams are upscaled, as this service reaches it; relays may always use it.",
    )
    hls_url: WebFolder | None = Field(
        None,
        description="Where browsers find the HLS of rtmp_server, such as https://media.example.com/hls; "
        "by default http://HOST:8080/hls with the HOST of the page.",
    )
    hook_secret_file: File | None = _secret(
        None, "File of the secret that the RTMP server shows with its calls; without it only a service on loopback takes them."
    )
    stream_keys_file: File | None = _secret(
        None, "File of hashed stream keys, written by `fourfold keys stream`; without it everyone may publish and play."
    )
    relay_sources: Patterns = Field(
        (),
        description="Where relays may play from, beside rtmp_server, such as rtmp://media.example.com:1935, "
        "rtmps://*.example.com or rtmp://10.0.0.0/8; separated by commas.",
    )
    relay_targets: Patterns = Field((), description="Where relays may publish to, beside rtmp_server; as relay_sources.")
    max_relays: int = Field(16, gt=0, description="Relays at once.")
    max_relays_per_key: int = Field(4, gt=0, description="Relays of one key at once, where the key has no limit.")
    relay_max_load: float = Field(
        0.9,
        gt=0,
        description="Share of the processor time of its cores that the service may take before another relay is refused.",
    )
    hold_seconds: float = Field(
        30.0, ge=0, description="Seconds that a relay shows the last frame while its source is away, before it ends."
    )
    source_timeout_seconds: float = Field(
        5.0, gt=0, description="Seconds without a byte, until a relay's source is connected again."
    )
    target_timeout_seconds: float = Field(
        5.0, gt=0, description="Seconds that a relay's target may take for a frame or a handshake."
    )

    image_workers: int = Field(2, gt=0, description="Processes that decode and encode pictures.")
    image_timeout_seconds: float = Field(
        60.0,
        gt=0,
        description="Seconds that one picture may take; the first one of a network includes the trial of its engines.",
    )
    worker_memory_bytes: int = Field(
        1536 * MIB, gt=0, description="Bytes of data that the process of a session or of pictures may hold."
    )
    video_memory_bytes: int = Field(
        4096 * MIB, gt=0, description="Bytes of data that the process of a video may hold; encoders of 8K take 2.6 GiB."
    )

    relay_memory_bytes: int = Field(2048 * MIB, gt=0, description="Bytes of data that the process of a relay may hold.")

    header_timeout_seconds: float = Field(10.0, gt=0, description="Seconds that a request's headers may take.")
    body_timeout_seconds: float = Field(
        10.0, gt=0, description="Seconds without a byte of a request's body, or without a session's start message."
    )
    shutdown_grace_seconds: float = Field(20.0, gt=0, description="Seconds that work in flight has to end after SIGTERM.")


def load_settings(**overrides: Any) -> Settings:
    """What `read_settings` gives, once it is sure that the service can start with it."""
    settings = read_settings(**overrides)
    _check_whole(settings)
    return settings


def read_settings(**overrides: Any) -> Settings:
    """The settings from file and environment, `overrides` (from a command line; None: not given) above both.

    Raises:
        SettingsError: one line with the key, the value and the fix.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    _check_variables()
    try:
        # The file's values first: init arguments beat variables, so those that a variable sets are left out.
        stored = {key: value for key, value in _from_file().items() if not os.environ.get(PREFIX + key.upper())}
        return Settings(**stored | given)
    except ValidationError as error:
        raise SettingsError(_explained(error)) from None


def is_loopback(host: str) -> bool:
    """Whether `host` is an address that only this machine reaches."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _from_file() -> dict[str, Any]:
    name = os.environ.get("FOURFOLD_CONFIG")
    if not name:
        return {}
    try:
        stored = tomllib.loads(Path(name).read_text())
    except OSError as error:
        raise SettingsError(f"FOURFOLD_CONFIG={name} cannot be read: {error.strerror}; name a TOML file") from error
    except ValueError as error:
        raise SettingsError(f"FOURFOLD_CONFIG={name} is not TOML: {error}") from error
    for key in stored:
        if key not in Settings.model_fields:
            raise SettingsError(f"{key} in {name} is no setting; {_suggestion(key, list(Settings.model_fields))}")
    return stored


def _check_variables() -> None:
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    for key in os.environ:
        if key.startswith(PREFIX) and key not in known and key not in ELSEWHERE:
            raise SettingsError(f"{key} is no setting; {_suggestion(key, known)}")


def _suggestion(key: str, known: list[str]) -> str:
    close = get_close_matches(key, known, 1)
    return f"did you mean {close[0]}?" if close else "remove it (docs/reference.md lists what there is)"


def _explained(error: ValidationError) -> str:
    """The first thing that is wrong: key, value unless it is secret, what it must be."""
    first = error.errors(include_url=False, include_context=False)[0]
    key = str(first["loc"][0])
    field: FieldInfo = Settings.model_fields[key]
    extra = field.json_schema_extra
    value = "" if isinstance(extra, dict) and extra.get("secret") else f" ({str(first.get('input'))[:80]!r})"
    return f"{PREFIX}{key.upper()}{value}: {first['msg'].lower()}; it is: {field.description}"


def _check_whole(settings: Settings) -> None:
    """What no field can see alone."""
    if bool(settings.tls_cert) != bool(settings.tls_key):
        missing = "FOURFOLD_TLS_KEY" if settings.tls_cert else "FOURFOLD_TLS_CERT"
        raise SettingsError(f"{missing} is missing: TLS needs FOURFOLD_TLS_CERT and FOURFOLD_TLS_KEY")
    fixes = {
        "api_keys_file": "; make one with `fourfold keys add`",
        "stream_keys_file": "; make one with `fourfold keys stream add`",
    }
    for key in ("tls_cert", "tls_key", "api_keys_file", "hook_secret_file", "stream_keys_file"):
        path: Path | None = getattr(settings, key)
        if path is not None and not os.access(path, os.R_OK):
            fix = fixes.get(key, "")
            raise SettingsError(f"{PREFIX}{key.upper()} names a file that does not exist or cannot be read{fix}")
    if not (is_loopback(settings.host) or settings.api_keys_file or settings.allow_anonymous):
        raise SettingsError(
            f"FOURFOLD_HOST={settings.host} can be reached from other machines, but there are no API keys: "
            "make some (`fourfold keys add`, FOURFOLD_API_KEYS_FILE), or set FOURFOLD_ALLOW_ANONYMOUS=true"
        )
