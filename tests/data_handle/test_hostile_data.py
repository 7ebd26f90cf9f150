"""Damaged data, schemas and caches by the hundred: each is read, refused in words or made again."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_handle.data_loader import load_data
from task.answers import read_answer
from task.prompt import build_prompt, split_context
from task.schema import Schema
from task.triplets import Triplet, format_target, parse_target
from tests.helpers.data_samples import CharacterTokenizer, director, make_line, write_jsonl
from tests.helpers.encoded_files import caches
from utils.common_utils import UserError
from utils.text_lines import TextLines

FACTS = [director("北岸", "方圆"), Triplet("主演", "人物", "影视作品", "何青", "北岸")]
WIDE = {"max_source_seq_len": 256, "max_target_seq_len": 300}
SENTENCE = "《北岸》由方圆执导，何青主演。"
# What damage puts in, beside random bytes: the words and brackets that readers go by.
PARTS = [
    *(
        b"",
        b"\0",
        b"\n",
        b"\r",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xed\xa0\x80",
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b"\\",
    ),
    *(b"null", b"NaN", b"1e999", b"9" * 5000, b"```", b"~~~json\n", b'"object": ', b'"predicate"', b"@value"),
    *("，".encode(), "甲".encode("gbk"), "甲".encode("utf-16"), b"[" * 3000),
]


def mutants(original: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield damaged copies."""
    generator = random.Random(seed)
    for _ in range(count):
        copy = bytearray(original)
        for _ in range(generator.randint(1, 4)):
            start = generator.randrange(len(copy) + 1)
            end = start + generator.choice((0, 0, 1, 2, 20, len(copy)))
            copy[start:end] = generator.choice([*PARTS, generator.randbytes(3)])
        yield bytes(copy)


def test_damaged_answers_are_read_or_named() -> None:
    head, sentence, _ = split_context(build_prompt(SENTENCE))
    kinds = set()
    for content in mutants(format_target(FACTS).encode(), 3_000, 1):
        answer = read_answer(content.decode("utf-8", "replace"), head, sentence)
        if answer.triplets is not None:
            assert tuple(parse_target(answer.target)) == answer.triplets
            assert all(value.strip() for triplet in answer.triplets for value in triplet)
            assert answer.problem is None
        kinds.add((answer.triplets is None, answer.problem is None))
    assert len(kinds) == 3


def test_damaged_schemas_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    original = json.dumps(Schema.from_targets([format_target(FACTS)]).to_dict(), ensure_ascii=False).encode()
    refused = 0
    for content in mutants(original, 300, 2):
        path.write_bytes(content)
        try:
            schema = Schema.load(path)
        except UserError:
            refused += 1
        else:
            path.write_text(json.dumps(schema.to_dict()), encoding="utf-8")
            assert Schema.load(path) == schema
    assert 60 < refused < 300


def test_damaged_data_files_are_read_or_refused(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "data.jsonl", [make_line(SENTENCE, *FACTS), make_line("今天没有下雨。")] * 2
    )
    original, refused = path.read_bytes(), 0
    for content in mutants(original, 200, 3):
        path.write_bytes(content)
        try:
            loaded = load_data(path, CharacterTokenizer(), **WIDE)
        except UserError:
            refused += 1
            continue
        assert len(loaded.examples) >= len(loaded.features) >= 1
        loaded.report()
        (tmp_path / "schema.json").write_text(json.dumps(Schema(loaded.combinations).to_dict()))
        Schema.load(tmp_path / "schema.json")
    assert 2 < refused < 150


@pytest.mark.parametrize("name", ["samples.bin", "input_ids.bin", "examples.bin", "text.bin", "summary.json"])
def test_forged_caches_are_made_again_or_do_no_harm(name: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [make_line(SENTENCE, *FACTS), {"context": "x"}])
    load_data(path, CharacterTokenizer(), **WIDE, cache_dir=tmp_path / "c")
    (cache,) = caches(tmp_path / "c")
    manifest = json.loads((cache / "manifest.json").read_text("utf-8"))
    original = (cache / name).read_bytes()
    for content in mutants(original, 12, 4):
        (cache / name).write_bytes(content)
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (cache / "manifest.json").write_text(json.dumps(manifest), "utf-8")
        loaded = load_data(path, CharacterTokenizer(), **WIDE, cache_dir=tmp_path / "c")
        assert len(list(loaded.features)) == len(loaded.features)
        assert len(list(loaded.examples)) == len(loaded.examples)
        loaded.report()


def test_lines_of_any_bytes_are_had(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    for seed, encoding in enumerate(("utf-8", "gbk", "utf-16")):
        original = f"{SENTENCE}\n今天\n\n{SENTENCE}".encode(encoding)
        for content in mutants(original, 100, seed):
            path.write_bytes(content)
            with TextLines(path.open("rb"), path, quiet=True) as lines:
                total = sum(len(line) for line in iter(lambda: lines.readline(50), b""))
            assert total <= 4 * len(content) + 4
