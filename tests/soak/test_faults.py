"""Every file operation of a training and of an extraction fails once, one after the other."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import inference_triplet
from extraction.shards import parts_folder
from tests.helpers.extraction_samples import FILM, NONSENSE, NOVEL, TinyRun
from tests.helpers.faults import ERRORS, Injector, last_weights, run, survive
from tests.helpers.killing import train_command
from tests.helpers.runs import process_as_before
from utils.common_utils import UserError

pytestmark = pytest.mark.soak
STRERRORS = [os.strerror(number) for number in ERRORS]


def test_every_fault(
    root: Path, random_base: Path, tmp_path: Path, tally: dict[str, tuple[int, int]]
) -> None:
    words, injector = train_command(root, random_base, tmp_path, tmp_path / "whole", epochs=1)[2:], Injector()
    with injector.below(tmp_path / "whole", 0):
        assert run(words) == 0
    expected, operations = last_weights(tmp_path / "whole"), injector.count
    for fail_at in range(1, operations + 1):
        save_dir = tmp_path / f"run{fail_at}"
        survive(injector, words, save_dir, fail_at)
        assert last_weights(save_dir) == expected, injector.failed
        tally["faults of a training survived"] = fail_at, operations
        shutil.rmtree(save_dir)


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "in parts"])
def test_every_fault_of_an_extraction(
    tiny_run: TinyRun, tmp_path: Path, tally: dict[str, tuple[int, int]], shared: bool
) -> None:
    """Opens, reads, writes, renames: of the input, the output, the adapter and the base."""
    home, injector = tmp_path / "home", Injector()
    home.mkdir()
    shutil.copytree(tiny_run.base, home / "base")
    shutil.copytree(tiny_run.adapter, home / "adapter")
    lines = [
        json.dumps({"text": text, "id": number}) for number, text in enumerate((FILM, NOVEL, NONSENSE) * 2)
    ]
    source, output = home / "in.jsonl", home / "out.jsonl"
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["--input", str(source), "--output", str(output), "--adapter", str(home / "adapter")]
    words += ["--pre_model", str(home / "base"), "--device", "cpu", "--batch_size", "2"]

    def attempt(fail_at: int) -> tuple[int | None, str]:
        with injector.below(home, fail_at, reads_and_writes=True), process_as_before():
            try:
                return inference_triplet.main(words), ""
            except UserError as error:
                return None, str(error)

    def begin() -> None:
        output.unlink(missing_ok=True)
        shutil.rmtree(parts_folder(output), ignore_errors=True)
        if shared:  # as several processes leave it
            parts_folder(output).mkdir()

    begin()
    assert attempt(0) == (0, "")
    expected, operations = output.read_bytes(), injector.count
    for fail_at in range(1, operations + 1):
        begin()
        code, said = attempt(fail_at)
        file = Path(injector.failed.split()[1]).name
        assert code is not None or file in said or any(error in said for error in STRERRORS), injector.failed
        if not shared:
            assert not output.exists() or expected.startswith(output.read_bytes()), injector.failed
        assert attempt(0) == (0, ""), injector.failed
        assert output.read_bytes() == expected, injector.failed
        tally[f"faults of an extraction survived ({'parts' if shared else 'alone'})"] = fail_at, operations
