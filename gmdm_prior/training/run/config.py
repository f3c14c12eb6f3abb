"""The command line's configuration: `key=value` words over a YAML file over typed defaults."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.files.formats.picture import parse_range
from gmdm_prior.messages import nearest, one_line
from gmdm_prior.sigma import parse
from gmdm_prior.training.data.images import expanded
from gmdm_prior.training.data.noise import parse_noise
from gmdm_prior.training.methods import KINDS, every_method, method_of, of_init, resolved
from gmdm_prior.training.settings import FitSettings, setting

LEVELS = ("sigma_min", "sigma_max")  # noise levels: numbers or fractions
SHOWN = 80  # characters of a value in a message


@dataclass
class TrainConfig(FitSettings):
    """What `python -m gmdm_prior.train` reads: where data and results are, and `FitSettings`."""

    data: str = setting(
        "", "folder of images (PNG, JPEG, TIFF, .npy, DICOM, …), or bsds500:ROOT", "none, needed"
    )
    out: str | None = setting(
        None, "folder of the results; occupied, it needs resume=true", "runs/MODEL-METHOD"
    )
    holdout: int = setting(
        40,
        "one image in this many, from the first on, is held out; of a single image the lowest "
        "quarter",
    )
    scales: int = setting(
        1,
        "how many sizes of each clean image are trained on: itself, means of 2x2 pixels, of 3x3, …",
    )
    data_range: str | None = setting(
        None, "low,high or auto: the values of black and white", "what the type of a file says"
    )
    init: str | None = setting(
        None,
        "weights that method=score or hqs starts from, a bundled name or a file",
        "gray, for model=patch a likelihood start",
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
        method = method_of(config)
        unused = frozenset().union(*(m.uses for m in every_method())) - method.uses
        if config.init and "init" in method.uses:
            unused |= {"patch_size", "channels"}
        return sorted(unused & set(self.given))

    def adopted(self, config: TrainConfig, init: DensityModel) -> TrainConfig:
        """The configuration with what the start of score matching decides.

        Raises:
            ValueError: something else was asked for.
        """
        adopted = cast(TrainConfig, of_init(config, init))
        for key in ("model", "symmetries"):
            asked, has = self.given.get(key), getattr(adopted, key)
            if asked not in (None, has):
                raise ValueError(f"init={config.init} has {key}={has}; {key}={asked} was asked for")
        return adopted


def complete(config: TrainConfig) -> TrainConfig:
    """Fill in what depends on other keys, and refuse what cannot be run.

    Raises:
        ValueError: for what cannot be run, with the remedy.
    """
    if not config.data:
        raise ValueError("data is needed: a folder of images, as in data=photos (--help has more)")
    for key, least in (("holdout", 2), ("scales", 1)):
        if getattr(config, key) < least:
            raise ValueError(f"{key} must be at least {least}; got {getattr(config, key)}")
    settings = resolved(config.fit_settings())
    if settings.noise and config.scales > 1:
        raise ValueError(
            f"scales must be 1 with noise={settings.noise}, which means of pixels do not have; got "
            f"{config.scales}"
        )
    out = config.out or f"runs/{settings.model}-{settings.method}"
    usual = KINDS[settings.model].init if "init" in method_of(settings).uses else None
    return dataclasses.replace(config, **vars(settings), out=out, init=config.init or usual)


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
            written = read_yaml(expanded(key, text))
        else:
            changes[key] = text
    given = written | changes
    base: dict[str, Any] = {}
    asks_to_resume = typed({"resume": given["resume"]}).resume if "resume" in given else False
    if asks_to_resume and given.get("out"):
        stored = expanded("out", str(given["out"])) / "config.yaml"
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
        if value == "???":  # OmegaConf's mark of a value that is still to come
            raise ValueError(f"{key}=??? says that a value is missing: write one")
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
        return parse_noise(key, value)
    if key == "data_range":
        found = parse_range(value)
        return f"{found[0]:g},{found[1]:g}" if isinstance(found, tuple) else found
    if not isinstance(value, str) or textual:
        return value
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, RecursionError):
        raise ValueError(f"{key}={value[:SHOWN]} is no YAML value; quote it") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping of settings."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"config {str(path)!r} cannot be read: {one_line(error)}") from None
    except RecursionError:
        raise ValueError(f"config {str(path)!r} is nested too deeply; write key: value") from None
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
