"""Figure 1 of the paper: filters of the 7×7 model, potentials beside empirical marginals.

    python benchmarks/paper/figure_1.py [data=bsds500:ROOT] [weights=bsds-gray-7x7] [count=100000]
                                        [out=docs/figures/paper_1.png]

Prints by how much potentials miss the marginals of noisy patches, and how much wider than without
noise the responses of the longest and of the shortest filter become (Theorem 2). Patches are of the
bundled photographs, or of held-out images of a data source.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib import paper
from lib.words import Options, command

import gmdm_prior as gm


def run(options: Options) -> None:
    """Draw and measure."""
    model = gm.load(options.weights)
    patches = paper.patches_of(paper.pictures(options.data), model.patch_size, options.count)
    paper.draw(model, patches, options.out)
    paper.say(model, patches)
    rows = model.filters.detach().double().flatten(1)
    norms, clean = rows.norm(dim=1), (patches.double().flatten(1) @ rows.T).std(0)
    for name, j in (("longest", norms.argmax()), ("shortest", norms.argmin())):
        wider = (1 + (paper.SIGMAS[-1] * norms[j] / clean[j]) ** 2).sqrt()
        noise = f"noise of {paper.SIGMAS[-1]} widens its responses {wider:.2f}-fold"
        print(f"{name} filter, norm {norms[j]:.3f}: {noise}")


main = command(
    run,
    data="",
    weights="bsds-gray-7x7",
    count=100_000,
    out=paper.FIGURES / "paper_1.png",
)

if __name__ == "__main__":
    sys.exit(main())
