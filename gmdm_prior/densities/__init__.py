"""Densities at every noise level, in closed form: the mathematics, exact in float64.

Nothing here knows of images larger than an event, of tables, caches or kernels.
"""
