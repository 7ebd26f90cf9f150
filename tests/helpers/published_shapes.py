"""A small base rewritten in the shapes that ChatGLM-6B was published in: int4, int8, the first, P-tuning."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import load_file

from bases.chatglm import ChatGLMTokenizer
from bases.chatglm.anatomy import EMBEDDING, HEAD, is_linear_layer

IMAGES = 20_000


def change_json(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file; `...` takes one out."""
    content = json.loads(path.read_text("utf-8")) | fields
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}), encoding="utf-8")


def take_weights(source: Path, target: Path) -> dict[str, torch.Tensor]:
    """Copy a base's small files, and return its weights, to be written anew."""
    shutil.copytree(source, target)
    state = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    return state


def quantise(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a weight number by number, as the published code says it: int8 rows, and their scales."""
    largest = 2 ** (bits - 1) - 1
    scale = (weight.float().abs().max(dim=-1).values / largest).half()
    numbers = torch.round(weight.float() / scale.float()[:, None]).to(torch.int8)
    if bits == 8:
        return numbers, scale
    rows = []
    for row in numbers.tolist():
        packed = [((even & 15) << 4) | (odd & 15) for even, odd in zip(row[::2], row[1::2], strict=True)]
        rows.append([byte - 256 if byte > 127 else byte for byte in packed])
    return torch.tensor(rows, dtype=torch.int8), scale


def make_int(source: Path, target: Path, bits: int, embeddings: bool = False) -> Path:
    """Write a base as THUDM/chatglm-6b-int4 or -int8 are: one `.bin`, the head beside the embedding."""
    state = take_weights(source, target)
    state[HEAD] = state[EMBEDDING].clone()
    for name in list(state):
        module = name.removesuffix(".weight")
        if module != name and (is_linear_layer(module) or (embeddings and name in (EMBEDDING, HEAD))):
            state[name], state[name + "_scale"] = quantise(state[name], bits)
    torch.save(state, target / "pytorch_model.bin")
    change_json(
        target / "config.json",
        quantization_bit=bits,
        quantization_embeddings=embeddings,
        pre_seq_len=None,
        prefix_projection=False,
    )
    return target


def make_prefix(source: Path, target: Path, length: int, projection: bool, whole: bool = True) -> Path:
    """Write a base with a random P-tuning v2 prefix; not `whole`: that alone, as its training saves it."""
    state = take_weights(source, target)
    config = json.loads((target / "config.json").read_text("utf-8"))
    hidden, output = config["hidden_size"], 2 * config["num_layers"] * config["hidden_size"]
    shapes = {"embedding.weight": (length, output)}
    if projection:
        shapes = {
            "embedding.weight": (length, hidden),
            "trans.0.weight": (hidden, hidden),
            "trans.0.bias": (hidden,),
            "trans.2.weight": (output, hidden),
            "trans.2.bias": (output,),
        }
    generator = torch.Generator().manual_seed(1)
    prefix = {
        f"transformer.prefix_encoder.{name}": torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }
    torch.save((state if whole else {}) | prefix, target / "pytorch_model.bin")
    change_json(target / "config.json", pre_seq_len=length, prefix_projection=projection)
    return target


def make_first_release(source: Path, target: Path) -> Path:
    """Write a base as the first release was: images first, no ids of the masks, ends with `</s>`."""
    state = take_weights(source, target)
    images = torch.zeros(IMAGES, state[EMBEDDING].shape[1], dtype=state[EMBEDDING].dtype)
    state[EMBEDDING] = torch.cat([images, state[EMBEDDING]])
    torch.save(state | {HEAD: state[EMBEDDING].clone()}, target / "pytorch_model.bin")
    tokenizer = ChatGLMTokenizer(str(target / "ice_text.model"), num_image_tokens=IMAGES)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    size = json.loads((target / "config.json").read_text("utf-8"))["vocab_size"] + IMAGES
    change_json(target / "config.json", vocab_size=size, mask_token_id=..., gmask_token_id=..., **ids)
    change_json(
        target / "tokenizer_config.json",
        num_image_tokens=...,
        eos_token="</s>",
        eop_token="<eop>",
        end_token=...,
    )
    return target


def control_order(model_dir: Path) -> list[str]:
    """Return the pieces from `[MASK]` to `<sop>`, in the order of a directory's tokenizer."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_dir / "ice_text.model"))
    first = pieces.piece_to_id("[MASK]")
    return [pieces.id_to_piece(first + index) for index in range(5)]
