"""What knows nothing of the task: console, command line, directories, JSONL, devices, memory, progress."""

import sys

__version__ = "1.0.0"  # of the project; pyproject.toml reads it here

# Nothing here runs code from the hub: where the package `kernels` can be imported, bitsandbytes (on CPUs with
# AVX512-BF16, whoever imports it) and transformers fetch kernels from there. So it can't be imported.
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
