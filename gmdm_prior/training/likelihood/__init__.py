"""Training by likelihood: expectation maximisation."""
