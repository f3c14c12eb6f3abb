"""The configuration of `restore`: `key=value` words over a YAML file over typed defaults.

A prior is a name or a mapping with `name`, its weight `lambda`, its noise level `sigma`, its own
settings of the `solver` and the options of its factory. `prior=NAME` replaces the whole mapping
when the name changes and takes the options from `priors.NAME`, so that one file holds what each
prior needs in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from deepinv_gmdm.command.words import PAGES, expanded
from deepinv_gmdm.operator_config import USES, PhysicsConfig
from deepinv_gmdm.solver_config import SolverConfig
from gmdm_prior.messages import nearest, one_line, unknown


@dataclass
class RestoreConfig:
    """Holds what `restore` reads."""

    measurement: str | None = None
    truth: str | None = None
    image: str | None = None
    physics: PhysicsConfig = field(default_factory=PhysicsConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    prior: Any = "gmdm"
    priors: dict[str, Any] = field(default_factory=dict)
    data_range: Any = None
    axis: int | None = None
    key: str | None = None
    pages: str = "each"
    out: str = "restored"
    overwrite: bool = False
    device: str = "cpu"


FILES = ("physics.kernel", "physics.mask", "physics.angles", "physics.coil_maps")  # may be files
OF_PRIOR = ("prior.name", "prior.lambda", "prior.weights", "prior.denoiser")
INPUTS = ("image", "measurement", "truth")
LITERAL = (*INPUTS, "out")  # taken as they are written, and not as YAML
NAMED = ("physics", "solver")  # mappings that a bare name stands for, as prior=tv does
PICTURES: tuple[str, ...]
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".npy", ".npz", ".dcm")
PICTURES += (".fits", ".fit", ".mrc", ".nii", ".gz", ".h5", ".hdf5")


def shipped(kind: str) -> Path:
    """The folder of the configs or images that come with the package: `"configs"` or `"images"`.

    An installed wheel holds them inside the package, a checkout in `examples/`.
    """
    inside = Path(__file__).parents[1] / kind
    return inside if inside.is_dir() else Path(__file__).parents[3] / "examples" / kind


def load_config(source: str, words: Sequence[str] = ()) -> DictConfig:
    """Read and resolve a configuration.

    Args:
        source: path of a YAML file, or the bare name of a config that comes with the package
            (`deblur`).
        words: `key=value` overrides; values are read as YAML.

    Returns:
        A config with every key of `RestoreConfig`, whose `prior` is a mapping and whose `image` is
        a path.

    Raises:
        ValueError: for a missing or malformed file, an unknown key (the nearest right one is
            named), an ill-typed value, or an override that is no `key=value`.
    """
    if expanded(source, "config").suffix.lower() in PICTURES:
        raise ValueError(_picture_for_config(source))
    path = _find(source, "config", "configs", ".yaml")
    try:
        written = _read(path)
        changes = [_named(*_split(word)) for word in words]
        for key in NAMED:
            if _named(key, written.get(key))[0] != key:
                written[key] = {"name": written[key]}
        in_file = written.pop("prior", RestoreConfig.prior)
        config: Any = OmegaConf.structured(RestoreConfig)
        config = OmegaConf.merge(config, OmegaConf.create(written))
        options: list[tuple[str, Any]] = []
        others: list[tuple[str, Any]] = []
        for key, value in changes:
            mine = key == "prior" or key.startswith("prior.")
            (options if mine else others).append((key, value))
        priors_first = sorted(others, key=lambda change: not change[0].startswith("priors."))
        config = _update(config, [c for c in priors_first if c[0].startswith("priors.")])
        priors: Any = OmegaConf.to_container(config.priors)
        prior = resolve_prior(in_file, priors, options)
        config.solver = OmegaConf.merge(config.solver, _solver_of(prior))
        config = _update(config, [c for c in others if not c[0].startswith("priors.")])
        config.prior = prior
        if isinstance(config.priors.get(prior["name"]), DictConfig):
            config.priors[prior["name"]].pop("solver", None)  # it is in `solver` now
        sources = [OmegaConf.is_missing(config, key) or not config[key] for key in INPUTS[:2]]
        if all(sources):
            raise ValueError(
                f"config {str(path)!r} needs the key 'image', the path of a picture to be measured "
                "by simulation, or 'measurement', the file of your own"
            )
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ValueError(f"config key {missing[0]!r}: '???' is no value; give one")
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise ValueError(_unknown_key(error.full_key or str(error))) from None
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise ValueError(f"config key {error.full_key or '?'!r}: {reason}") from None
    except RecursionError:
        raise ValueError(f"config {str(path)!r} and its overrides are nested too deeply") from None
    _locate(config, path.parent)
    ours = path.parent == shipped("configs").resolve()
    _of_this_noise(config, None if ours else written, dict(changes))
    if config.measurement:
        _check_measured(config, set(dict(changes)))
    _check_files(config, set(dict(changes)))
    return config


def _check_files(config: DictConfig, told: set[str]) -> None:
    """Refuse a file that the operator does not look at: it would be left out in silence."""
    name = config.physics.name
    for key in FILES:
        own = key.removeprefix("physics.")
        if key in told and name in USES and own not in USES[name]:
            users = ", ".join(other for other, keys in USES.items() if own in keys)
            raise ValueError(f"physics.name={name} does not look at {key}: it is for {users}")


def _of_this_noise(
    config: DictConfig, written: dict[str, Any] | None, changes: dict[str, Any]
) -> None:
    """Drop what a config of the package, which simulates, says of another noise.

    A measurement's noise is read off it where neither a config of the user's (`written`, None of
    the package's) nor the command line says how strong it is. The levels of the package's configs
    that end at a given one suit the noise of the simulation only.
    """
    physics = (written or {}).get("physics")
    noise = physics.get("noise") if isinstance(physics, dict) else None
    said = set(noise) if isinstance(noise, dict) else set()
    told = {key for key in changes if key.startswith("physics.noise")}
    levels = {"physics.noise.sigma", "physics.noise.gain", "physics.noise"}
    if config.measurement and not told & levels and not said & {"sigma", "gain"}:
        config.physics.noise.sigma = "auto"
    other = written is None and (told or config.measurement)
    if other and config.solver.stop is not None and "solver.stop" not in changes:
        config.solver.stop = None
        if "solver.start" not in changes:
            config.solver.start = None


def _check_measured(config: DictConfig, told: set[str]) -> None:
    """Refuse a measurement whose operator or noise is half known, before it is read."""
    both = ("physics.noise.gain", "physics.noise.sigma")
    needed = both[:1] if config.physics.noise.name == "poisson" else both
    lacking = [key for key in needed if key not in told]
    if (
        config.physics.noise.name.startswith("poisson")
        and lacking
        and told & set(both)
        and str(config.physics.noise.sigma) != "auto"
    ):
        raise ValueError(
            f"physics.noise.name={config.physics.noise.name} needs {lacking[0]} too; or leave both "
            "out, and they are read off the measurement"
        )
    name = config.physics.name
    if name not in USES:
        raise ValueError(unknown("physics", name, USES))
    if config.pages not in PAGES:
        raise ValueError(
            f"pages={config.pages} is neither each (its own noise) nor shared (one for all)"
        )
    if name in ("motion_blur", "blur") and config.physics.kernel is None:
        raise ValueError(
            f"measurement= with physics.name={name} needs physics.kernel=FILE, the picture of a "
            "point"
        )


def _locate(config: DictConfig, beside: Path) -> None:
    """Make the paths of all inputs absolute; what is measured takes the image's place."""
    if config.measurement:
        config.image = None
    if config.image:
        config.image = str(_find(config.image, "image", "images", ".png", beside))
    for key in (*INPUTS[1:], *FILES):
        value = OmegaConf.select(config, key)
        if not isinstance(value, str) or (key == "physics.angles" and value.strip().isdigit()):
            continue
        path = expanded(value, key)
        place = next((p for p in (path, beside / path) if p.is_file()), None)
        if place is None:
            what = "is a folder" if path.is_dir() else "does not exist"
            raise ValueError(f"{key}={value}: the file {what}")
        OmegaConf.update(config, key, str(place.resolve()))


def _picture_for_config(source: str) -> str:
    return (
        f"{source!r} is no config: a config is YAML, such as deblur (`gmdm restore --list`). To "
        f"restore what the file shows type `gmdm restore deblur measurement={source} "
        f"physics.kernel=KERNEL`, to denoise it `gmdm denoise {source} sigma=auto`"
    )


def _named(key: str, value: Any) -> tuple[str, Any]:
    """`solver=admm` is `solver.name=admm`."""
    bare = key in NAMED and isinstance(value, str) and value != "???"
    return (f"{key}.name", value) if bare else (key, value)


def resolve_prior(
    written: Any, priors: dict[str, Any], changes: Iterable[tuple[str, Any]]
) -> dict[str, Any]:
    """The prior's mapping from the file's `prior` and `priors`, and overrides of `prior`.

    Raises:
        ValueError: where a prior is neither a name nor a mapping with `name`.
    """
    changes = list(changes)
    current = _adopt(written, priors)
    for key, value in changes:
        if key in ("prior", "prior.name"):
            if isinstance(value, str) and value == current["name"]:
                continue
            current = _adopt(value, priors)
    node = OmegaConf.create(current)
    for key, value in changes:
        if key not in ("prior", "prior.name"):
            OmegaConf.update(node, key.removeprefix("prior."), value, force_add=True)
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def _adopt(prior: Any, priors: dict[str, Any]) -> dict[str, Any]:
    given = {"name": prior} if isinstance(prior, str) else prior
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise ValueError(f"config key 'prior' is a name or a mapping with 'name'; got {prior!r}")
    options = priors.get(given["name"]) or {}
    if not isinstance(options, dict):
        raise ValueError(f"config key 'priors.{given['name']}' must be a mapping; got {options!r}")
    return {**options, **given}


def _solver_of(prior: dict[str, Any]) -> dict[str, Any]:
    settings = prior.pop("solver", None) or {}
    if not isinstance(settings, dict):
        raise ValueError(f"config key 'prior.solver' must be a mapping; got {settings!r}")
    known = SolverConfig.__dataclass_fields__
    for key in settings:
        if key not in known:
            raise ValueError(unknown("config key", f"prior.solver.{key}", known))
    return settings


def _update(config: DictConfig, changes: Iterable[tuple[str, Any]]) -> DictConfig:
    for key, value in changes:
        OmegaConf.update(config, key, value, merge=True)
    return config


def _split(word: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ValueError(f"{word!r} is no override; write key=value, such as prior=tv")
    quoted = text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 1
    if key in LITERAL and text not in ("", "null", "~") and not quoted:
        return key, text
    if key in (*FILES, "prior.weights") and text and Path(text).exists():
        return key, text
    try:
        return key, yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        raise ValueError(f"the value of {word!r} is no YAML; quote it") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        written = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, UnicodeDecodeError, OSError, OmegaConfBaseException) as error:
        raise ValueError(f"config {str(path)!r} cannot be read: {one_line(error)}") from None
    if not isinstance(written, dict):
        raise ValueError(f"config {str(path)!r} must be a mapping of keys to values")
    return written  # type: ignore[return-value]


def _find(source: str, what: str, kind: str, suffix: str, beside: Path | None = None) -> Path:
    path = expanded(source, what)
    folder = shipped(kind)
    places = [path, *([beside / path] if beside else []), folder / path]
    if path.name == source:
        places.append(folder / f"{source}{suffix}")
    for place in places:
        if place.is_file():
            return place.resolve()
    names = sorted(file.stem for file in folder.glob(f"*{suffix}"))
    is_folder = path.is_dir()
    near = ";" if is_folder else nearest(path.stem, names) or ";"
    raise ValueError(
        f"{what} {source!r} {'is a folder' if is_folder else 'does not exist'}{near} These come "
        f"with the package: {', '.join(names)}"
    )


def _unknown_key(key: str) -> str:
    known = [*_keys(OmegaConf.structured(RestoreConfig)), *OF_PRIOR]
    namesakes = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
    likely = namesakes or known
    return f"unknown config key {key!r}{nearest(key, likely, 0.6) or nearest(key, likely, 0.0)}"


def _keys(node: DictConfig, prefix: str = "") -> Iterable[str]:
    for key in node:
        yield f"{prefix}{key!s}"
        child = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(child, DictConfig):
            yield from _keys(child, f"{prefix}{key!s}.")
