"""Training by likelihood: expectation maximisation of mixtures.

`em.fit_em` in one call, `em.start` and `em.advance` step by step, `trainer.LikelihoodTrainer` and
`wavelet.WaveletTrainer` for `fit`, `adapt.adapt` to one noisy image; `marginals` fits experts.
"""
