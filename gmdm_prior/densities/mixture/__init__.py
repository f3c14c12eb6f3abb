"""`PatchMixture`: the mixture of products of Gaussian experts."""
