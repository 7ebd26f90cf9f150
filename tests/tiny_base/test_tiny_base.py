"""The embedded base as shipped, its tokenizer, and the scripts that make them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bases.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer
from bases.chatglm.layout import get_position_ids, get_prefix_lm_mask
from bases.chatglm.modeling import apply_rotary, rotary_embedding
from task.prompt import build_prompt
from task.triplets import Triplet, format_target
from tiny_base import evaluate, learning_curve, pretrain
from tiny_base.batches import chunk_batches, encode_sample
from tiny_base.corpus.tasks import SHORT_BLANK, Sample
from utils.common_utils import UserError
from utils.device import multiplies_bf16

ROOT = Path(__file__).parents[2]
MODEL_DIR = ROOT / "models" / "chatglm-tiny"


@pytest.fixture(scope="module")
def tokenizer():
    return ChatGLMTokenizer.from_pretrained(str(MODEL_DIR))


# ---- what is shipped ----


def test_the_directory_has_the_published_layout_and_is_small():
    names = {path.name for path in MODEL_DIR.iterdir()}
    assert {
        "config.json",
        "ice_text.model",
        "tokenizer_config.json",
        "model.safetensors",
        "README.md",
    } <= names
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) < 30 * 2**20


def test_the_configuration_is_a_chatglm_with_the_tokenizers_ids(tokenizer):
    config = json.loads((MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "chatglm" and config["position_encoding_2d"] is True
    ids = (tokenizer.mask_token_id, tokenizer.gmask_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    named = ("mask_token_id", "gmask_token_id", "bos_token_id", "eos_token_id")
    assert ids == tuple(config[name] for name in named)
    assert config["vocab_size"] % 64 == 0 and 0 <= config["vocab_size"] - tokenizer.vocab_size < 64


def test_the_weights_are_fp16_finite_and_of_9_million_parameters():
    model = ChatGLMForConditionalGeneration.from_pretrained(str(MODEL_DIR), dtype=torch.float16)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert 9e6 < sum(parameter.numel() for parameter in model.parameters()) < 10e6


def test_the_base_has_learnt_the_notation():
    """It opens a fenced list after a prompt that asks for one, and ends its answers."""
    tokenizer = ChatGLMTokenizer.from_pretrained(str(MODEL_DIR))
    model = ChatGLMForConditionalGeneration.from_pretrained(str(MODEL_DIR), dtype=torch.float32).eval()
    fields = "请抽取三元组，字段：predicate, object_type, subject_type, object, subject，用代码块："
    prompt = build_prompt("《雨夜归人》由张青山执导。", fields)
    answer = evaluate.generate(model, tokenizer, [Sample(prompt, "")])[0]
    assert answer.startswith("```json\n[") and answer.endswith("```")


# ---- the tokenizer ----


def test_special_pieces_stand_in_the_published_order(tokenizer):
    pieces = [tokenizer.sp_model.id_to_piece(index) for index in range(tokenizer.sp_model.get_piece_size())]
    assert pieces[:6] == ["<unk>", "<s>", "</s>", "<pad>", "<n>", "▁"]
    first = pieces.index("[MASK]")
    specials = [
        "[MASK]",
        "[gMASK]",
        "[sMASK]",
        "<unused_0>",
        "<sop>",
        "<eop>",
        "<ENC>",
        "<dBLOCK>",
        "<|tab|>",
    ]
    blanks = [f"<|blank_{length}|>" for length in range(2, 81)]
    in_bytes = [f"<0x{value:02X}>" for value in range(256)]
    assert pieces[first:] == specials + blanks + in_bytes


def test_chinese_is_split_into_characters_and_scaffolding_is_not(tokenizer):
    pieces = tokenizer.sp_model.encode('[{"predicate": "导演", "object": "张玲"}]', out_type=str)
    expected = ["▁", '[{"', "predicate", '":▁"', "导", "演", '",▁"', "object", '":▁"', "张", "玲", '"}]']
    assert pieces == expected


def test_a_name_has_the_same_pieces_in_sentence_and_answer(tokenizer):
    title = "长安十二时辰之Blue（上）"
    triplet = Triplet("主演", "人物", "影视作品", "阿依古丽·买买提", title)
    sentence = tokenizer.encode_plain(f"《{title}》由阿依古丽·买买提主演。")
    answer = tokenizer.encode_plain(format_target([triplet]))
    for value in (title, "阿依古丽·买买提"):
        ids = tokenizer.encode_plain(f"《{value}")[2:]
        for sequence in (sentence, answer):
            assert any(sequence[i : i + len(ids)] == ids for i in range(len(sequence)))


def test_text_survives_encoding(tokenizer):
    for text in ("《雨夜》由张三执导。", "第一行\n第二行", "a  b\tc", "𠮷野家🙂", '{"a": "b"}', "Blue Sky 2"):
        assert tokenizer.decode(tokenizer.encode_plain(text)) == text


def test_almost_no_character_of_common_text_needs_bytes(tokenizer):
    lines = (ROOT / "data" / "mixed_train_dataset.jsonl").read_text(encoding="utf-8").splitlines()
    ids = [index for line in lines for index in tokenizer.encode_plain(json.loads(line)["context"])]
    first_byte = tokenizer.sp_model.piece_to_id("<0x00>")
    assert sum(index >= first_byte for index in ids) / len(ids) < 0.002


# ---- the scripts ----


def test_samples_are_encoded_like_training_lines_of_the_product(tokenizer):
    sample = encode_sample(tokenizer, Sample("问：", "答"))
    context, answer = tokenizer.encode_plain("问："), [*tokenizer.encode_plain("答"), tokenizer.eos_token_id]
    assert sample.input_ids == [*context, tokenizer.gmask_token_id, tokenizer.bos_token_id, *answer]
    assert sample.labels == [-100] * (len(context) + 2) + answer


def test_a_short_blank_stands_where_its_text_was(tokenizer):
    sample = encode_sample(tokenizer, Sample("上", "中", "下", SHORT_BLANK))
    pieces = tokenizer.convert_ids_to_tokens(sample.input_ids)
    assert pieces == ["▁", "上", "[MASK]", "▁", "下", "<sop>", "▁", "中", "<eop>"]
    assert [index != -100 for index in sample.labels] == [False] * 6 + [True] * 3


def batches(tokenizer, tokens):
    config = pretrain.new_model(tokenizer).config
    return chunk_batches(tokenizer, config, pretrain.HeldOut(), 3, 0, tokens)


def test_chunks_are_reproducible_of_few_shapes_and_with_little_padding(tokenizer):
    first, again = (batches(tokenizer, 4000) for _ in range(2))
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    tokens = sum(int((batch["input_ids"] != tokenizer.pad_token_id).sum()) for batch in first)
    assert tokens / sum(batch["input_ids"].numel() for batch in first) > 0.9
    assert {batch["input_ids"].shape for batch in first} == {(15, 256), (7, 512)}


def test_a_new_model_begins_near_the_loss_of_a_guess(tokenizer):
    torch.manual_seed(0)
    model = pretrain.new_model(tokenizer)
    batch = batches(tokenizer, 1500)[0]
    with torch.no_grad():
        loss = model(**batch).loss.item()
    uniform = torch.log(torch.tensor(float(model.config.vocab_size))).item()
    assert uniform - 1 < loss < uniform + 2


def attention_of_head(model, input_ids, layer, head):
    """Return the attention weights [S, S] of a head, computed from the published formulas' parts."""
    position_ids = get_position_ids(input_ids, model.config)
    mask = get_prefix_lm_mask(input_ids, model.config)
    head_dim = model.config.hidden_size // model.config.num_attention_heads
    rotary = rotary_embedding(position_ids, head_dim, torch.float32)
    hidden = model.transformer.word_embeddings(input_ids)
    for block in model.transformer.layers[:layer]:
        hidden = block(hidden, mask, rotary)
    block = model.transformer.layers[layer]
    mixed = block.attention.query_key_value(block.input_layernorm(hidden))
    mixed = mixed.view(1, input_ids.shape[1], -1, 3 * head_dim).transpose(1, 2)
    query, key, _ = mixed.chunk(3, dim=-1)
    scores = apply_rotary(query, *rotary) @ apply_rotary(key, *rotary).transpose(-1, -2) / head_dim**0.5
    return scores.masked_fill(~mask, float("-inf")).softmax(-1)[0, head]


@torch.no_grad()
def test_a_new_model_has_heads_for_neighbours_and_for_what_followed(tokenizer):
    torch.manual_seed(0)
    model = pretrain.new_model(tokenizer)
    text = "甲乙丙丁戊己庚辛壬癸东西南北中"
    sample = encode_sample(tokenizer, Sample(text, text))
    ids, labels = sample.input_ids, sample.labels
    input_ids = torch.tensor([ids])
    context = labels.count(-100)
    for head, offset in ((0, -1), (1, -1), (2, 1)):
        weights = attention_of_head(model, input_ids, 0, head)
        assert all(weights[place].argmax() == place + offset for place in range(1, context - 2))
    weights = attention_of_head(model, input_ids, 0, 3)
    assert all(weights[place].argmax() == place - 1 for place in range(context + 1, len(ids)))
    # from a character of the answer to what follows the same character in the context
    weights = attention_of_head(model, input_ids, 1, 0) + attention_of_head(model, input_ids, 1, 1)
    places = range(context + 1, context + len(text))
    share = sum(weights[place, place - context + 1].item() for place in places) / len(places) / 2
    assert share > 5 / len(ids)  # by chance: 1 / len(ids)


def test_the_learning_rate_warms_up_and_ends_at_zero():
    assert pretrain.learning_rate_factor(0, 0.0, 100) == pytest.approx(0.01)
    assert pretrain.learning_rate_factor(200, 0.0, 100) == 1.0
    assert pretrain.learning_rate_factor(200, 0.5, 100) == pytest.approx(0.5)
    assert pretrain.learning_rate_factor(200, 1.0, 100) == 0.0


SLOW_BF16 = pytest.mark.skipif(not multiplies_bf16(), reason="torch's Muon computes in bf16, slow here")


@pytest.mark.parametrize("optimizer", [pytest.param("muon", marks=SLOW_BF16), "adamw"])
def test_a_step_of_either_optimizer_lowers_the_loss_of_its_batch(tokenizer, optimizer):
    torch.manual_seed(0)
    model = pretrain.new_model(tokenizer)
    optimizers = pretrain.make_optimizers(model, optimizer, 2e-3)
    batch = batches(tokenizer, 300)[0]
    losses = []
    for _ in range(4):
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
        for each in optimizers:
            each.step()
            each.zero_grad()
    assert losses[-1] < losses[0] - 1


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process; gives its exit code and what it said."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["pretrain", *map(str, arguments)])
        try:
            pretrain.main()
        except UserError as error:
            return 2, str(error)
        return 0, capsys.readouterr().err

    return command


def test_a_run_saves_resumes_and_exports(run, tmp_path):
    work, output = tmp_path / "run", tmp_path / "model"
    options = ("--work_dir", work, "--batch_tokens", 600, "--log_steps", 1, "--threads", 1)
    command = [sys.executable, "-m", "tiny_base.pretrain", *map(str, options), "--minutes", "0.01"]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    lines = [json.loads(line) for line in (work / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0]["step"] == 1 and lines[-1]["tokens"] > 0 and lines[-1]["targets"] < lines[-1]["tokens"]

    code, said = run(*options, "--minutes", 0.02)
    assert code == 0 and f"从第 {lines[-1]['step']} 步继续" in said
    resumed = json.loads((work / "curve.jsonl").read_text(encoding="utf-8").splitlines()[len(lines)])
    assert resumed["step"] == lines[-1]["step"] + 1 and resumed["chunk"] == lines[-1]["chunk"] + 1

    assert run(*options, "--minutes", 0.02, "--again", "--learning_rate", 1e-4, "--warmup_steps", 1)[0] == 0
    lines = [json.loads(line) for line in (work / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    begun = next(index for index, line in enumerate(lines) if line["begun"] > 0)
    assert lines[begun]["begun"] == lines[begun - 1]["seconds"]
    assert lines[begun]["lr"] > lines[begun - 1]["lr"]  # the schedule begins anew
    optimizers = torch.load(work / "checkpoint.pt", weights_only=True)["optimizers"]
    rates = [group["lr"] for each in optimizers for group in each["param_groups"]]
    assert max(rates) <= 10 * 1e-4  # at the rate that was asked for, not at the checkpoint's

    assert run("--work_dir", work, "--export", output)[0] == 0
    model = ChatGLMForConditionalGeneration.from_pretrained(str(output), dtype=torch.float32)
    saved = torch.load(work / "checkpoint.pt", weights_only=True)["model"]
    weight = saved["transformer.layers.0.attention.dense.weight"]
    assert torch.equal(model.transformer.layers[0].attention.dense.weight, weight.half().float())
    assert (
        isinstance(model.config, ChatGLMConfig)
        and ChatGLMTokenizer.from_pretrained(str(output)).gmask_token_id
    )

    earlier = tmp_path / "earlier"
    earlier.mkdir()
    shifted = {name: tensor + 1 for name, tensor in saved.items()}
    torch.save({"model": shifted}, earlier / "checkpoint.pt")
    average = ("--average", earlier, "--average_share", 0.25)
    assert run("--work_dir", work, "--export", output, *average)[0] == 0
    model = ChatGLMForConditionalGeneration.from_pretrained(str(output), dtype=torch.float32)
    averaged = model.transformer.layers[0].attention.dense.weight
    assert torch.allclose(averaged, weight + 0.25, atol=1e-3)

    torch.save({"model": dict(list(shifted.items())[:5])}, earlier / "checkpoint.pt")
    code, said = run("--work_dir", work, "--export", output, *average)
    assert code == 2 and "层数不同" in said


def test_averaging_without_exporting_is_a_mistake_with_a_remedy(run, tmp_path):
    code, said = run("--work_dir", tmp_path, "--average", tmp_path)
    assert code == 2 and "--export" in said


def test_exporting_before_training_is_a_mistake_with_a_remedy(run, tmp_path):
    code, said = run("--work_dir", tmp_path, "--export", tmp_path / "model")
    assert code == 2 and "请先训练" in said


def test_answers_are_split_into_what_is_counted():
    assert evaluate.items('```json\n[{"a": "1", "b": "2"}]\n```') == evaluate.items('[{"b": "2", "a": "1"}]')
    assert evaluate.items("（甲，导演，乙）\n（甲，主演，丙）") == {"（甲，导演，乙）", "（甲，主演，丙）"}
    assert evaluate.items('["甲", "乙"]') == {'"甲"', '"乙"'}
    assert evaluate.items("[]") == set() and evaluate.items("手机") == {"手机"}


def test_what_an_interrupted_run_wrote_after_its_checkpoint_is_forgotten(tmp_path):
    curve = tmp_path / "curve.jsonl"
    curve.write_text('{"step": 20}\n{"step": 40}\n{"step": 60}\n', encoding="utf-8")
    pretrain.truncate_curve(curve, 40)
    assert curve.read_text(encoding="utf-8") == '{"step": 20}\n{"step": 40}\n'


def test_the_learning_curve_is_drawn_the_same_from_the_same_figures(tmp_path):
    results = {"base": {"63": 0.5, "500": 0.7}, "random": {"500": 0.0}}
    for name in ("a.svg", "b.svg"):
        learning_curve.draw(results, tmp_path / name)
    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn == (tmp_path / "b.svg").read_bytes() and b"<svg" in drawn
    learning_curve.draw({"base": {"63": 0.5, "500": 0.8}}, tmp_path / "c.svg")
    assert drawn != (tmp_path / "c.svg").read_bytes()


def test_a_random_base_loads_like_the_shipped_one(tmp_path):
    model_dir = tmp_path / "random"
    model_dir.mkdir()
    learning_curve.write_random_model(model_dir, MODEL_DIR)
    random_model, shipped = (
        ChatGLMForConditionalGeneration.from_pretrained(str(path), dtype=torch.float32)
        for path in (model_dir, MODEL_DIR)
    )
    assert random_model.config.to_dict().keys() == shipped.config.to_dict().keys()
    assert random_model.base_fingerprint != shipped.base_fingerprint
    with pytest.raises(UserError, match=r"--lines 5000.*1009 行"):
        learning_curve.fine_tune(model_dir, 5000, 1, tmp_path, [])
