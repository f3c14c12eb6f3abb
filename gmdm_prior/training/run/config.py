"""The command line's configuration: `key=value` words over a YAML file over typed defaults."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from gmdm_prior.messages import nearest
from gmdm_prior.sigma import parse
from gmdm_prior.training.data.noise import training_noise
from gmdm_prior.training.settings import FROM_INIT, USED_BY, FitSettings, setting

LEVELS = ("sigma_min", "sigma_max")  # noise levels: numbers or fractions
OPTIONAL = {"out", "init"}


@dataclass
class TrainConfig(FitSettings):
    """What `python -m gmdm_prior.train` reads: where data and results are, and `FitSettings`."""

    data: str = setting(
        "", "folder of images (PNG, JPEG, TIFF, BMP), or bsds500:ROOT", "none, needed"
    )
    out: str | None = setting(
        None, "folder of the results; occupied, it needs resume=true", "runs/MODEL-METHOD"
    )
    holdout: int = setting(
        40,
        "one image in this many, from the first on, is held out; of a single image the lowest "
        "quarter",
    )
    shrink: int = setting(
        1,
        "means of shrink x shrink pixels are trained on; 2 for the colours of JPEG photographs, "
        "which have half the resolution",
    )
    init: str | None = setting(
        None,
        "weights that method=score or hqs starts from, a bundled name or a file",
        "bsds-gray, for model=patch a likelihood start",
    )
    resume: bool = setting(
        False, "go on from the last checkpoint in out; keys not given are those of out/config.yaml"
    )

    def fit_settings(self) -> FitSettings:
        """The part that `fit` reads."""
        names = [field.name for field in dataclasses.fields(FitSettings)]
        return FitSettings(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Request:
    """A configuration, and the keys that were given explicitly, in words or file."""

    config: TrainConfig
    given: dict[str, Any]

    def without_effect(self, config: TrainConfig) -> list[str]:
        """Given keys at which a run of this resolved configuration does not look."""
        method = config.method
        unused = {key for key, methods in USED_BY.items() if method not in methods}
        if config.model != "wavelet":
            unused.add("wavelet")
        if config.model != "conv":
            unused |= {"octaves", "orientations"}
        if method not in FROM_INIT:
            unused.add("init")
        elif config.init:
            unused |= {"patch_size", "channels"}
        return sorted(unused & set(self.given))


def read_request(words: Sequence[str]) -> Request:
    """Read the words of a command line.

    Raises:
        ValueError: for a missing or malformed file, an unknown key (the nearest right one is
            named), an ill-typed value, a word that is no `key=value`.
    """
    changes: dict[str, Any] = {}
    written: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{word!r} is no setting; write key=value, such as data=photos")
        if key == "config":
            written = read_yaml(Path(text).expanduser())
        else:
            changes[key] = text
    given = written | changes
    base: dict[str, Any] = {}
    asks_to_resume = typed({"resume": given["resume"]}).resume if "resume" in given else False
    if asks_to_resume and given.get("out"):
        stored = Path(str(given["out"])).expanduser() / "config.yaml"
        base = read_yaml(stored) if stored.is_file() else {}
    config = typed({**base, **given})
    agreed = {key: getattr(config, key) for key in given}
    return Request(config, agreed)


def typed(values: dict[str, Any]) -> TrainConfig:
    """Values over the defaults, with the types of `TrainConfig`.

    Raises:
        ValueError: an unknown key or an ill-typed value.
    """
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    ready = {}
    for key, value in values.items():
        if key not in fields:
            raise ValueError(_unknown(key, list(fields)))
        ready[key] = _prepared(key, value, textual="str" in str(fields[key].type))
    try:
        merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), ready)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except ConfigKeyError as error:
        raise ValueError(_unknown(error.full_key or str(error), list(fields))) from None
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise ValueError(f"{error.full_key or 'config'}: {reason}") from None


def _prepared(key: str, value: Any, textual: bool) -> Any:
    if key in LEVELS:
        return parse(value, key)
    if key == "noise":
        return training_noise(key, value)
    if not isinstance(value, str) or textual:
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"{key}={value} is no YAML value; quote it") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping of settings."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"config {str(path)!r} cannot be read: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"config {str(path)!r} must be a mapping of keys to values")
    return content


def to_yaml(config: TrainConfig) -> str:
    """All settings, resolved, with their meanings as comments."""
    lines = []
    for field in _ordered():
        value = getattr(config, field.name)
        if field.name == "resume":
            continue
        lines.append(f"# {field.metadata['meaning']}")
        lines.append(yaml.safe_dump({field.name: value}, allow_unicode=True).strip())
    return "\n".join(lines) + "\n"


def describe_keys() -> str:
    """Every key with its default and meaning, for `--help`."""
    lines = []
    for field in _ordered():
        text = f"{field.metadata['meaning']} [default: {field.metadata['shown']}]"
        wrapped = textwrap.wrap(text, 76)
        lines.append(f"  {field.name:17}{wrapped[0]}")
        lines += [f"{'':19}{line}" for line in wrapped[1:]]
    lines.append(f"  {'config':17}YAML file of any of these keys; words go before it")
    return "\n".join(lines)


def _ordered() -> list[dataclasses.Field]:
    """The fields, those of `TrainConfig` itself first."""
    fields = dataclasses.fields(TrainConfig)
    inherited = {field.name for field in dataclasses.fields(FitSettings)}
    return sorted(fields, key=lambda field: field.name in inherited)


def _unknown(key: str, known: list[str]) -> str:
    names = [*known, "config"]
    return f"unknown key {key!r}{nearest(key, names, 0.6) or nearest(key, names, 0.0)}"
