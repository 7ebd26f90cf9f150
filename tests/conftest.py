"""Settings of every test run: no network, no GPU tests without a GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.helpers.extraction_samples import TinyRun

# Before any test module imports the libraries that read them; subprocesses inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["PYTHONUTF8"] = "1"


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
    import torch

    from bases.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer

    directory = tmp_path_factory.mktemp("random_base")
    tokenizer = ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny")
    config = ChatGLMConfig(
        vocab_size=(len(tokenizer) + 63) // 64 * 64,
        hidden_size=64,
        num_layers=2,
        num_attention_heads=4,
        inner_hidden_size=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
        gmask_token_id=tokenizer.gmask_token_id,
    )
    torch.manual_seed(0)
    model = ChatGLMForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # larger than the default, so that the layers matter beside the residual
            torch.nn.init.normal_(parameter, std=0.1)
    model.half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A base of two layers and an adapter on it that has learned a handful of answers by heart."""
    from tests.helpers.extraction_samples import build

    return build(tmp_path_factory.mktemp("tiny"))
