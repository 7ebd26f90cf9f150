"""Encoded files: the same however made and kept, in bounded memory, by workers that leave in time."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import psutil
import pytest

from bases.chatglm import ChatGLMTokenizer
from data_handle import encoded_file
from data_handle.data_loader import load_data
from data_handle.data_preprocess import Features
from data_handle.reader import Example
from data_handle.stored_items import EncodedExamples, EncodedFeatures
from tests.helpers.data_samples import CharacterTokenizer, DyingTokenizer, make_line, write_jsonl
from tests.helpers.encoded_files import LIMITS, assert_same, caches

SAMPLES = [Features([5, 6, 7], [-100, -100, 7]), Features([8, 9], [-100, 9]), Features([4], [-100])]
EXAMPLES = [Example("问", "答", 3), Example("", "😀", 5), Example("a", "", 9)]


def test_several_processes_write_what_one_writes(
    data_file: Path, tokenizer: ChatGLMTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_data(data_file, tokenizer, **LIMITS, cache_dir=tmp_path / "serial")
    monkeypatch.setattr(encoded_file, "SERIAL_BYTES", 0)
    monkeypatch.setattr(encoded_file, "worker_count", lambda: 2)
    monkeypatch.setattr(encoded_file, "CHUNK_CHARACTERS", 1000)
    load_data(data_file, tokenizer, **LIMITS, cache_dir=tmp_path / "parallel")
    (serial,), (parallel,) = caches(tmp_path / "serial"), caches(tmp_path / "parallel")
    names = sorted(path.name for path in serial.iterdir())
    assert names == sorted(path.name for path in parallel.iterdir())
    for name in names:
        assert (serial / name).read_bytes() == (parallel / name).read_bytes(), name


def test_a_killed_worker_costs_time_only(
    data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoded_file, "SERIAL_BYTES", 0)
    monkeypatch.setattr(encoded_file, "worker_count", lambda: 2)
    loaded = load_data(data_file, DyingTokenizer(), **LIMITS, cache_dir=tmp_path / "c")
    assert "工作进程被系统终止" in capsys.readouterr().err
    assert_same(loaded, load_data(data_file, CharacterTokenizer(), **LIMITS))


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_workers_leave_with_their_parent(data_file: Path, root: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from data_handle.encoded_file import encode_file\n"
        "from tests.helpers.data_samples import SlowTokenizer\n"
        "list(encode_file(Path(sys.argv[1]), SlowTokenizer(), (128, 96), 2))\n"
    )
    command = [sys.executable, "-c", code, str(data_file), str(root), str(root / "tests")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as parent:
        workers: list[psutil.Process] = []
        deadline = time.monotonic() + 120
        while not workers and time.monotonic() < deadline:
            time.sleep(0.1)
            children = psutil.Process(parent.pid).children()
            workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
            workers = [worker for worker in workers if worker.num_threads() > 1]  # up, and watching
        parent.send_signal(signal.SIGKILL)
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=30)
    for worker in alive:
        worker.kill()
    assert alive == []


@pytest.mark.skipif(os.name == "nt", reason="signals of a process group")
def test_ctrl_c_while_workers_start_leaves_no_traceback(data_file: Path, root: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from data_handle.encoded_file import encode_file\n"
        "from tests.helpers.data_samples import LateTokenizer\n"
        "from utils.common_utils import run_main\n"
        "file = Path(sys.argv[1])\n"
        "run_main(lambda: sum(1 for _ in encode_file(file, LateTokenizer(), (128, 96), 2)))\n"
    )
    command = [sys.executable, "-c", code, str(data_file), str(root), str(root / "tests")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        while "receiving" not in process.stderr.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read().split()
    assert process.returncode == 130
    assert set(rest) <= {"receiving", "已中断。"}


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_file, "CHUNK_CHARACTERS", 10_000)
    peaks = []
    for lines in (300, 3000):
        path = write_jsonl(tmp_path / f"{lines}.jsonl", [make_line(f"{i}" * 9) for i in range(lines)])
        (new := tmp_path / str(lines)).mkdir()
        tracemalloc.start()
        encoded_file.encode_into(new, path, CharacterTokenizer(), (128, 96))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_workers_do_not_load_torch(root: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "import bases.chatglm.tokenization, data_handle.encoded_file\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_workers_get_the_place_of_the_cache_not_its_content(
    data_file: Path, tokenizer: ChatGLMTokenizer, tmp_path: Path
) -> None:
    loaded = load_data(data_file, tokenizer, **LIMITS, cache_dir=tmp_path / "c")
    for items in (loaded.dataset.features, loaded.examples, loaded.examples[5::3]):
        pickled = pickle.dumps(items)
        assert len(pickled) < 1000
        assert list(pickle.loads(pickled)) == list(items)


def test_items_in_memory_are_what_was_put_in() -> None:
    features, examples = EncodedFeatures.pack(SAMPLES, [3, 5, 5]), EncodedExamples.pack(EXAMPLES)
    assert list(features) == SAMPLES and features.lengths.tolist() == [3, 2, 1]
    assert features.line_numbers.tolist() == [3, 5, 5]
    assert list(examples) == EXAMPLES and examples.line_numbers.tolist() == [3, 5, 9]
    assert list(features[::-1]) == SAMPLES[::-1] and features[-1] == SAMPLES[-1]
    assert list(features[1:].select(np.array([1, 0]))) == [SAMPLES[2], SAMPLES[1]]
    assert features.select(np.array([2, 0])).lengths.tolist() == [1, 3]
    assert list(pickle.loads(pickle.dumps(examples[1:]))) == EXAMPLES[1:]
    assert features.find_damage() is None and examples.find_damage() is None
    with pytest.raises(IndexError):
        features[3]


def test_parts_are_joined_in_their_order() -> None:
    sides = [(SAMPLES[:1], [3]), ([], []), (SAMPLES[1:], [5, 9])]
    joined = EncodedFeatures.join([EncodedFeatures.pack(*side) for side in sides])
    assert list(joined) == SAMPLES and joined.line_numbers.tolist() == [3, 5, 9]
    assert list(EncodedExamples.join([EncodedExamples.pack(EXAMPLES)] * 2)) == EXAMPLES * 2
    nothing = EncodedFeatures.join([])
    assert list(nothing) == [] and nothing.lengths.tolist() == []
