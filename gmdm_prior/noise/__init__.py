"""How much noise an image holds, and of which kind.

`level` reads one level of white noise by likelihood, `map.estimate_sigma_map` one for each pixel,
of levels that jump (`field`) or grow slowly (`surface`); `evidence` and `patches` are what they
share. `estimate` reads noise of any kind, `one_level` says its level (`noise_level`,
`estimate_sigma`), `blind` takes it away. `prior_free` needs no density, nor does
`poisson_gaussian`, the gain and level of counted photons.
"""
