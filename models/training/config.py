"""What a training run is told: one TOML file, checked key by key."""

import tomllib
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from models.errors import FourfoldError


class ConfigError(FourfoldError):
    """A training configuration is wrong; the message names file, key and what is allowed."""


@dataclass(frozen=True)
class NetworkConfig:
    name: str  # architecture, as in the registry
    scale: int
    start: str  # title of the shipped checkpoint to start from, as xlsr-x4 (see `models.checkpoint.load_start`); "": none


@dataclass(frozen=True)
class DataConfig:
    images: str  # folder below the data directory
    validation_every: int  # each n-th image by name is held out,
    validation_side: int  # counting those of at least so many pixels a side
    crop: int  # low-resolution pixels
    rescale: list[float]
    intensity: list[float]


@dataclass(frozen=True)
class TrainingConfig:
    steps: int
    batch: int  # crops a step
    seed: int
    learning_rate: float
    warmup_steps: int
    final_learning_rate: float
    charbonnier_epsilon: float  # in units of full intensity (0..1)
    clip_penalty: float
    gradient_norm: float
    weight_decay: float
    ema_decay: float  # weight of the past in the averaged network, a step
    validate_steps: int
    checkpoint_seconds: float
    bfloat16: bool
    compile: bool


@dataclass(frozen=True)
class CompressionConfig:
    """Low-resolution pictures that went through H.264, as live streams do. See `models.training.compression`."""

    share: float  # of the crops; the others are clean
    versions: int  # clips made of each picture before the training starts
    crf: list[int]  # lowest and highest, both included
    presets: list[str]  # of libx264


@dataclass(frozen=True)
class AdversarialConfig:
    """A discriminator and a loss on features beside the pixel loss. See `models.training.objectives`."""

    weight: float  # of the adversarial loss
    content_weight: float  # of the distance of MobileNetV2 features
    content_blocks: list[int]  # MobileNetV2's blocks whose features are compared, 0 to 16 (0: the layer before the first)
    content_weights: str  # file below the data directory
    distance_weights: str  # file below the data directory: what the best network is chosen by
    learning_rate: float  # of the discriminator
    head_start: int  # steps in which the discriminator learns alone


@dataclass(frozen=True)
class RunConfig:
    """All that a training run is told.

    On a CPU, a run is repeated exactly by the same file, start, data and number of threads. On a GPU some gradients are summed
    in an order that changes from run to run.
    """

    network: NetworkConfig
    data: DataConfig
    training: TrainingConfig
    compression: CompressionConfig | None = None
    adversarial: AdversarialConfig | None = None


X264_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")

# key, what its value must fulfil beyond its type, in words
RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("data.validation_every", lambda every: every >= 2, "2 or more: the others are trained on"),
    ("data.rescale", lambda factors: bool(factors) and all(0 < f <= 1 for f in factors), "factors above 0, up to 1"),
    ("data.intensity", lambda factors: bool(factors) and all(0 < f <= 1 for f in factors), "factors above 0, up to 1"),
    ("training.learning_rate", lambda rate: rate > 0, "a number above 0"),
    ("training.ema_decay", lambda decay: 0 <= decay < 1, "a number from 0 to less than 1"),
    ("adversarial.content_blocks", lambda blocks: bool(blocks) and all(0 <= b <= 16 for b in blocks), "blocks from 0 to 16"),
    ("compression.share", lambda share: 0 <= share <= 1, "a number from 0 to 1"),
    ("compression.crf", lambda crf: len(crf) == 2 and crf[0] <= crf[1] <= 51, "the lowest and the highest, up to 51"),
    (
        "compression.presets",
        lambda names: bool(names) and set(names) <= set(X264_PRESETS),
        f"some of {', '.join(X264_PRESETS)}",
    ),
)

Section = TypeVar("Section")


def load_config(path: Path) -> RunConfig:
    """Reads the TOML file at `path`.

    Raises:
        ConfigError: the file is missing or no TOML, or a key is missing, unknown, of the wrong type or too small.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    sections = get_type_hints(RunConfig)
    optional = {name: get_args(kind)[0] for name, kind in sections.items() if get_args(kind)}
    _check_keys(path, "", tables, set(sections), set(optional))
    kinds = sections | optional
    config = RunConfig(**{name: _section(path, name, kinds[name], table) for name, table in tables.items()})
    for key, allowed, takes in RULES:
        section, _, name = key.partition(".")
        if (table := getattr(config, section)) is not None and not allowed(getattr(table, name)):
            raise ConfigError(f"{path}: {key} = {getattr(table, name)!r}; it takes {takes}")
    return config


def _section(path: Path, name: str, kind: type[Section], table: Any) -> Section:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {name} = {table!r} is of the wrong type; it takes a table, [{name}]")
    types = get_type_hints(kind)
    _check_keys(path, f"{name}.", table, set(types))
    return kind(**{key: _value(path, f"{name}.{key}", expected, table[key]) for key, expected in types.items()})


def _value(path: Path, key: str, expected: Any, value: Any) -> Any:
    if get_origin(expected) is list and isinstance(value, list):
        (item,) = get_args(expected)
        return [_value(path, f"{key}[{index}]", item, entry) for index, entry in enumerate(value)]
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        takes = expected.__name__ if isinstance(expected, type) and not get_args(expected) else expected
        raise ConfigError(f"{path}: {key} = {value!r} is of the wrong type; it takes {takes}")
    if type(value) is int and value < 1 and not key.endswith((".seed", ".warmup_steps")) and ".content_blocks[" not in key:
        raise ConfigError(f"{path}: {key} = {value}; it takes 1 or more")
    return value


def _check_keys(path: Path, prefix: str, table: dict[str, Any], known: set[str], optional: Set[str] = frozenset()) -> None:
    for problem, keys in (("unknown", table.keys() - known), ("missing", known - optional - table.keys())):
        if keys:
            names = ", ".join(prefix + key for key in sorted(keys))
            raise ConfigError(f"{path}: {problem} key {names}; known are {', '.join(sorted(known))}")
