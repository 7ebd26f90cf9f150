"""Run a script as the two processes of one job, as torchrun would: python -m tests.helpers.two_ranks SCRIPT …

The libraries are loaded once, and either process is a fork of that.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys

import training.run  # noqa: F401  (the libraries)


def main() -> int:
    """Return the first exit code that isn't 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sys.argv = sys.argv[1:]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    children = []
    for rank in ("0", "1"):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
            runpy.run_path(sys.argv[0], run_name="__main__")
            return 0
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
