"""Priors, denoisers and noise estimators by name: deepinv's, ours, and any distribution's.

A distribution adds its own with three lines of `pyproject.toml`:

    [project.entry-points."deepinv_plugins.priors"]
    mine = "my_package.module:factory"

after which `build_prior({"name": "mine", "strength": 2})` calls `factory(strength=2)`. Nothing of a
plug-in is imported before it is asked for by name, so a broken one breaks itself only. Entry points
are read with the `entrypoints` package at the first look-up; where any installed distribution's
`entry_points.txt` is malformed and stops that, they are read again one distribution at a time with
`importlib.metadata`, leaving out the malformed one.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from operator import attrgetter
from typing import Any

import entrypoints

from gmdm_prior.messages import one_line, unknown

logger = logging.getLogger(__name__)
AROUND_DENOISERS = "deepinv_gmdm.native"  # its factories take first how a denoiser is built
# what deepinv itself brings, which has no registry
NATIVE: dict[str, dict[str, str]] = {
    "priors": {
        "l1": "deepinv.optim:L1Prior",
        "l12": "deepinv.optim:L12Prior",
        "pnp": f"{AROUND_DENOISERS}:pnp",
        "red": f"{AROUND_DENOISERS}:red",
        "score": f"{AROUND_DENOISERS}:score",
        "tikhonov": "deepinv.optim:Tikhonov",
        "tv": "deepinv.optim:TVPrior",
        "tv-l1": "deepinv.optim:TVL1Prior",
        "wavelet": "deepinv.optim:WaveletPrior",
        "zero": "deepinv.optim:ZeroPrior",
    },
    "denoisers": {
        "bilateral": "deepinv.models:BilateralFilter",
        "bm3d": "deepinv.models:BM3D",
        "dncnn": "deepinv.models:DnCNN",
        "drunet": "deepinv.models:DRUNet",
        "epll": "deepinv.models:EPLLDenoiser",
        "gsdrunet": "deepinv.models:GSDRUNet",
        "median": "deepinv.models:MedianFilter",
        "scunet": "deepinv.models:SCUNet",
        "tgv": "deepinv.models:TGVDenoiser",
        "tv": "deepinv.models:TVDenoiser",
        "wavelet": "deepinv.models:WaveletDenoiser",
    },
    "noise_estimators": {
        "patch_covariance": "deepinv.models:PatchCovarianceNoiseEstimator",
        "wavelet": "deepinv.models:WaveletNoiseEstimator",
    },
}
GROUPS = {kind: f"deepinv_plugins.{kind}" for kind in NATIVE}


@dataclass(frozen=True)
class Plugin:
    """One registered name.

    Attributes:
        kind: `"priors"`, `"denoisers"` or `"noise_estimators"`.
        name: what it is asked for by.
        target: `module:attribute` of its factory.
        distribution: who registered it; `"deepinv"` for deepinv's own.
    """

    kind: str
    name: str
    target: str
    distribution: str

    def __str__(self) -> str:
        """Give what it is, its name, and whose, for messages."""
        return f"{_noun(self.kind)} {self.name!r} of {self.distribution!r}"

    def load(self) -> Callable[..., Any]:
        """Import the factory.

        Raises:
            ValueError: where the import fails in any way; names the plug-in and its distribution.
        """
        module, _, attribute = self.target.partition(":")
        try:
            factory = import_module(module.strip())
            if attribute.strip():
                factory = attrgetter(attribute.split("[")[0].strip())(factory)
        except (Exception, SystemExit) as error:  # whatever a third party's module does at import
            reason = _blame(error)
            raise ValueError(f"{self} ({self.target}) cannot be imported: {reason}") from error
        if not callable(factory):
            raise ValueError(f"{self} ({self.target}) is not callable; register a factory")
        return partial(factory, build_denoiser) if module == AROUND_DENOISERS else factory


def available(kind: str | None = None) -> dict[str, list[str]] | list[str]:
    """The registered names; imports no plug-in.

    Args:
        kind: `"priors"`, `"denoisers"` or `"noise_estimators"`; None for all three as a dict.

    Raises:
        ValueError: for another kind.
    """
    if kind is None:
        return {each: available(each) for each in GROUPS}  # type: ignore[misc]
    return sorted({plugin.name for plugin in plugins(kind)})


def build_prior(spec: str | Mapping[str, Any] | Any, **options: Any) -> Any:
    """A deepinv prior by name.

    Args:
        spec: a name (`"gmdm"`, `"tv"`), a mapping with the key `name` and the factory's options, or
            a prior, which is returned as it is.
        **options: more options of the factory.

    Raises:
        ValueError: for an unknown name (the nearest are named), a name registered twice, a plug-in
            that is broken, or an option that its factory does not take.
    """
    return _build("priors", spec, options)


def build_denoiser(spec: str | Mapping[str, Any] | Any, **options: Any) -> Any:
    """A deepinv denoiser by name; arguments and errors as for `build_prior`."""
    return _build("denoisers", spec, options)


def build_noise_estimator(spec: str | Mapping[str, Any] | Any, **options: Any) -> Any:
    """A noise estimator by name; arguments and errors as for `build_prior`."""
    return _build("noise_estimators", spec, options)


def plugins(kind: str) -> list[Plugin]:
    """Every registration of a kind, deepinv's and those of distributions, sorted by name."""
    if kind not in GROUPS:
        raise ValueError(unknown("kind of plug-in", kind, GROUPS))
    own = [Plugin(kind, name, target, "deepinv") for name, target in NATIVE[kind].items()]
    return sorted([*own, *_installed(kind)], key=lambda plugin: (plugin.name, plugin.distribution))


def refresh() -> None:
    """Forget the entry points read so far, so that a distribution installed meanwhile is found."""
    _installed.cache_clear()


def find(kind: str, name: str) -> Plugin:
    """The one registration of a name.

    Raises:
        ValueError: where there is none or more than one.
    """
    found = [plugin for plugin in plugins(kind) if plugin.name == name]
    if not found:
        raise ValueError(unknown(_noun(kind), name, available(kind)))
    if len(found) > 1:
        owners = " and ".join(f"{plugin.distribution!r} ({plugin.target})" for plugin in found)
        raise ValueError(
            f"{_noun(kind)} {name!r} is registered by {owners}; uninstall or rename one of them"
        )
    return found[0]


def accepts(kind: str, name: str, option: str) -> bool:
    """Whether the factory of a name takes an option by this very name."""
    return option in _parameters(find(kind, name).load())


def _build(kind: str, spec: Any, options: Mapping[str, Any]) -> Any:
    if isinstance(spec, str):
        name, given = spec, dict(options)
    elif isinstance(spec, Mapping):
        given = {**spec, **options}
        if not isinstance(given.get("name"), str):
            raise ValueError(
                f"a {_noun(kind)} given as a mapping needs the key 'name'; got {given}"
            )
        name = given.pop("name")
    elif callable(spec):
        return spec
    else:
        raise ValueError(f"a {_noun(kind)} is a name or a mapping with 'name'; got {spec!r}")
    plugin = find(kind, name)
    factory = plugin.load()
    _check_options(plugin, factory, given)
    try:
        return factory(**given)
    except (ValueError, FileNotFoundError):  # already a sentence for the user
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"{plugin} cannot be built: {_blame(error)}") from error


def _check_options(plugin: Plugin, factory: Callable[..., Any], given: Mapping[str, Any]) -> None:
    known = _parameters(factory)
    # deepinv's constructors take **kwargs and hand them to a base class that refuses them
    open_ended = plugin.distribution != "deepinv" and None in known
    names = [name for name in known if name is not None]
    for option in given:
        if option not in names and not open_ended:
            raise ValueError(f"{plugin}: {unknown('option', option, names)}")
    missing = [name for name in names if known[name] and name not in given]
    if missing:
        raise ValueError(f"{plugin} needs the option {' and '.join(map(repr, missing))}")


def _parameters(factory: Callable[..., Any]) -> dict[str | None, bool]:
    """Options by name and whether each must be given; the key None stands for `**kwargs`."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # built in C: no signature to read
        return {None: False}
    known: dict[str | None, bool] = {}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            known[None] = False
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            known[parameter.name] = parameter.default is parameter.empty
    return known


@cache
def _installed(kind: str) -> tuple[Plugin, ...]:
    group = GROUPS[kind]
    try:
        entries = [
            (name, target, distribution.name if distribution else "?")
            for config, distribution in entrypoints.iter_files_distros()
            if group in config
            for name, target in config[group].items()
        ]
    except Exception as error:  # configparser and decoding errors of anybody's entry_points.txt
        logger.warning("reading entry points one by one: %s", _blame(error))
        entries = list(_entries_one_by_one(group))
    unique = dict.fromkeys(entries)
    return tuple(Plugin(kind, name, target, distribution) for name, target, distribution in unique)


def _entries_one_by_one(group: str) -> Iterable[tuple[str, str, str]]:
    seen = set()
    for distribution in importlib.metadata.distributions():
        try:
            owner = distribution.metadata["Name"]
            if owner is None or owner.lower() in seen:
                continue
            seen.add(owner.lower())
            found = [
                (e.name, e.value, owner) for e in distribution.entry_points if e.group == group
            ]
        except Exception as error:
            logger.warning("entry points left out: %s", _blame(error))
            continue
        yield from found


def _noun(kind: str) -> str:
    return kind.removesuffix("s").replace("_", " ")


def _blame(error: BaseException) -> str:
    kind = type(error).__name__
    return f"{kind}: {one_line(error)}" if str(error).strip() else kind
