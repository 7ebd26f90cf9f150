"""What the service takes at most; every refusal names the limit that it is about."""

from __future__ import annotations

from dataclasses import dataclass

MAX_COMBINATIONS = 500  # of a request's own schema: each is a branch of the grammar, compiled anew


@dataclass(frozen=True)
class Limits:
    """Limits of requests.

    Args:
        body_bytes: of a request's body.
        sentences: of a request.
        characters: of a request's sentences together.
        queue: sentences that wait for the model, of all requests together.
        seconds: from a request's last byte to its answer; a request may ask for less.
        requests: in work at a time, those that still send their body included.
        head_seconds, body_seconds: that a client may take to send a request's head, and its body.
        write_seconds: that a client may take to read each part of an answer.
    """

    body_bytes: int = 1 << 20
    sentences: int = 256
    characters: int = 100_000
    queue: int = 1024
    seconds: float = 300.0
    requests: int = 1000
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    write_seconds: float = 60.0
