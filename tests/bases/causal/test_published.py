"""ChatGLM2, ChatGLM3 and GLM-4-9B: numbers of the published code, ids of the published formats."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file

from bases import find_family
from bases.causal.configuration import read_config
from bases.causal.loading import load_model
from bases.causal.modeling import empty_model
from bases.causal.published_glm import glm_parts
from bases.causal.tokenization import load_tokenizer
from bases.causal.tokenizer_file import byte_alphabet
from bases.interface import CheckpointError
from tests.helpers.causal_bases import byte_level

CONFIG: dict[str, Any] = {
    "model_type": "chatglm",
    "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "num_layers": 3,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "kv_channels": 16,
    "num_attention_heads": 4,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "padded_vocab_size": 300,
    "seq_length": 512,
    "layernorm_epsilon": 1e-05,
    "add_qkv_bias": True,
    "add_bias_linear": False,
    "rmsnorm": True,
    "post_layer_norm": True,
    "apply_residual_connection_post_layernorm": False,
    "original_rope": True,
}
IDS = [5, 17, 42, 99, 120, 7, 201, 256, 31, 8, 77, 64]
# Logits of THUDM's code (chatglm2-6b and chatglm3-6b, transformers 4.40, fp32) with the weights below: of the
# positions 0, 5 and 11, the words 0, 99 and 299; and the loss of the ids.
PUBLISHED = [0.48191, -0.2141, 0.48269, 0.63894, -0.05069, 0.63176, 0.34581, 0.3669, 0.32804]
LOSS = 5.54451
BLOCK = {
    "input_layernorm.weight": (64,),
    "self_attention.query_key_value.weight": (128, 64),
    "self_attention.query_key_value.bias": (128,),
    "self_attention.dense.weight": (64, 64),
    "post_attention_layernorm.weight": (64,),
    "mlp.dense_h_to_4h.weight": (192, 64),
    "mlp.dense_4h_to_h.weight": (64, 96),
}


def published_weights() -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (300, 64),
        "transformer.encoder.final_layernorm.weight": (64,),
        "transformer.output_layer.weight": (300, 64),
    }
    for layer in range(3):
        shapes |= {f"transformer.encoder.layers.{layer}.{name}": shape for name, shape in BLOCK.items()}
    weights = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        wave = torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * 0.7391 + number)
        weights[name] = ((1.0 + 0.1 * wave) if "layernorm" in name else 0.3 * wave).float().view(shape)
    return weights


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    rotary = {"transformer.rotary_pos_emb.inv_freq": torch.ones(4)}
    save_file(published_weights() | rotary, tmp_path / "model.safetensors")
    return tmp_path


@torch.no_grad()
def test_numbers_are_those_of_the_published_code(directory: Path) -> None:
    family = find_family(directory)
    model = load_model(
        directory,
        family.load_config(directory),
        dtype=torch.float32,
        load_in_4bit=False,
        quant_storage=torch.uint8,
        device="cpu",
    )
    ids = torch.tensor([IDS])
    logits = model(input_ids=ids).logits[0, [0, 5, 11]][:, [0, 99, 299]].flatten()
    torch.testing.assert_close(logits, torch.tensor(PUBLISHED), rtol=1e-4, atol=1e-4)
    assert model(input_ids=ids, labels=ids).loss.item() == pytest.approx(LOSS, rel=1e-4)


def test_every_parameter_comes_from_the_files() -> None:
    config = read_config(CONFIG)
    parts = [part for name in published_weights() for part in glm_parts(name, config) or []]
    names = {name for name, _ in empty_model(config).named_parameters()}
    assert {part.name for part in parts} == names and len(parts) == len(names)
    assert glm_parts("transformer.prefix_encoder.embedding.weight", config) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pre_seq_len": 128}, "pre_seq_len"),
        ({"quantization_bit": 4}, "quantization_bit"),
        ({"add_bias_linear": True}, "add_bias_linear"),
        ({"rope_ratio": 50, "padded_vocab_size": 65024}, "32K"),
        ({"rope_ratio": "x"}, "rope_ratio"),
        ({"hidden_size": 10**9}, "太大"),
        ({"multi_query_group_num": 3}, "整数倍"),
        ({"num_layers": 10**6}, "num_hidden_layers"),
    ],
)
def test_other_configs_are_refused(directory: Path, fields: dict[str, Any], message: str) -> None:
    (directory / "config.json").write_text(json.dumps(CONFIG | fields))
    with pytest.raises(CheckpointError, match=message):
        find_family(directory).load_config(directory)


def test_glm4_turns_slower_by_its_ratio() -> None:
    config = read_config(CONFIG | {"rope_ratio": 500})
    assert config.rope_parameters["rope_theta"] == 5_000_000
    assert config.rope_parameters["partial_rotary_factor"] == 0.5


# ---- tokenizers


def test_a_vocabulary_of_ranks_has_the_ids_of_its_byte_pairs(tmp_path: Path) -> None:
    """A tokenizer.json and the same as tiktoken has it encode alike."""
    content = json.loads(byte_level())
    alphabet = byte_alphabet()
    special = {token["content"] for token in content["added_tokens"]}
    pieces = sorted(
        (set(content["model"]["vocab"]) - special), key=lambda piece: content["model"]["vocab"][piece]
    )
    lines = [
        base64.b64encode(bytes(alphabet[letter] for letter in piece)) + f" {rank}".encode()
        for rank, piece in enumerate(pieces)
    ]
    (tmp_path / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")
    tokenizer = load_tokenizer(tmp_path)
    table = tokenizer.token_bytes(len(tokenizer))
    for text in ("周杰伦演唱了《七里香》，2004年。", "  a\n\nb 1234 it's", "<|user|>𠮷"):
        ids = tokenizer.encode_plain(text)
        assert b"".join(table[index] or b"?" for index in ids).decode() == text
        assert len(ids) < len(text.encode())
    names = ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>"]
    first, second, user, assistant = (tokenizer._control[name] for name in names)
    assert user == len(pieces) + 7 and tokenizer.eos_token_id == user
    prompt = tokenizer.prompt_ids("甲")
    assert prompt == [
        *(first, second, user),
        *tokenizer.encode_plain("\n甲"),
        assistant,
        *tokenizer.encode_plain("\n"),
    ]


def test_a_sentencepiece_model_has_the_ids_that_it_gives_itself(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[3] / "data" / "mixed_train_dataset.jsonl").read_text("utf-8")
    (tmp_path / "text").write_text(text, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=2000,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.99,
        max_sentence_length=10**6,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ours = load_tokenizer(tmp_path)
    for line in [*text.splitlines()[:150], "  a  b 𠮷\n\n甲", "[gMASK]sop<|user|></s>"]:
        assert ours.encode_plain(line) == theirs.encode(line)
    assert ours.prompt_ids("甲")[:2] == [2001, 2003] and ours.eos_token_id == theirs.eos_id()
    (tmp_path / "tokenization_chatglm.py").write_text("raise SystemExit  # read, never run: [gMASK]")
    assert load_tokenizer(tmp_path).prompt_frame == "[gMASK]sop[Round 1]\n\n问：{context}\n\n答：{answer}</s>"


@pytest.mark.parametrize("content", [b"", b"x y\n", b"QQ== 0\nQQ== 5\n", b"\x0a\x05abc", b"QQ== 0 0\n"])
def test_damaged_vocabularies_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match="分词器不能用"):
        load_tokenizer(tmp_path)
