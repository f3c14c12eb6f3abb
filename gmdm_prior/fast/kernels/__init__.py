"""Loops that llvmlite compiles for the CPU at hand, where it is installed.

`mixture.fused` evaluates mixtures, `tables.read_table` reads the tables of products. `llvm` is the
language that both are written in; `mixture_code` and `square_coordinates` are how the first works.
"""
