"""The command line `python -m gmdm_prior.train`: fit a prior to images.

Exit status: 0 done, 1 the training broke down (a loss that is not finite), 2 bad input, a file that
cannot be written or too little memory (one sentence on standard error), 130 interrupted (Ctrl-C).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence

import torch

from gmdm_prior import __version__
from gmdm_prior.messages import one_line
from gmdm_prior.training import processes
from gmdm_prior.training.run.config import describe_keys
from gmdm_prior.training.run.job import Job

USAGE = """\
usage: gmdm-train data=DIR [key=value ...]     (or python -m gmdm_prior.train)

Fit a Gaussian-mixture diffusion model to images. Writes model.safetensors, report.png, config.yaml,
metrics.csv and checkpoints/ to the folder `out`. Ctrl-C stops with a checkpoint; the same command
with resume=true goes on from it.

keys:
{keys}

examples:
  python -m gmdm_prior.train data=photos
  python -m gmdm_prior.train data=photos method=em+score out=runs/photos
  python -m gmdm_prior.train data=noisy noise=25/255
  python -m gmdm_prior.train data=noisy noise=auto
  python -m gmdm_prior.train data=bsds500:BSDS500 model=patch steps=20000
  python -m gmdm_prior.train data=photos model=wavelet
  python -m gmdm_prior.train out=runs/photos resume=true
  torchrun --nproc-per-node=2 -m gmdm_prior.train data=photos
"""
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


def main(words: Sequence[str] | None = None) -> int:
    """Run; the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    if any(word in ("-h", "--help", "help") for word in words):
        print(USAGE.format(keys=describe_keys()), end="")
        return 0
    if "--version" in words:
        print(f"gmdm-prior {__version__}")
        return 0
    job = Job(words, __version__)
    try:
        with _warnings_in_one_line(), processes.joined(), job:
            job.run()
    except KeyboardInterrupt:
        return _end(130, f"interrupted; {job.how_to_go_on()}")
    except (FloatingPointError, torch.linalg.LinAlgError) as error:
        return _end(1, f"error: training broke down, {one_line(error)}; {job.how_to_go_on()}")
    except OSError as error:
        named = error.filename is not None and error.strerror
        reason = f"{error.filename}: {error.strerror}" if named else error
        return _end(2, f"error: {one_line(reason)}; {job.how_to_go_on()}")
    except (ValueError, TypeError) as error:
        return _end(2, f"error: {one_line(error)}")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        return _end(2, f"error: out of memory; smaller images take less. {job.how_to_go_on()}")
    return 0


def _end(status: int, text: str) -> int:
    _say(text)
    return status


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: _say(f"warning: {one_line(message)}")
        yield


def _say(text: str) -> None:
    if int(os.environ.get("RANK", "0")) == 0:  # of several processes, all say the same
        print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
