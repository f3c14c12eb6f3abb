"""Figures of models; matplotlib is imported when one is drawn.

`report.report` is one page about a model and its training (`convolutional` draws the part of a
`ConvolutionalModel`); `class_maps.class_maps` is what a mixture takes an image for.
"""
