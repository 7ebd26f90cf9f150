"""Whether the service on this machine is ready: the exit code is 0 or 1. For containers."""

from __future__ import annotations

import os
import sys
import urllib.request


def main() -> int:
    """Ask `/health` at the port in TRIPLET_PORT, 8000 by default."""
    port = int(os.environ.get("TRIPLET_PORT", "8000"))
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=4) as answer:
            return 0 if answer.status == 200 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
