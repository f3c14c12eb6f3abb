"""Runs of the command line: `job.Job`, and the `config`, `folder` and `progress` that it needs."""
