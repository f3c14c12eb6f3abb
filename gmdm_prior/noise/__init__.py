"""How much noise an image holds.

Each file is one way to tell:

level               one level of each image, by maximum likelihood under a density
map                 a level of each pixel, likewise
prior_free          levels without a density, from the finest diagonal detail
poisson_gaussian    gain and level of counted photons, from the same detail
"""
