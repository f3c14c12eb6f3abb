"""Training by the paper's iPALM."""
