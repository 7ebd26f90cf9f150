"""Kills, damage, hostile files and fuzzed input, in numbers."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bases.chatglm import load_base_model
from data_handle.data_preprocess import encode_example
from data_handle.reader import read_jsonl
from extraction.extractor import TripletExtractor
from tests.helpers.killing import outcome, run_with_kills, train_command
from training import run_directory
from utils import directories as checkpoint
from utils.common_utils import UserError

pytestmark = pytest.mark.soak

RUNS, KILLS_PER_RUN, DAMAGES, FUZZED = 9, 6, 400, 10_000
LOOSE = settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
# Text with more of what hurts: control characters, special tokens, JSON, right-to-left marks, surrogates.
PIECES = ["[gMASK]", "<sop>", "<eop>", "[MASK]", "<n>", "<|blank_2|>", "</s>", "<pad>", "\n\nAnswer: "]
PIECES += ['"', "\\", "{", "}]", "```json", "\u202e", "\u200b", "\x00", "\r\n", "\ud800", "，", "𠮷"]
PIECES += ["👨\u200d👩\u200d👧", "导演", "《娘家的故事》", "张玲", " " * 90, "\t", "a" * 300]
NASTY = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(), max_size=60),  # lone surrogates included
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
)


def test_kills(root: Path, random_base: Path, tmp_path: Path, tally: dict) -> None:
    whole = train_command(root, random_base, tmp_path, tmp_path / "whole", epochs=10)
    subprocess.run(whole, cwd=root, check=True, capture_output=True, timeout=600)
    expected, hits, survived = outcome(tmp_path / "whole"), 0, 0
    for run in range(RUNS):
        save_dir = tmp_path / f"run{run}"
        command = train_command(root, random_base, tmp_path, save_dir, epochs=10)
        kills = run_with_kills(root, command, save_dir, KILLS_PER_RUN, random.Random(run), window=1.2)
        hits += kills
        survived += kills if outcome(save_dir) == expected else 0
        tally["kills survived (bit-identical end)"] = survived, hits
        shutil.rmtree(save_dir)
    assert survived == hits >= 50


def test_damaged_checkpoints(root: Path, random_base: Path, tmp_path: Path, tally: dict) -> None:
    command = train_command(root, random_base, tmp_path, tmp_path / "run", epochs=1)
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=600)
    newest = run_directory.list_checkpoints(tmp_path / "run")[-1]
    shutil.copytree(newest, tmp_path / "kept")
    rng, detected = random.Random(0), 0
    for _ in range(DAMAGES):
        shutil.rmtree(newest)
        shutil.copytree(tmp_path / "kept", newest)
        file = rng.choice(sorted(path for path in newest.iterdir() if path.name != checkpoint.MANIFEST_FILE))
        content = bytearray(file.read_bytes())
        kind = rng.choice(["bit", "cut", "missing", "empty", "longer", "directory"])
        if kind == "bit":
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            file.write_bytes(content)
        elif kind == "cut":
            file.write_bytes(content[: rng.randrange(len(content))])
        elif kind == "missing":
            file.unlink()
        elif kind == "longer":
            file.write_bytes(content + b"x")
        else:
            shutil.rmtree(newest)
            newest.mkdir()
        detected += run_directory.find_checkpoint(tmp_path / "run", "auto") != newest
    tally["damaged checkpoints detected"] = detected, DAMAGES
    assert detected == DAMAGES


def test_fuzzed_lines(root: Path, tmp_path: Path, tally: dict) -> None:
    from bases.chatglm import ChatGLMTokenizer

    tokenizer = ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny")
    good = json.dumps({"context": "问", "target": "答"}, ensure_ascii=False).encode()
    values = st.recursive(
        st.one_of(NASTY, st.none(), st.integers(), st.booleans(), st.floats()),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NASTY, inner, max_size=3)),
        max_leaves=6,
    )
    records = st.one_of(
        st.fixed_dictionaries({"context": NASTY, "target": NASTY}),
        st.fixed_dictionaries({"context": values}),
        values,
    )
    lines = st.one_of(
        records.map(lambda record: json.dumps(record).encode()),
        records.map(lambda record: json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")),
        st.binary(max_size=200).map(lambda raw: raw.replace(b"\n", b"")),
    )
    path, tried = tmp_path / "data.jsonl", []

    @settings(LOOSE, max_examples=FUZZED // 10)
    @given(st.lists(lines, min_size=10, max_size=10))
    def check(batch: list[bytes]) -> None:
        path.write_bytes(b"".join(good + b"\n" + line.replace(b"\n", b" ") + b"\n" for line in batch))
        examples, bad_lines = read_jsonl(path)
        assert {1 + 2 * i for i in range(10)} <= {example.line_number for example in examples}
        for example in examples:
            try:
                encode_example(tokenizer, example.context, example.target, 96, 48)
            except UserError:
                assert example.context != "问"
        assert all(f"{path}:{bad.line_number}: " in str(bad) for bad in bad_lines)
        tried.append(len(batch))
        tally["fuzzed data lines survived"] = sum(tried), sum(tried)

    check()
    assert sum(tried) >= FUZZED


def test_fuzzed_sentences(random_base: Path, tally: dict) -> None:
    model, tokenizer = load_base_model(random_base, device="cpu")
    extractor = TripletExtractor(
        model,
        tokenizer,
        max_source_seq_len=96,
        max_new_tokens=6,
        batch_size=50,
        autocast_dtype=torch.bfloat16,
    )
    tried = []

    @settings(LOOSE, max_examples=FUZZED // 50)
    @given(st.lists(NASTY, min_size=50, max_size=50))
    def check(sentences: list[str]) -> None:
        results = extractor.extract(sentences)
        assert len(results) == len(sentences)
        assert all(result.error is None for result in results), [r.error for r in results if r.error]
        tried.append(len(sentences))
        tally["fuzzed sentences survived"] = sum(tried), sum(tried)

    check()
    assert sum(tried) >= FUZZED


def test_hostile_files(root: Path, tally: dict) -> None:
    """The refusals of models, adapters, checkpoints and training states, counted."""
    kinds = (
        "refused executes pickle other_things header link_out terabytes wrong_index do_not_fit flipped_bit"
    )
    kinds += " lora_config does_not_agree another_base damaged lies"
    words = [
        "tests/bases/test_loading.py",
        "tests/bases/test_adapter.py",
        "tests/training/test_run_directory.py",
        "tests/training/test_state.py",
        "-q",
        "-k",
        " or ".join(kinds.split()),
    ]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=root, capture_output=True, text=True, timeout=600
    )
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed)", result.stdout)}
    tried = counts.get("passed", 0) + counts.get("failed", 0)
    tally["hostile files refused"] = counts.get("passed", 0), tried
    assert result.returncode == 0, result.stdout
    assert tried >= 30
