"""The command line: `gmdm`, or `python -m deepinv_gmdm`, restore|denoise|noise|plugins.

Exit status: 0 done, 2 bad input (one sentence on standard error), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from deepinv_gmdm.command import usage
from deepinv_gmdm.command.words import (
    DENOISE,
    NOISE,
    check_options,
    existing,
    one_line,
    split_words,
)

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    flags = [word for word in words[1:] if word.startswith("-")]  # wherever they stand
    words = [*words[:1], *flags, *(word for word in words[1:] if not word.startswith("-"))]
    given = _parser().parse_args(words)
    try:
        with _warnings_as_notes():
            given.run(given)
    except KeyboardInterrupt:
        print("interrupted; nothing more was written", file=sys.stderr)
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


@contextlib.contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """What a library warns of is one sentence, said once."""
    said: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = one_line(message)
        if text not in said:
            said.add(text)
            print(f"note: {text}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _refused(reason: object) -> int:
    print(f"error: {one_line(reason)}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gmdm",
        description="Restore and denoise pictures with Gaussian-mixture diffusion models.",
        epilog=usage.ALL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="restore|denoise|noise|plugins")
    restore = _command(commands, "restore", "restore a measurement, or simulate one", usage.RESTORE)
    restore.add_argument(
        "config", nargs="?", help="a YAML file, or the name of a config of the package"
    )
    restore.add_argument("words", nargs="*", metavar="key=value", help="overrides of the config")
    restore.add_argument("--list", action="store_true", help="the configs of the package")
    restore.add_argument(
        "--show", action="store_true", help="every key of the config, with value and meaning"
    )
    restore.set_defaults(run=_restore)
    denoise = _command(
        commands, "denoise", "denoise pictures, of known noise or not", usage.DENOISE
    )
    denoise.add_argument("words", nargs="+", metavar="FILE|key=value", help="pictures and options")
    denoise.set_defaults(run=_denoise)
    noise = _command(commands, "noise", "read the noise level off pictures", usage.NOISE)
    noise.add_argument("words", nargs="+", metavar="FILE|key=value", help="pictures and options")
    noise.set_defaults(run=_noise)
    plugins = _command(
        commands, "plugins", "list every registered name, and whether it loads", usage.PLUGINS
    )
    plugins.set_defaults(run=_plugins)
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, does: str, text: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"gmdm-prior {version('gmdm-prior')}"
    except PackageNotFoundError:
        return "gmdm-prior, not installed"


def _restore(given: argparse.Namespace) -> None:
    if given.list:
        from deepinv_gmdm.command.show import list_configs

        list_configs()
        return
    if given.config is None:
        raise ValueError("name a config: a YAML file or one of `gmdm restore --list`")
    if given.show:
        from deepinv_gmdm.command.show import show_config

        show_config(given.config, given.words)
        return
    from deepinv_gmdm.command.config import load_config

    config = load_config(given.config, given.words)
    from deepinv_gmdm.command.restore import restore_config  # late: it imports torch

    restore_config(config, given.config)


def _denoise(given: argparse.Namespace) -> None:
    files, options = split_words(given.words, "sigma=25/255")
    check_options(options, DENOISE)
    existing(files)
    from deepinv_gmdm.command.asked import denoising

    asked = denoising(files, options)
    from deepinv_gmdm.command.pictures import denoise  # late: it imports torch

    denoise(asked)


def _noise(given: argparse.Namespace) -> None:
    files, options = split_words(given.words, "map=true")
    check_options(options, NOISE)
    existing(files)
    from deepinv_gmdm.command.asked import noise_of

    asked = noise_of(files, options)
    from deepinv_gmdm.command.pictures import noise  # late: it imports torch

    noise(asked)


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
