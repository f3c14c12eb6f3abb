"""Denoisers and likelihoods of whole images."""
