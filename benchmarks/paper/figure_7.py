"""Figure 7 of the paper: filters of the 15×15 model, potentials beside empirical marginals.

    python benchmarks/paper/figure_7.py [data=bsds500:ROOT] [weights=bsds-gray-15x15] [count=20000]
                                        [out=docs/figures/paper_7.png]

Draws all 224 filters, and the potentials of eight from the longest to the shortest. Prints what
`figure_1.py` prints of the 7×7 model.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib import paper
from lib.words import command

from paper.figure_1 import run

main = command(
    run,
    data="",
    weights="bsds-gray-15x15",
    count=20_000,
    out=paper.FIGURES / "paper_7.png",
)

if __name__ == "__main__":
    sys.exit(main())
