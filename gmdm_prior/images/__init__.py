"""Denoisers and likelihoods of whole images.

Of densities of patches: `averaging.PatchAveraging`, `hqs.HalfQuadraticSplitting` (with its
`schedule` and its second scale, `half_size`), `adaptive.AdaptiveSplitting` (with `adapt`, which
learns from the picture at hand) and `likelihood.PatchLikelihood`. Of images:
`wavelet.WaveletDenoiser` and `WaveletLikelihood`. For all: `data_range.ImageFrame` for images in
other ranges, and `langevin.langevin`, which samples. `planes`, `patches` and `threads` are what
they share.
"""
