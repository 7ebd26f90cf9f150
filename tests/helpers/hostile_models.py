"""Files of model directories and adapters, mutated by bytes and by structure, and what loading makes of them.

Run as a module with a folder, a kind, a number and a seed, it prints the counts as JSON: for a child process,
because a tokenizer's file may end the process that reads it.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file

from bases import check_model_dir
from bases.adapter import AdapterMeta, attach_lora, load_adapter, write_adapter_files
from bases.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer, load_base_model
from bases.chatglm.files import load_tokenizer
from utils.common_utils import UserError

MEMORY, SLOW, LONG = 2**30, 20.0, 1500  # bytes over the start, seconds, characters of a message
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, math.nan, math.inf, 0.5),
    *("", "x", "\0", "\ud800", "a" * 100_000, "eager|a/b", "float16", "../x", "的"),
    *([], {}, [[]], {"a": 1}, [1] * 1000, {"content": "<sop>"}),
)
FIELDS = ("auto_map", "attn_implementation", "num_labels", "added_tokens_decoder", "quantization_config")
# What is mutated, by name of the kind: an adapter's file or the base's.
FILES = {
    "config": "config.json",
    "tokenizer_config": "tokenizer_config.json",
    "tokenizer": "ice_text.model",
    "safetensors": "model.safetensors",
    "archive": "pytorch_model.bin",
    "old_pickle": "pytorch_model.bin",
    "index": "pytorch_model.bin.index.json",
    "lora_config": "adapter_config.json",
    "meta": "adapter_meta.json",
    "lora": "adapter_model.safetensors",
}
OF_ADAPTER = ("lora_config", "meta", "lora")


def make(root: Path, folder: Path, kind: str) -> tuple[Path, Path]:
    """Write a base of one small layer, in the format that a kind needs, and an adapter; return both."""
    base, adapter = folder / "base", folder / "adapter"
    tokenizer = ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny")
    ids = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id")
    config = ChatGLMConfig(
        vocab_size=6080, hidden_size=16, num_layers=1, num_attention_heads=2, inner_hidden_size=32,
        **{name: getattr(tokenizer, name) for name in ids},
    )  # fmt: skip
    ChatGLMForConditionalGeneration(config).half().save_pretrained(base)
    tokenizer.save_pretrained(base)
    if FILES[kind].startswith("pytorch_model"):
        state = load_file(base / "model.safetensors")
        (base / "model.safetensors").unlink()
        weights = base / "pytorch_model.bin"
        torch.save(state, weights, _use_new_zipfile_serialization=kind != "old_pickle")
        if kind == "index":
            index = {"metadata": {}, "weight_map": dict.fromkeys(state, weights.name)}
            (base / FILES[kind]).write_text(json.dumps(index))
    model = load_plainly(base)
    lora = attach_lora(model, rank=2, alpha=4, dropout=0.0, target_modules=["query_key_value"])
    adapter.mkdir()
    meta = AdapterMeta(model.base_fingerprint, str(base), 10, 10)
    write_adapter_files(lora, adapter, meta, {}, {"combinations": []})
    return base, adapter


def load_plainly(base: Path) -> Any:
    return load_base_model(base, load_in_4bit=False, device="cpu", dtype=torch.float32)[0]


def mutate_json(content: Any, rng: Random) -> Any:
    """Put something strange in the place of some values, and leave some out."""
    for _ in range(rng.randint(1, 3)):
        part = content
        while isinstance(part, dict) and part:
            key = rng.choice([*part, *FIELDS])
            if rng.random() < 0.6 or not isinstance(part.get(key), dict):
                part[key] = rng.choice(STRANGE)
                break
            part = part[key]
        if rng.random() < 0.2 and isinstance(content, dict) and content:
            content.pop(rng.choice(list(content)))
    return content


def mutate(good: bytes, kind: str, rng: Random) -> bytes:
    """Change a file where it hurts: its fields, its header, its pieces; or bytes anywhere."""
    if FILES[kind].endswith(".json") and rng.random() < 0.7:
        return json.dumps(mutate_json(json.loads(good), rng)).encode("utf-8", "surrogatepass")
    if FILES[kind].endswith(".safetensors") and rng.random() < 0.5:
        length = int.from_bytes(good[:8], "little")
        header = json.dumps(mutate_json(json.loads(good[8 : 8 + length]), rng)).encode("utf-8", "replace")
        return len(header).to_bytes(8, "little") + header + good[8 + length :]
    content = bytearray(good)
    # The beginning of a file, its end, or anywhere; of a tokenizer its pieces, at most a table of 240 kB on.
    start, end = rng.choice([(0, 3000), (max(0, len(good) - 3000), len(good)), (0, len(good))])
    if kind == "tokenizer":
        start, end = 0, 86_000
    for _ in range(rng.choice([1, 1, 2, 5, 30])):
        place = rng.randrange(start, min(end, len(content)))
        how = rng.random() if kind != "tokenizer" else 0
        if how < 0.6:
            content[place] = rng.choice([0, 1, 2, 5, 127, 128, 255, rng.randrange(256)])
        elif how < 0.8:
            del content[place : place + rng.randint(1, 40)]
        else:
            content[place:place] = rng.randbytes(rng.randint(1, 20))
        start = min(start, len(content) - 1)
    return bytes(content)


def try_one(base: Path, adapter: Path, kind: str) -> None:
    if kind in OF_ADAPTER:
        load_adapter(load_plainly(base), adapter)
        return
    if kind == "tokenizer":
        tokenizer = load_tokenizer(base)
        tokenizer.encode_plain("你好 abc，<n>１２３\u200b𠮷")
        tokenizer.normalised_units("ﬁ①你 好")
        return
    check_model_dir(base)
    load_plainly(base)


def try_all(root: Path, folder: Path, kind: str, count: int, seed: int) -> dict[str, int]:
    """Mutate a file many times; return how often loading was refused in a sentence, and how often it worked.

    Raises:
        AssertionError: it took too long or too much memory, or the sentence is no sentence.
        Exception: whatever else came of it.
    """
    base, adapter = make(root, folder, kind)
    path = (adapter if kind in OF_ADAPTER else base) / FILES[kind]
    good, rng, counts = path.read_bytes(), Random(seed), {"refused": 0, "loaded": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        path.write_bytes(mutate(good, kind, rng))
        started, message = time.monotonic(), ""
        try:
            try_one(base, adapter, kind)
        except UserError as error:
            message = str(error)
        counts["refused" if message else "loaded"] += 1
        assert len(message) < LONG, message[:300]
        assert time.monotonic() - started < SLOW
    path.write_bytes(good)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY, f"{grown:,} bytes more"
    return counts


if __name__ == "__main__":
    folder, kind, count, seed = sys.argv[1:]
    root = Path(__file__).resolve().parents[2]
    print(json.dumps(try_all(root, Path(folder), kind, int(count), int(seed))))
