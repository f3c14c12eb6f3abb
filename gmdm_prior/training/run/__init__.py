"""What a run of `python -m gmdm_prior.train` reads and leaves behind."""
