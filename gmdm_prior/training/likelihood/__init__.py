"""Training by likelihood: expectation maximisation of mixtures.

`em.fit_em` in one call, `em.start` and `em.advance` step by step, `trainer.LikelihoodTrainer` and
`wavelet.WaveletTrainer` for `fit`; `marginals` fits experts. (To one noisy picture a mixture is
adapted in `gmdm_prior.images.adapt`.)
"""
