"""Short runs of train.py: their data, their command line, and a process as it was before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers.runs import process_as_before

SHORT = {"--max_source_seq_len": "96", "--max_target_seq_len": "80", "--eval_samples": "2", "--device": "cpu"}


@pytest.fixture(scope="session")
def data(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Sixteen lines of the bundled training data, and four for dev."""
    lines = (root / "data" / "mixed_train_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    directory = tmp_path_factory.mktemp("data")
    (directory / "train.jsonl").write_text("\n".join(lines[:16]) + "\n", encoding="utf-8")
    (directory / "dev.jsonl").write_text("\n".join(lines[16:20]) + "\n", encoding="utf-8")
    return {"--train_path": str(directory / "train.jsonl"), "--dev_path": str(directory / "dev.jsonl")}


@pytest.fixture(autouse=True)
def a_process_of_its_own() -> Iterator[None]:
    """Undo what a run leaves in its process: signal handlers, and accelerate's choice of precision."""
    with process_as_before():
        yield


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch with two threads, as on a machine of two cores (other tests have one)."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def arguments(random_base: Path, data: dict[str, str], tmp_path: Path) -> Callable[..., list[str]]:
    """Build the command line of a short run; keyword arguments set knobs, None leaves one out."""

    def build(**knobs: object) -> list[str]:
        options: dict[str, object] = {**data, **SHORT, "--pre_model": random_base}
        options |= {"--save_dir": tmp_path / "run", "--token_cache_dir": tmp_path / "cache"}
        options |= {f"--{name}": value for name, value in knobs.items()}
        words = []
        for name, value in options.items():
            if value is not None:
                words += [name, str(value).lower() if isinstance(value, bool) else str(value)]
        return words

    return build
