"""The shapes that ChatGLM-6B was published in: int4, int8, the first release, P-tuning v2, single files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from bases import CheckpointError, check_model_dir
from bases.adapter import attach_lora
from bases.chatglm import (
    ChatGLMForConditionalGeneration,
    ChatGLMTokenizer,
    load_base_model,
    load_config,
    row_scaled,
)
from bases.chatglm.anatomy import EMBEDDING, HEAD
from bases.chatglm.tokenizer_file import FIRST_CONTROL_PIECES, with_control_pieces
from tests.helpers import published_shapes as shapes
from training.device_checks import check_model
from utils.common_utils import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "model"
LAYER = "transformer.layers.1.attention.query_key_value.weight"


@pytest.fixture(scope="module")
def figures() -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / "shapes.safetensors")


def load_half(directory: Path, **options):
    return load_base_model(directory, load_in_4bit=False, dtype=torch.float32, device="cpu", **options)


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.tensor([[11, 12, 13, model.config.gmask_token_id, model.config.bos_token_id, 14]])
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def change_state(directory: Path, change) -> None:
    state = torch.load(directory / "pytorch_model.bin")
    change(state)
    torch.save(state, directory / "pytorch_model.bin")


# ---- int4 and int8


@pytest.mark.parametrize("bits", row_scaled.BITS)
def test_weights_are_what_the_published_kernel_extracts(figures: dict[str, torch.Tensor], bits: int) -> None:
    parts = {"": figures[f"int{bits}.weight"], "_scale": figures[f"int{bits}.weight_scale"]}
    assert torch.equal(row_scaled.join_weight(parts, bits), figures[f"int{bits}.extracted"])


@pytest.mark.parametrize("bits", row_scaled.BITS)
def test_logits_are_those_of_the_published_code(
    figures: dict[str, torch.Tensor], bits: int, tmp_path: Path
) -> None:
    shapes.make_int(FIXTURES / "two_layers", tmp_path / "int", bits)
    model = ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "int")
    theirs = figures[f"int{bits}.logits"]
    with torch.no_grad():
        ours = model(input_ids=figures["input_ids"][None]).logits
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("bits", row_scaled.BITS)
def test_weights_come_back_as_near_as_their_bits_allow(bits: int) -> None:
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).half()
    weight[3], weight[4] = 0, 1e-8  # a row of zeros; one whose scale half precision can't hold
    parts = row_scaled.split_weight(weight, bits)
    assert {name: part.dtype for name, part in parts.items()} == {"": torch.int8, "_scale": torch.float16}
    expected = shapes.quantise(weight[:3], bits)
    assert torch.equal(parts[""][:3], expected[0]) and torch.equal(parts["_scale"][:3], expected[1])
    back = row_scaled.join_weight(parts, bits)
    assert not back[3:5].any()
    assert (back - weight.float()).abs().max() <= parts["_scale"].max() * 0.51
    again = row_scaled.split_weight(back, bits)
    assert torch.equal(again[""], parts[""])
    with pytest.raises(ValueError, match="even number"):
        row_scaled.split_weight(weight[:, :9], 4)


@pytest.mark.parametrize(("bits", "embeddings"), [(4, False), (8, False), (4, True)])
def test_they_load_in_half_and_in_4bit(
    random_base: Path, tmp_path: Path, bits: int, embeddings: bool
) -> None:
    directory = shapes.make_int(random_base, tmp_path / "int", bits, embeddings)
    check_model_dir(directory)
    model, _ = load_half(directory)
    assert (model.config.quantization_bit, model.config.quantization_embeddings) == (0, False)
    original, _ = load_half(random_base)
    state = torch.load(directory / "pytorch_model.bin")
    parts = {"": state[LAYER], "_scale": state[LAYER + "_scale"]}
    assert torch.equal(model.get_parameter(LAYER), row_scaled.join_weight(parts, bits))
    assert torch.equal(model.get_parameter(EMBEDDING), original.get_parameter(EMBEDDING)) != embeddings
    assert model.lm_head.weight is model.transformer.word_embeddings.weight
    assert model.base_fingerprint != original.base_fingerprint
    cosine = torch.cosine_similarity(logits_of(model).flatten(), logits_of(original).flatten(), dim=0)
    assert cosine > (0.9 if bits == 4 else 0.999)
    four, _ = load_base_model(directory, dtype=torch.float32, device="cpu")
    assert four.base_fingerprint == model.base_fingerprint
    cosine = torch.cosine_similarity(logits_of(four).flatten(), logits_of(model).flatten(), dim=0)
    assert 0.9 < cosine < 0.9999999


def test_the_embedded_base_in_int8_finds_the_same_words(root: Path, tmp_path: Path) -> None:
    base = root / "models" / "chatglm-tiny"
    directory = shapes.make_int(base, tmp_path / "int8", 8)
    model, tokenizer = load_half(directory)
    ids = torch.tensor([tokenizer.prompt_ids("《活着》是余华写的小说。")])
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids).logits[0, :, :].argmax(-1) for m in (model, load_half(base)[0]))
    assert (ours == theirs).float().mean() > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(LAYER + "_scale"), "缺少 1 个参数，例如 " + LAYER + "_scale"),
        (lambda state: state.update({LAYER: state[LAYER][:, :-1].clone()}), rf"{LAYER} 是 torch.int8"),
        (lambda state: state.update({LAYER: state[LAYER].half()}), rf"{LAYER} 是 torch.float16"),
        (lambda state: state.update({LAYER + "_scale": torch.ones(3)}), rf"{LAYER}_scale 是"),
        (lambda state: state[LAYER + "_scale"].fill_(torch.nan), "有 NaN 或无穷大"),
        (lambda state: state[LAYER + "_scale"].fill_(60000), "有 NaN 或无穷大"),
    ],
)
def test_damaged_ones_are_refused(random_base: Path, tmp_path: Path, change, message: str) -> None:
    directory = shapes.make_int(random_base, tmp_path / "int", 4)
    change_state(directory, change)
    with pytest.raises(CheckpointError, match=message):
        load_base_model(directory, load_in_4bit=False, dtype=torch.float16, device="cpu")


def test_configs_and_weights_that_do_not_go_together(random_base: Path, tmp_path: Path) -> None:
    directory = shapes.make_int(random_base, tmp_path / "int", 8)
    for bits, message in (
        (0, "而 config.json 说没有量化.*quantization_bit"),
        (4, "而 config.json 要求"),
        (3, "0、4 或 8"),
    ):
        shapes.change_json(directory / "config.json", quantization_bit=bits)
        with pytest.raises(CheckpointError, match=message):
            check_model_dir(directory)
    shutil.copytree(random_base, tmp_path / "half")
    shapes.change_json(tmp_path / "half" / "config.json", quantization_bit=4)
    with pytest.raises(CheckpointError, match=r"是 torch.float16 .*要求torch.int8"):
        check_model_dir(tmp_path / "half")


# ---- P-tuning v2


@pytest.mark.parametrize("name", ["prefix", "projected"])
def test_a_prefix_gives_the_published_logits(
    figures: dict[str, torch.Tensor], name: str, tmp_path: Path
) -> None:
    shapes.make_prefix(FIXTURES / "two_layers", tmp_path / "prefix", 3, projection=name == "projected")
    own = {
        key.removeprefix(name + "."): value for key, value in figures.items() if key.startswith(name + ".t")
    }
    change_state(tmp_path / "prefix", lambda state: state.update(own))
    model = ChatGLMForConditionalGeneration.from_pretrained(tmp_path / "prefix")
    ids, theirs = figures["input_ids"][None], figures[f"{name}.logits"]
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        first = model(input_ids=ids[:, :9], use_cache=True)
        inputs = model.prepare_inputs_for_generation(ids, cache=first.cache, next_sequence_length=1)
        last = model(**inputs).logits
    assert (whole - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert (last[0, -1] - theirs[0, -1]).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("load_in_4bit", [False, True])
def test_sequences_of_unequal_length_see_the_prefix(
    random_base: Path, tmp_path: Path, load_in_4bit: bool
) -> None:
    directory = shapes.make_prefix(random_base, tmp_path / "prefix", 4, projection=False)
    check_model_dir(directory)
    model, tokenizer = load_base_model(
        directory, load_in_4bit=load_in_4bit, dtype=torch.float32, device="cpu"
    )
    assert model.transformer.prefix_encoder.embedding.weight.dtype == torch.float32
    rows = [tokenizer.prompt_ids(text) for text in ("余华", "《活着》是余华写的小说。")]
    alone = [model.generate(torch.tensor([row]), max_new_tokens=5)[0, len(row) :] for row in rows]
    width = max(map(len, rows))
    ids = torch.tensor([[3] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    together = model.generate(ids, attention_mask=mask, max_new_tokens=5)[:, width:]
    assert [row.tolist() for row in together] == [row.tolist() for row in alone]
    bare, _ = load_base_model(random_base, load_in_4bit=load_in_4bit, dtype=torch.float32, device="cpu")
    assert not torch.allclose(logits_of(model), logits_of(bare))


def test_nobody_trains_on_a_prefix(random_base: Path, tmp_path: Path) -> None:
    from glm_config import ProjectConfig

    directory = shapes.make_prefix(random_base, tmp_path / "prefix", 4, projection=False)
    said = r"P-Tuning v2 的前缀（pre_seq_len=4），只能直接用来抽取.*LoRA.*没有前缀的基座"
    with pytest.raises(UserError, match=said):
        attach_lora(load_half(directory)[0], rank=2, alpha=4, dropout=0.0, target_modules=["dense"])
    config = ProjectConfig()
    config.pre_model = str(directory)
    with pytest.raises(UserError, match=said):
        list(check_model(config))


def test_prefixes_that_do_not_fit(random_base: Path, tmp_path: Path) -> None:
    directory = shapes.make_prefix(random_base, tmp_path / "prefix", 4, projection=False)
    shapes.change_json(directory / "config.json", pre_seq_len=5)
    with pytest.raises(CheckpointError, match=r"prefix_encoder.embedding.weight 是"):
        check_model_dir(directory)
    shapes.change_json(directory / "config.json", pre_seq_len=2**24, hidden_size=4096 * 4)
    with pytest.raises(CheckpointError, match="远超 ChatGLM-6B，拒绝加载"):
        check_model_dir(directory)
    shapes.change_json(directory / "config.json", pre_seq_len=0, hidden_size=64)
    assert load_config(directory).pre_seq_len is None
    with pytest.raises(CheckpointError, match=r"prefix_encoder.embedding.weight 是 P-Tuning v2 的前缀"):
        check_model_dir(directory)
    alone = shapes.make_prefix(random_base, tmp_path / "alone", 4, projection=False, whole=False)
    with pytest.raises(CheckpointError, match=r"只有 P-Tuning v2 的前缀.*export.merge --adapter"):
        check_model_dir(alone)


# ---- the first release


def test_the_first_release_answers_as_the_later_one(random_base: Path, tmp_path: Path) -> None:
    directory = shapes.make_first_release(random_base, tmp_path / "first")
    check_model_dir(directory)
    (model, tokenizer), (later, later_tokenizer) = load_half(directory), load_half(random_base)
    text = "林在培\t主演  了\n电视剧"
    ids = tokenizer.prompt_ids(text)
    assert [index - shapes.IMAGES for index in ids] == later_tokenizer.prompt_ids(text)
    assert tokenizer.decode(tokenizer.encode_plain(text)) == text
    assert (tokenizer.eos_token, tokenizer.end_token) == ("<eop>", "</s>")
    written = tokenizer.token_bytes(model.config.vocab_size)
    assert written[: shapes.IMAGES] == [None] * shapes.IMAGES
    assert written[shapes.IMAGES :] == later_tokenizer.token_bytes(later.config.vocab_size)
    with torch.no_grad():
        ours = model(input_ids=torch.tensor([ids])).logits[..., shapes.IMAGES :]
        theirs = later(input_ids=torch.tensor([later_tokenizer.prompt_ids(text)])).logits
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_tokenizer_file_of_the_first_release_gets_the_pieces_that_its_code_added(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("今天下雨。余华写了《活着》这部小说。" * 20, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "ice_text"),
        model_type="unigram",
        vocab_size=30,
        hard_vocab_limit=False,
        pad_id=3,
        user_defined_symbols=["<n>"],
        minloglevel=2,
    )
    path = tmp_path / "ice_text.model"
    size = sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size()
    model = sentencepiece.SentencePieceProcessor(model_proto=with_control_pieces(path))
    assert model.get_piece_size() == size + len(FIRST_CONTROL_PIECES) + 80 + 256
    assert [model.id_to_piece(size + i) for i in range(8)] == list(FIRST_CONTROL_PIECES)
    assert all(model.is_control(size + i) for i in range(8))
    tokenizer = ChatGLMTokenizer(str(path))  # with images, as that release had
    first = tokenizer.num_image_tokens + size
    assert (tokenizer.gmask_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (
        first + 1,
        first + 4,
        first + 5,
    )
    text = "今天\t下  雨 🐳"
    assert tokenizer.decode(tokenizer.encode_plain(text)) == text  # the whale byte by byte
    assert tokenizer.can_write("🐳")
    with pytest.raises(ValueError, match="没有控制符"):  # no later release lacks them
        ChatGLMTokenizer(str(path), num_image_tokens=0)


# ---- conversions


@pytest.mark.parametrize("form", ["one .bin", "one .safetensors", "sharded under another name"])
def test_conversions(random_base: Path, tmp_path: Path, form: str) -> None:
    target = tmp_path / "model"
    state = shapes.take_weights(random_base, target)
    state[HEAD] = state[EMBEDDING].clone()
    if form == "one .bin":
        torch.save(state, target / "pytorch_model.bin")
    elif form == "one .safetensors":
        save_file(state, target / "model.safetensors")
    else:
        names = sorted(state)
        parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for file, own in parts.items():
            save_file({name: state[name] for name in own}, target / file)
        weight_map = {name: file for file, own in parts.items() for name in own}
        (target / "model.safetensors.index.json").write_text("{}")
        shapes.change_json(target / "model.safetensors.index.json", weight_map=weight_map)
    check_model_dir(target)
    assert load_half(target)[0].base_fingerprint == load_half(random_base)[0].base_fingerprint
