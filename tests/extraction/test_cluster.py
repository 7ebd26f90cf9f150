"""A cluster's job without a cluster: its store, its rows, its names; files behind addresses."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import threading
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from extraction import cluster
from extraction.cluster import ClusterJob, _cut_inputs, cut_input, is_done, parts_of, read_part, result_names
from extraction.cluster_store import Key, Store
from extraction.distant import DistantFile, find_files, open_file
from extraction.options import ExtractorOptions
from extraction.records import read_records
from utils.common_utils import UserError

pa = pytest.importorskip("pyarrow", reason="pip install -r requirements-ray.txt")
pq = pytest.importorskip("pyarrow.parquet")
pa_fs = pytest.importorskip("pyarrow.fs")


def write(store_dir: Path, name: str, keys: list[Key]) -> None:
    rows = [
        {"file": file, "line": line, "sub": sub, "result": json.dumps({"text": f"{file}-{line}-{sub}"})}
        for file, line, sub in keys
    ]
    (store_dir / "parts").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), store_dir / "parts" / f"{name}.parquet")


def test_results_in_any_order_are_joined_in_order(tmp_path: Path) -> None:
    keys = [(file, line, 0) for file in (0, 2) for line in range(1, 40)] + [(0, 7, 1)]
    rng = random.Random(0)
    for number in range(12):  # some rows twice
        write(tmp_path, str(number), rng.sample(keys, 10))
    write(tmp_path, "rest", keys)
    store = Store(str(tmp_path))
    done = store.find_done()
    assert done == {0: [(1, 39, 0), (7, 7, 1)], 2: [(1, 39, 0)]}
    assert store.join(["a", "b", "sub/c"], "jsonl") == [
        ("a.jsonl", 40, 0), ("b.jsonl", 0, 0), ("sub/c.jsonl", 39, 0),
    ]  # fmt: skip
    texts = [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").open()]
    assert texts[5:9] == ["0-6-0", "0-7-0", "0-7-1", "0-8-0"]
    assert (tmp_path / "b.jsonl").read_bytes() == b""
    store.remove_parts()
    assert not (tmp_path / "parts").exists()


def test_a_file_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    write(tmp_path, "whole", [(0, 1, 0), (0, 2, 0)])
    write(tmp_path, "half", [(0, 3, 0)])
    half = tmp_path / "parts" / "half.parquet"
    half.write_bytes(half.read_bytes()[:-5])
    assert Store(str(tmp_path)).find_done() == {0: [(1, 2, 0)]}
    assert not half.exists()


def test_what_is_done() -> None:
    done = [(1, 3, 0), (7, 7, 0), (2, 2, 1)]
    missing = [(line, sub) for sub in (0, 1, 2) for line in range(1, 9) if not is_done(done, line, sub)]
    expected = [(4, 0), (5, 0), (6, 0), (8, 0), *((line, 1) for line in (1, 3, 4, 5, 6, 7, 8))]
    assert missing == [*expected, *((line, 2) for line in range(1, 9))]
    assert not is_done([], 1, 0)


def test_parquet_out(tmp_path: Path) -> None:
    triplet = dict.fromkeys(("predicate", "object_type", "subject_type", "object", "subject"), "甲")
    results = [
        {"id": 7, "text": "甲", "triplets": [triplet | {"score": 0.5, "object_span": [0, 1]}]},
        {"text": "乙", "triplets": [], "error": "坏了"},
    ]
    rows = [{"file": 0, "line": n, "sub": 0, "result": json.dumps(r)} for n, r in enumerate(results, 1)]
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parts" / "a.parquet")
    store = Store(str(tmp_path))
    store.find_done()
    assert store.join(["a"], "parquet") == [("a.parquet", 2, 1)]
    first, second = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert first["triplets"][0]["score"] == 0.5 and first["triplets"][0]["object_span"] == [0, 1]
    assert json.loads(first["others"]) == {"id": 7} and first["error"] is None
    assert (second["line"], second["text"], second["error"]) == (2, "乙", "坏了")


def parts(name: str) -> list[Any]:
    cut = cut_input(name, None)
    assert json.loads(json.dumps(cut)) == cut
    return [record for number in range(len(parts_of(cut))) for record in read_part(cut, number, None)]


@pytest.mark.parametrize("content", ["甲\n乙\r丙\n\n丁", '{"text": "甲"}\n{"text": 1}', '["甲", "乙"]'])
def test_files_behind_an_address(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(content, "utf-8", newline="")
    (address,) = find_files([f"file://{tmp_path}/*.txt"])
    assert isinstance(open_file(address), DistantFile) and address == f"file://{path}"
    assert parts(address) == parts(str(path)) == list(read_records(path))


def test_parquet_in(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"text": text, "n": 1} for text in ("甲", None, "乙")]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    records = parts(str(path))
    assert [(record.fields["text"], record.line) for record in records] == [("甲", 1), (None, 2), ("乙", 3)]
    assert records[1].problem == "字段 text 应当是字符串，却是 null"
    assert "没有名为 句子 的列（有 text、n）" in cut_input(str(path), "句子")["problem"]


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for pattern in (str(tmp_path / "*.txt"), f"file://{tmp_path}/a.txt"):
        with pytest.raises(UserError, match="没有这样的文件"):
            find_files([pattern])
    with pytest.raises(UserError, match="打不开 nowhere://a"):
        find_files(["nowhere://a"])
    assert "读不了输入文件" in cut_input(str(tmp_path / "gone.parquet"), None)["problem"]


def test_names_of_results() -> None:
    assert result_names(["/d/a.txt"]) == ["a"]
    assert result_names(["/d/x/a.txt", "/d/y/a.txt"]) == ["x/a", "y/a"]
    assert result_names(["s3://d/a.txt", "s3://d/a.csv"]) == ["a.txt", "a.csv"]
    assert result_names(["/d/y/../x/a.txt", "/d/y/b.txt"]) == [
        "x/a",
        "y/b",
    ]  # nothing leads out of the output
    assert result_names(["/d/parts/a.txt", "/d/b.txt"]) == ["_parts/a", "b"]  # `parts` is removed in the end
    assert result_names(["s3://d/a.txt", "/e/b.txt"]) == ["d/a", "e/b"]
    with pytest.raises(UserError, match="写到同一个文件"):
        result_names(["s3://d/x/../a.txt", "s3://d/a.txt"])


def test_what_others_have_in_the_output_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"已有别的东西（a\.jsonl）"):
        Store(str(tmp_path)).check_is_free()
    Store(str(tmp_path / "new")).check_is_free()
    (tmp_path / "empty").mkdir()
    Store(str(tmp_path / "empty")).check_is_free()


NOTES = ["[", "[" * 100_000, "7", '"x"', "null", "[1]", "{}", '{"inputs": [], "text_field": null}', "\0"]


@pytest.mark.parametrize("text", NOTES)
def test_notes_that_are_none(tmp_path: Path, text: str) -> None:
    for name in ("job.json", "done.json"):
        (tmp_path / name).write_text(text)
    store = Store(str(tmp_path))
    if text != "null":
        with pytest.raises(UserError, match="已损坏"):
            store.read_done("jsonl")
    options = ExtractorOptions()
    job = ClusterJob(("a",), str(tmp_path), "jsonl", None, options, (1, 1), 0, 1, False, False, None)
    with pytest.raises(UserError, match=r"extract_ray\.py 写的|变了|已损坏|已有别的东西"):
        _cut_inputs(store, [str(tmp_path / "job.json")], job, None)


def test_notes_of_terabytes_and_of_another_form(tmp_path: Path) -> None:
    with (tmp_path / "job.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="已损坏"):
        Store(str(tmp_path)).read_json("job.json")
    (tmp_path / "done.json").write_text('[["a.jsonl", 3, 1]]')
    assert Store(str(tmp_path)).read_done("jsonl") == [("a.jsonl", 3, 1)]
    with pytest.raises(UserError, match="要别的 --format"):
        Store(str(tmp_path)).read_done("parquet")


def test_damaged_parts_are_named(tmp_path: Path) -> None:
    write(tmp_path, "a", [(0, line, 0) for line in range(500)])
    part = tmp_path / "parts" / "a.parquet"
    good = part.read_bytes()
    generator = random.Random(0)
    for _ in range(60):
        damaged = bytearray(good)
        for _ in range(3):
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        part.write_bytes(damaged)
        store = Store(str(tmp_path))
        with contextlib.suppress(UserError):  # and nothing else
            store.find_done()
            store.join(["a"], "jsonl")
        assert "problem" in (cut := cut_input(str(part), "result")) or cut["kind"] == "parquet"
        if not part.exists():
            part.write_bytes(good)


def test_no_rows_at_all(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert store.find_done() == {}
    assert store.join(["a"], "jsonl") == [("a.jsonl", 0, 0)] and (tmp_path / "a.jsonl").read_bytes() == b""


def test_a_distant_place_that_refuses() -> None:
    class Refusing:
        def get_file_info(self, *_: object) -> object:
            raise OSError("no keys")

    store = Store("/nowhere")
    store._files = Refusing()
    for ask in (store.check_is_free, lambda: store.read_json("job.json")):
        with pytest.raises(UserError, match="no keys"):
            ask()


def test_a_store_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(address: str) -> object:
        asked.append(address)
        raise OSError("nobody there")

    monkeypatch.setattr(pa_fs, "FileSystem", SimpleNamespace(from_uri=refuse))
    for address in ("gs://bucket/a.txt", "s3://bucket/a.txt"):
        with pytest.raises(UserError, match=f"打不开 {address}.*nobody there"):
            find_files([address])
    assert asked == ["gs://bucket/a.txt?retry_limit_seconds=60", "s3://bucket/a.txt"]


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_a_cluster_that_does_not_come(
    address: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray may wait without an end, or raise whatever it likes: one sentence and exit code 2 either way."""
    given_up = threading.Event()
    codes = []

    def leave(code: int) -> None:
        codes.append(code)
        given_up.set()

    def wait(*_: Any, **__: Any) -> None:
        assert given_up.wait(30)
        raise Exception("The current node timed out during startup.")

    ray = types.ModuleType("ray")
    ray.data = types.ModuleType("ray.data")  # type: ignore[attr-defined]
    context = types.SimpleNamespace(enable_progress_bars=False)
    ray.data.DataContext = types.SimpleNamespace(get_current=lambda: context)  # type: ignore[attr-defined]
    ray.is_initialized, ray.init = lambda: False, wait  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)  # type: ignore[attr-defined]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setattr(cluster, "START_SECONDS", 0.05)
    monkeypatch.setattr(cluster.os, "_exit", leave)
    with pytest.raises(
        UserError, match=r"启动不了（The current node" if address is None else r"连不上 Ray 集群 10"
    ):
        cluster.connect(cluster.load_ray(), address, 1)
    assert codes == [2]
    said = capsys.readouterr().err
    assert (
        ("没有在本机启动：机器太忙" in said)
        if address is None
        else ("没有连上 Ray 集群 10.0.0.1:6379" in said)
    )
