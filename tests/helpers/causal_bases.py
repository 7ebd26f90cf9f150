"""Small model directories of the causal family: random weights, tokenizers trained on the bundled lines."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
VOCAB_SIZE = 1500
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE + 20,  # padded
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FURTHER: dict[str, dict[str, Any]] = {
    "qwen2": {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    "gemma3_text": {
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 16,
        "tie_word_embeddings": True,
    },
    "mistral": {"sliding_window": 24},
    "phi3": {"sliding_window": 24, "num_key_value_heads": 2},
    "llama": {
        "rope_scaling": {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 512,
        }
    },
    "ministral": {
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention"] * 1 + ["full_attention"],
    },
    "olmo3": {
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "exaone4": {
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "smollm3": {"no_rope_layers": [1, 0, 1]},
}
CHATML = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content }}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}{%- endif %}"
)
_SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
_SPLIT = r"\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"


@functools.cache
def _lines() -> list[str]:
    texts = []
    for name in ("mixed_train_dataset.jsonl", "mixed_dev_dataset.jsonl"):
        for line in (ROOT / "data" / name).read_text(encoding="utf-8").splitlines():
            texts += json.loads(line).values()
    return texts


@functools.cache
def byte_level() -> str:
    """Return a tokenizer.json of byte-level BPE, as Qwen and Llama 3 have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(), trainer)
    return tokenizer.to_str()


@functools.cache
def pieces(prefix: bool = False) -> str:
    """Return a tokenizer.json of BPE over SentencePiece's pieces: Gemma's kind, with prefix Llama 2's."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[*_SPECIAL, *bytes_of],
        limit_alphabet=600,
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.replace("\n", "") for text in _lines()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in bytes_of]
    return json.dumps(content)


def write_tokenizer(directory: Path, content: str, template: str | None = None) -> None:
    """Write the tokenizer's files into a directory."""
    (directory / "tokenizer.json").write_text(content, encoding="utf-8")
    config: dict[str, Any] = {"eos_token": "<eos>", "bos_token": "<bos>", "pad_token": "<pad>"}
    if template is not None:
        config["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def config_of(model_type: str, **changes: Any) -> Any:
    """Return transformers' config of a small model."""
    return CONFIG_MAPPING[model_type](**{**SIZES, **FURTHER.get(model_type, {}), **changes})


def make_base(
    directory: Path,
    model_type: str,
    *,
    template: str | None = CHATML,
    tokenizer: str | None = None,
    **changes: Any,
) -> Path:
    """Write a directory of a small model with random weights, as transformers writes it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(model_type, **changes), attn_implementation="sdpa")
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2) if parameter.ndim > 1 else parameter.data.normal_(1.0, 0.1)
    model.save_pretrained(directory)
    write_tokenizer(directory, tokenizer or byte_level(), template)
    return directory
