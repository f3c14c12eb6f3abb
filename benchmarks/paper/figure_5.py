"""Figure 5 of the paper: filters and potentials of a 7×7 model trained on one noise level only.

    python benchmarks/paper/figure_5.py [data=bsds500:ROOT] [sigma=0.02] [steps=300]
                            [batch_size=1000] [count=100000] [out=docs/figures/paper_5.png]

Trains with iPALM, draws, and prints by how much the potentials miss the marginals of noisy patches
(compare with Fig. 1). Without `data` it trains on photographs of scikit-image, and compares on the
bundled ones: a small setting. `data=bsds500:ROOT steps=5000 batch_size=3200` is the whole one.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/

from lib import paper
from lib.words import Options, command

from gmdm_prior.training import FitSettings


def run(options: Options) -> None:
    """Train, draw and measure."""
    settings = FitSettings(
        model="patch",
        steps=options.steps,
        batch_size=options.batch_size,
        sigma_min=options.sigma,
        sigma_max=options.sigma,
    )
    held_out = paper.pictures(options.data)
    model = paper.train((paper.training_pictures(options.data), held_out), settings)
    patches = paper.patches_of(held_out, model.patch_size, options.count)
    paper.draw(model, patches, options.out)
    paper.say(model, patches)


main = command(
    run,
    data="",
    sigma=0.02,
    steps=300,
    batch_size=1000,
    count=100_000,
    out=paper.FIGURES / "paper_5.png",
)

if __name__ == "__main__":
    sys.exit(main())
