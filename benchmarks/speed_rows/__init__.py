"""The rows of benchmarks/speed.py: functions of a `Bench` that yield `Measurement`s."""
