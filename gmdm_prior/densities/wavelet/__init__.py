"""`WaveletModel`: exact densities of whole images by their wavelet coefficients."""
