"""Compiled loops (llvmlite) for mixtures and for tables; each has its equal in plain torch."""
