"""How denoisers evaluate a density quickly; `choose` says which way is taken, and its error."""
