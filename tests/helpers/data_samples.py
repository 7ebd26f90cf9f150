"""Helpers of the tests of data_handle: a tokenizer whose ids can be counted by hand, and line makers."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

from task.prompt import INSTRUCTION, build_prompt
from task.triplets import Triplet, format_target


class CharacterTokenizer:
    """One id per character, its code point; the special ids lie below those of printable text."""

    pad_token_id, gmask_token_id, bos_token_id, eos_token_id = 0, 1, 2, 3
    vocab_file = __file__

    def encode_plain(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def prompt_ids(self, context: str) -> list[int]:
        return [*self.encode_plain(context), self.gmask_token_id, self.bos_token_id]

    def answer_ids(self, text: str) -> list[int]:
        return [*self.encode_plain(text), self.eos_token_id]


class DyingTokenizer(CharacterTokenizer):
    """Kills its process as soon as that is a worker."""

    def encode_plain(self, text: str) -> list[int]:
        if multiprocessing.parent_process() is not None:
            os._exit(9)
        return super().encode_plain(text)


class SlowTokenizer(CharacterTokenizer):
    """Takes minutes in a worker."""

    def encode_plain(self, text: str) -> list[int]:
        time.sleep(120)
        return []


class LateTokenizer(CharacterTokenizer):
    """Takes a worker a while to receive."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _receive_late, ()


def _receive_late() -> LateTokenizer:
    print("receiving", file=sys.stderr, flush=True)
    time.sleep(2)
    return LateTokenizer()


def director(film: str, person: str) -> Triplet:
    return Triplet("导演", "人物", "影视作品", person, film)


def make_line(sentence: str, *triplets: Triplet, instruction: str = INSTRUCTION) -> dict[str, str]:
    return {"context": build_prompt(sentence, instruction), "target": format_target(triplets)}


def write_jsonl(path: Path, lines: list[dict[str, str]]) -> Path:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path
