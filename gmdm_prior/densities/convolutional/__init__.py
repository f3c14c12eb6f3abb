"""`ConvolutionalModel`: the paper's experts on cyclic filters with disjoint spectra."""
