"""Figures of speed and memory, each by a command: `python -m benchmarks.<name>`."""
