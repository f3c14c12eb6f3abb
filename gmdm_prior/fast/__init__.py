"""How denoisers evaluate a density quickly.

`choose.Evaluator` is what the rest of the package uses; its file says which way is taken, and the
error. `mixture_maps`, `product_tables`, `product_surfaces` and `kernels` are the ways; `cache`
keeps their tables. `adapted` evaluates a mixture together with classes of one picture's own.
"""
