"""What the noise of a picture is like, read off the picture itself: `estimate_noise`.

`lying_pixels` finds pixels that say nothing of noise, `ladder` asks the likelihood at many levels,
`curve` asks whether the level grows with brightness, `whiteness` whether the noise is white,
`parts` whether parts of an image differ, `autocovariance` reads correlated noise off flat blocks,
`frames` compares two pictures of one scene; `found` joins what was found of several images,
`estimate` asks them in turn.
"""

from gmdm_prior.noise.estimate.estimate import READER, estimate_noise

__all__ = ["READER", "estimate_noise"]
