"""What knows nothing of the task: console, command line, directories, JSONL, devices, memory, progress."""

__version__ = "1.0.0"  # of the project; pyproject.toml reads it here
