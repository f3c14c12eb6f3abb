"""The command line: `python -m deepinv_gmdm restore|denoise|noise|plugins`.

Exit status: 0 done, 2 bad input (one sentence on standard error), 130 interrupted.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)

USAGE = """\
examples:
  python -m deepinv_gmdm restore deblur                     a config that comes with the package
  python -m deepinv_gmdm restore my.yaml prior=tv out=tv    your own, another prior, another folder
  python -m deepinv_gmdm restore deblur prior.weights=gray-small physics.noise.sigma=5/255
  python -m deepinv_gmdm denoise noisy.png                  the noise is read off the picture
  python -m deepinv_gmdm denoise noisy.png sigma=25/255 out=clean.png
  python -m deepinv_gmdm denoise noisy.png noise=poisson    its kind is known (white, correlated)
  python -m deepinv_gmdm noise noisy.png map=true           what the noise is like, and where
  python -m deepinv_gmdm plugins
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        given.run(given)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (ValueError, TypeError, OSError) as error:
        return _refused(error)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            return _refused("out of memory: take a smaller image, or a machine with more")
        raise
    return 0


def _refused(reason: object) -> int:
    from gmdm_prior.messages import one_line  # late, as all of the package: it imports torch

    print(f"error: {one_line(reason)}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deepinv_gmdm",
        description="Restore and denoise pictures with Gaussian-mixture diffusion models.",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="restore|denoise|noise|plugins")
    restore = commands.add_parser("restore", help="simulate a measurement and restore it")
    restore.add_argument("config", help="a YAML file, or the name of a config of the package")
    restore.add_argument("words", nargs="*", metavar="key=value", help="overrides of the config")
    restore.set_defaults(run=_restore)
    denoise = commands.add_parser("denoise", help="denoise a picture, of known noise level or not")
    denoise.add_argument("image", help="the noisy picture")
    denoise.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="sigma=auto|25/255|map noise=auto|white|correlated|poisson weights=NAME method=hqs "
        "out=FILE",
    )
    denoise.set_defaults(run=_denoise)
    noise = commands.add_parser("noise", help="say what the noise of a picture is like")
    noise.add_argument("image", help="the noisy picture")
    noise.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="map=true|false noise=auto|white|correlated|poisson weights=NAME out=FILE",
    )
    noise.set_defaults(run=_noise)
    plugins = commands.add_parser(
        "plugins", help="list every registered name, and whether it loads"
    )
    plugins.set_defaults(run=_plugins)
    return parser


def _restore(given: argparse.Namespace) -> None:
    from deepinv_gmdm.command.restore import restore

    restore(given.config, given.words)


def _denoise(given: argparse.Namespace) -> None:
    from deepinv_gmdm.command.pictures import denoise

    denoise(given.image, _options(given.words, "sigma=25/255"))


def _noise(given: argparse.Namespace) -> None:
    from deepinv_gmdm.command.pictures import noise

    noise(given.image, _options(given.words, "map=true"))


def _options(words: Sequence[str], example: str) -> dict[str, str]:
    options = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is no option; write key=value, such as {example}")
        options[key] = value
    return options


def _plugins(given: argparse.Namespace) -> None:
    from deepinv_gmdm.registry import GROUPS, plugins

    for kind in GROUPS:
        print(f"{kind} ({GROUPS[kind]})")
        entries = plugins(kind)
        names = [plugin.name for plugin in entries]
        for plugin in entries:
            status = "ok"
            if names.count(plugin.name) > 1:
                status = "registered twice"
            else:
                try:
                    plugin.load()
                except ValueError as error:
                    status = f"broken: {error}"
            print(f"  {plugin.name:18} {plugin.distribution:20} {status}")
