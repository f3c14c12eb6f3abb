"""Scripts that make what the package holds: weights, the schedule of HQS, rivals at their best."""
