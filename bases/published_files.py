"""Which files of a published model are of use here, by name: weights, config, tokenizer; never code."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

# What lies beside the weights: config, tokenizer, chat template, what the model is and may be used for.
SMALL_FILES = (
    *("config.json", "generation_config.json", "configuration.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "ice_text.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("chat_template.jinja", "chat_template.json"),
    *("README.md", "LICENSE*", "MODEL_LICENSE*", "NOTICE*", "USE_POLICY.md"),
)
_NAME = re.compile(r"[\w.+-]{1,128}", re.ASCII)  # no folders, nothing that acts on a terminal
_NEVER = ("*.py", "*.pyc", "*.so", "*.sh")
SAFE_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json")


def is_small_file(name: str) -> bool:
    """Tell whether a file is one of those beside the weights."""
    return _matches(name, SMALL_FILES) and not _matches(name, _NEVER)


def is_wanted(name: str) -> bool:
    """Tell whether a file is one that `choose_files` may choose."""
    return is_small_file(name) or has_weights([name])


def choose_files(names: Iterable[str]) -> list[str]:
    """Return which of a published model's files are wanted: safetensors, or `.bin` where there are none.

    (Files of the same content under other names, folders and code are left out.)
    """
    names = [name for name in names if _NAME.fullmatch(name)]
    weights = SAFE_WEIGHTS if any(_matches(name, SAFE_WEIGHTS) for name in names) else PICKLED_WEIGHTS
    return sorted(name for name in names if is_small_file(name) or _matches(name, weights))


def has_weights(names: Iterable[str]) -> bool:
    """Tell whether there are any among files."""
    return any(_matches(name, (*SAFE_WEIGHTS, *PICKLED_WEIGHTS)) for name in names)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
