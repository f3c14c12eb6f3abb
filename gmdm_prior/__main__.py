"""`python -m gmdm_prior`: what there is to run, and which models come with the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gmdm_prior import __version__
from gmdm_prior.files import bundled

TEXT = """\
gmdm-prior {version}

  gmdm restore|denoise|noise|plugins    pictures on the command line (python -m deepinv_gmdm)
  gmdm-train data=FOLDER                fit a prior to your own images (python -m gmdm_prior.train)
  import gmdm_prior as gm               models and denoisers
  import deepinv_gmdm                   the same as priors and denoisers of deepinv

bundled models, for weights= and gm.load: {models}
"""


def main(words: Sequence[str] | None = None) -> int:
    """Print it; the exit status."""
    words = sys.argv[1:] if words is None else words
    if "--version" in words:
        print(f"gmdm-prior {__version__}")
    else:
        print(TEXT.format(version=__version__, models=", ".join(bundled())), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
