"""The cache of encoded files: equal to encoding in memory, used again, mended when damaged, shared safely."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from bases.chatglm import ChatGLMTokenizer
from data_handle import encoded_file, token_cache
from data_handle.data_loader import build_dataloader, length_sorted_batches, load_data
from data_handle.data_preprocess import Features
from data_handle.encoded_file import EncodedFile
from tests.helpers.data_samples import CharacterTokenizer, director, make_line, write_jsonl
from tests.helpers.encoded_files import LIMITS, assert_same, caches
from utils.common_utils import UserError


@pytest.fixture
def encoded_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The data files encoded for the cache so far."""
    encoded = []
    original = encoded_file.encode_into

    def encode_into(directory: Path, path: Path, *args: Any) -> None:
        encoded.append(path)
        original(directory, path, *args)

    monkeypatch.setattr(token_cache, "encode_into", encode_into)
    return encoded


def test_a_cached_file_equals_one_encoded_in_memory(
    data_file: Path, tokenizer: ChatGLMTokenizer, tmp_path: Path, encoded_files: list[Path]
) -> None:
    in_memory = load_data(data_file, tokenizer, **LIMITS)
    assert len(in_memory.bad_lines) == 2 and in_memory.summary.left_out and in_memory.summary.targets_cut
    assert in_memory.combinations
    assert encoded_files == []
    first, second = (load_data(data_file, tokenizer, **LIMITS, cache_dir=tmp_path / "c") for _ in range(2))
    assert_same(first, in_memory)
    assert_same(second, in_memory)
    assert encoded_files == [data_file]

    item = second.dataset[3]
    assert type(item) is Features and {type(value) for value in item.input_ids + item.labels} == {int}
    assert second.dataset[-1] == in_memory.dataset[-1]
    with pytest.raises(IndexError):
        second.dataset[len(in_memory.dataset)]
    for process in range(2):
        shares = (loaded.dataset.features[process::2] for loaded in (second, in_memory))
        batches, expected = (list(length_sorted_batches(share, 8, 3)) for share in shares)
        assert len(batches) == len(expected)
        for batch, wanted in zip(batches, expected, strict=True):
            assert all(torch.equal(batch[name], wanted[name]) for name in wanted)


def test_batches_come_in_the_same_order(data_file: Path, tokenizer: ChatGLMTokenizer, tmp_path: Path) -> None:
    orders = []
    for cache_dir in (None, tmp_path / "c"):
        loaded = load_data(data_file, tokenizer, **LIMITS, cache_dir=cache_dir)
        loader, _ = build_dataloader(loaded.dataset, 4, seed=1, num_workers=1 if cache_dir else 0)
        orders.append([[sample.input_ids for sample in batch] for batch in loader])
    assert orders[0] == orders[1]


def test_a_cache_that_is_deleted_serves_on(
    data_file: Path, tokenizer: ChatGLMTokenizer, tmp_path: Path
) -> None:
    loaded = load_data(data_file, tokenizer, **LIMITS, cache_dir=tmp_path / "c")
    before = list(loaded.dataset.features)
    shutil.rmtree(tmp_path / "c")
    assert list(loaded.dataset.features[1::2]) == before[1::2]
    assert [example.target for example in loaded.examples[:3]]


def test_the_key_follows_content_tokenizer_and_limits(
    data_file: Path, tokenizer: ChatGLMTokenizer, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowering = ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny", do_lower_case=True)
    other = tmp_path / "other.jsonl"
    other.write_bytes(data_file.read_bytes() + b"\n")
    keys = [
        token_cache.cache_key(data_file, tokenizer, (128, 96)),
        token_cache.cache_key(data_file, tokenizer, (128, 97)),
        token_cache.cache_key(data_file, tokenizer, (127, 96)),
        token_cache.cache_key(other, tokenizer, (128, 96)),
        token_cache.cache_key(data_file, lowering, (128, 96)),
        token_cache.cache_key(data_file, CharacterTokenizer(), (128, 96)),
    ]
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(data_file.read_bytes())
    assert token_cache.cache_key(copy, tokenizer, (128, 96)) == keys[0]
    tokenizer_copy = tmp_path / "tokenizer"
    tokenizer.save_pretrained(tokenizer_copy)
    same = ChatGLMTokenizer.from_pretrained(tokenizer_copy)
    assert token_cache.cache_key(data_file, same, (128, 96)) == keys[0]
    monkeypatch.setattr(token_cache, "FORMAT_VERSION", token_cache.FORMAT_VERSION + 1)
    keys.append(token_cache.cache_key(data_file, tokenizer, (128, 96)))
    assert len(set(keys)) == len(keys)


def test_a_hit_from_another_path_names_that_path(data_file: Path, tmp_path: Path) -> None:
    load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=tmp_path / "c")
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(data_file.read_bytes())
    loaded = load_data(copy, CharacterTokenizer(), **LIMITS, cache_dir=tmp_path / "c")
    assert len(caches(tmp_path / "c")) == 1
    assert {bad_line.path for bad_line in loaded.bad_lines} == {str(copy)}


def test_strictness_and_useless_files_are_refused_as_without_a_cache(data_file: Path, tmp_path: Path) -> None:
    empty = write_jsonl(tmp_path / "empty.jsonl", [])
    useless = write_jsonl(tmp_path / "useless.jsonl", [{"context": "甲"}])
    cases: list[tuple[Path, dict[str, Any]]] = [
        (data_file, {**LIMITS, "strict": True}),
        (data_file, {**LIMITS, "strict": True}),  # now from the cache
        (data_file, {"max_source_seq_len": 3, "max_target_seq_len": 2}),
        (empty, LIMITS),
        (useless, LIMITS),
        (tmp_path / "missing.jsonl", LIMITS),
    ]
    for path, arguments in cases:
        messages = []
        for cache_dir in (None, tmp_path / "c"):
            with pytest.raises(UserError) as error:
                load_data(path, CharacterTokenizer(), **arguments, cache_dir=cache_dir)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
    assert len(caches(tmp_path / "c")) == 1
    assert not list((tmp_path / "c").glob(".tokens-*"))


@pytest.mark.parametrize(
    "name", ["samples.bin", "input_ids.bin", "examples.bin", "text.bin", "summary.json", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["bit", "truncated", "missing"])
def test_damage_is_found_and_mended(
    name: str,
    damage: str,
    data_file: Path,
    tmp_path: Path,
    encoded_files: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = load_data(data_file, CharacterTokenizer(), **LIMITS)
    load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=tmp_path / "c")
    (cache,) = caches(tmp_path / "c")
    file = cache / name
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 0x80
    file.unlink()
    if damage != "missing":
        file.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)

    assert_same(load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=tmp_path / "c"), whole)
    assert len(encoded_files) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "已损坏" in line and "重新生成" in line
    load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=tmp_path / "c")
    assert len(encoded_files) == 2


def test_of_several_at_once_one_encodes(
    data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded_files: list[Path]
) -> None:
    counting = token_cache.encode_into

    def encode_slowly(*args: Any) -> None:
        time.sleep(0.3)
        counting(*args)

    monkeypatch.setattr(token_cache, "encode_into", encode_slowly)
    results: list[EncodedFile] = []

    def load() -> None:
        results.append(load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=tmp_path / "c"))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert encoded_files == [data_file]
    whole = load_data(data_file, CharacterTokenizer(), **LIMITS)
    assert len(results) == 4
    for result in results:
        assert_same(result, whole)


@pytest.mark.parametrize("trouble", ["not a directory", "disk full", "no locks", "data changes"])
def test_without_a_cache_directory_the_file_is_encoded_in_memory(
    trouble: str,
    data_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache_dir = tmp_path / "c"

    def write(directory: Path, path: Path, *_: Any) -> None:
        (directory / "samples.bin").write_bytes(b"12")
        if trouble == "disk full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.utime(path, (0, 0))

    def no_locks(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no flock")

    if trouble == "not a directory":
        cache_dir.write_text("")
    elif trouble == "no locks":
        monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    else:
        monkeypatch.setattr(token_cache, "encode_into", write)
    loaded = load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=cache_dir)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"分词缓存 {cache_dir} 不能用（") and line.endswith("），这次在内存中分词。")
    assert_same(loaded, load_data(data_file, CharacterTokenizer(), **LIMITS))
    assert not caches(cache_dir) and not list(cache_dir.glob(".tokens-*"))


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
def test_a_pipe_is_read_once_and_not_cached(data_file: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(data_file.read_bytes()), daemon=True)
    writer.start()
    loaded = load_data(pipe, CharacterTokenizer(), **LIMITS, cache_dir=tmp_path / "c")
    assert list(loaded.examples) == list(load_data(data_file, CharacterTokenizer(), **LIMITS).examples)
    assert not (tmp_path / "c").exists()


def test_a_cache_that_is_read_only_serves(
    data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded_files: list[Path]
) -> None:
    load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=tmp_path / "c")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("pathlib.Path.mkdir", "filelock.FileLock.acquire", "os.utime"):
        monkeypatch.setattr(name, refuse)
    load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=tmp_path / "c")
    assert len(encoded_files) == 1


def test_the_caches_used_last_are_kept(data_file: Path, tmp_path: Path) -> None:
    cache_dir = tmp_path / "c"
    (cache_dir / ".tokens-killed.new").mkdir(parents=True)
    (cache_dir / ".tokens-killed.new" / "token_cache.txt").write_text("")
    (cache_dir / "mine").mkdir()

    def load(target_limit: int) -> Path:
        before = set(caches(cache_dir))
        load_data(
            data_file,
            CharacterTokenizer(),
            max_source_seq_len=128,
            max_target_seq_len=target_limit,
            cache_dir=cache_dir,
        )
        created = set(caches(cache_dir)) - before
        return created.pop() if created else Path()

    made = [load(50 + index) for index in range(token_cache.CACHES_KEPT)]
    for age, path in enumerate(made):
        os.utime(path, (1000 + age, 1000 + age))
    load(50)  # the oldest is used again
    new = load(49)
    assert set(caches(cache_dir)) == {new, made[0], *made[2:]}
    assert sorted(path.name for path in cache_dir.iterdir() if not path.name.startswith("tokens-")) == [
        ".lock",
        "mine",
    ]


def test_foreign_directories_of_such_a_name_stay(data_file: Path, tmp_path: Path) -> None:
    cache_dir = tmp_path / "c"
    foreign = [cache_dir / f"tokens-{number}" for number in range(12)] + [cache_dir / ".tokens-mine"]
    for path in foreign:
        path.mkdir(parents=True)
        (path / "book.txt").write_text("mine")
        os.utime(path, (1000, 1000))
    elsewhere = cache_dir / "tokens-link"
    elsewhere.symlink_to(tmp_path)
    load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=cache_dir)
    assert all((path / "book.txt").read_text() == "mine" for path in foreign)
    assert elsewhere.is_symlink() and data_file.is_file()


def make_old_cache(path: Path, year: int) -> Path:
    path.mkdir()
    for name in ("samples.bin", "input_ids.bin", "examples.bin", "text.bin", "summary.json"):
        (path / name).write_bytes(b"")
    os.utime(path, (year, year))
    return path


def test_caches_of_the_first_release_are_removed_in_their_turn(data_file: Path, tmp_path: Path) -> None:
    (cache_dir := tmp_path / "c").mkdir()
    old = [make_old_cache(cache_dir / f"tokens-{number}", 1000 + number) for number in range(10)]
    load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=cache_dir)
    assert [path.is_dir() for path in old] == [False] * 3 + [True] * 7


def lie(cache: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change a file of a cache, and what the manifest says of it."""
    manifest = json.loads((cache / "manifest.json").read_text("utf-8"))
    content = change((cache / name).read_bytes())
    (cache / name).write_bytes(content)
    manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (cache / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def with_number(position: int, number: int, size: int = 8) -> Callable[[bytes], bytes]:
    """Replace one number of an array of int64 (or int32)."""
    return lambda content: (
        content[: position * size]
        + number.to_bytes(size, "little", signed=True)
        + content[(position + 1) * size :]
    )


def with_summary(**changes: object) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        values = json.loads(content)
        return json.dumps({**values, "summary": {**values["summary"], **changes}}).encode()

    return change


LIES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a length of 2^40": ("samples.bin", with_number(1, 1 << 40)),
    "a start of 2^62": ("samples.bin", with_number(0, 1 << 62)),
    "a negative start": ("examples.bin", with_number(0, -5)),
    "a text beyond the end": ("examples.bin", with_number(2, 1 << 30)),
    "an id that no token has": ("input_ids.bin", with_number(0, 1 << 30, size=4)),
    "a negative id": ("input_ids.bin", with_number(0, -1, size=4)),
    "half a row": ("samples.bin", lambda content: content[:-8]),
    "half a number": ("input_ids.bin", lambda content: content[:-3]),
    "nothing": ("samples.bin", lambda _: b""),
    "no JSON": ("summary.json", lambda _: b"{"),
    "deep JSON": ("summary.json", lambda _: b"[" * 100_000),
    "no UTF-8": ("summary.json", lambda _: b"\xff"),
    "another JSON": ("summary.json", lambda _: b"[]"),
    "an unknown field": ("summary.json", with_summary(unknown=1)),
    "words for numbers": ("summary.json", with_summary(examples="many")),
    "another count": ("summary.json", with_summary(examples=3)),
    "lines of another form": ("summary.json", with_summary(lines=[1])),
    "reasons of another form": ("summary.json", with_summary(left_out=[1])),
}


@pytest.mark.parametrize("name", LIES)
def test_a_cache_that_lies_is_made_again(
    name: str,
    data_file: Path,
    tokenizer: ChatGLMTokenizer,
    tmp_path: Path,
    encoded_files: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = load_data(data_file, tokenizer, **LIMITS, cache_dir=tmp_path / "c")
    expected = list(whole.features)
    (cache,) = caches(tmp_path / "c")
    lie(cache, *LIES[name])
    again = load_data(data_file, tokenizer, **LIMITS, cache_dir=tmp_path / "c")
    assert list(again.features) == expected and len(encoded_files) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "已损坏" in line and "重新生成" in line


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_in_a_cache_is_not_waited_for(data_file: Path, tmp_path: Path) -> None:
    load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=tmp_path / "c")
    (cache,) = caches(tmp_path / "c")
    manifest = json.loads((cache / "manifest.json").read_text("utf-8"))
    del manifest["files"]["summary.json"]  # so that nothing looks at it before it is read
    (cache / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    (cache / "summary.json").unlink()
    os.mkfifo(cache / "summary.json")
    load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=tmp_path / "c")
    assert (cache / "summary.json").is_file()


@pytest.mark.parametrize("leftover", ["file", "dangling link", "link to a directory"])
def test_what_stands_in_the_place_of_a_cache_is_replaced(
    leftover: str, data_file: Path, tmp_path: Path
) -> None:
    load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=tmp_path / "c")
    (cache,) = caches(tmp_path / "c")
    shutil.rmtree(cache)
    (other := tmp_path / "other").mkdir()
    if leftover == "file":
        cache.write_text("")
    else:
        cache.symlink_to(other if leftover == "link to a directory" else tmp_path / "none")
    loaded = load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=tmp_path / "c")
    assert cache.is_dir() and not cache.is_symlink() and list(other.iterdir()) == []
    assert_same(loaded, load_data(data_file, CharacterTokenizer(), **LIMITS))


def test_waiting_for_the_lock_is_said_and_has_an_end(
    data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(token_cache, "_SILENT_SECONDS", 0.05)
    monkeypatch.setattr(token_cache, "LOCK_SECONDS", 0.1)
    (cache_dir := tmp_path / "c").mkdir()
    with FileLock(cache_dir / ".lock"):
        loaded = load_data(data_file, CharacterTokenizer(), **LIMITS, cache_dir=cache_dir)
    waiting, given_up = capsys.readouterr().err.splitlines()
    assert waiting.startswith(f"另一个进程正在写分词缓存 {cache_dir}，等它完成（最多")
    assert "另一个进程占用了它" in given_up and given_up.endswith("这次在内存中分词。")
    assert_same(loaded, load_data(data_file, CharacterTokenizer(), **LIMITS))


def test_the_format_version_belongs_to_this_encoding(tmp_path: Path) -> None:
    """If this fails because encoding or the files changed on purpose, raise FORMAT_VERSION too."""
    lines = [
        make_line("甲 乙\n😀", director("甲", "乙")),
        make_line("长" * 200, *(director(f"片{i}", "人") for i in range(3))),
        {"context": "评论：好", "target": "正面" * 60},
    ]
    path = write_jsonl(tmp_path / "data.jsonl", lines)
    load_data(path, CharacterTokenizer(), max_source_seq_len=128, max_target_seq_len=100, cache_dir=tmp_path)
    (cache,) = caches(tmp_path)
    files = json.loads((cache / "manifest.json").read_text(encoding="utf-8"))["files"]
    digests = {name: entry["sha256"][:8] for name, entry in files.items()}
    assert token_cache.FORMAT_VERSION == 5
    assert digests == {
        "samples.bin": "625e96e0",
        "input_ids.bin": "993e9e8d",
        "examples.bin": "c06f1a71",
        "text.bin": "8ca98324",
        "summary.json": "336a060f",
        "token_cache.txt": "59ee0047",
    }
