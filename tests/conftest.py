"""Settings of every test run: no network, no GPU tests without a GPU."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.helpers.extraction_samples import TinyRun

# Before any test module imports the libraries that read them; subprocesses inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["PYTHONUTF8"] = "1"
# The models here are tiny: threads inside an operation cost more than they bring, and tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell lets its background jobs ignore Ctrl-C; the processes that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parent.parent


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")


@pytest.fixture(scope="session")
def random_base(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of two small layers with random weights and the embedded base's tokenizer."""
    from tests.helpers.random_base import make_random_base

    return make_random_base(root, tmp_path_factory.mktemp("random_base"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A base of two layers and an adapter on it that has learned a handful of answers by heart."""
    from tests.helpers.extraction_samples import build

    return build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def relations_run(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A base and an adapter whose prompts name the relations that are wanted, two at a time."""
    from tests.helpers.extraction_samples import build_relations

    return build_relations(tiny_run, tmp_path_factory.mktemp("relations"))
