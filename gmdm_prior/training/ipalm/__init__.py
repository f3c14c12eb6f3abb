"""Training by the paper's iPALM.

`optimiser.IPALM` for any problem, `product.ProductTrainer` for `fit`, `start.likelihood_start` for
a better first iterate, `nmse.nmse` for what came of it.
"""
