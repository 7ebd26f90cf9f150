"""Helpers of the extraction tests: a ChatGLM of 2 layers that has learned a handful of answers by heart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import sentencepiece
import torch

from bases.adapter import AdapterMeta, attach_lora, load_adapter, write_adapter_files
from bases.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration, ChatGLMTokenizer, load_base_model
from bases.chatglm.tokenization import CONTROL_PIECES
from glm_config import ProjectConfig
from task.prompt import build_prompt, encode_prompt, split_context, with_relations
from task.schema import Schema
from task.triplets import Triplet, format_target

TARGETS = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
FILM = "《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。"
NOVEL = "《活着》是余华写的小说。"
RAIN = "今天下雨。"
BROKEN = "这一句的答案没有写完。"
NONSENSE = "这一句的答案不是JSON。"


def film(predicate: str, person: str) -> Triplet:
    return Triplet(predicate, "人物", "影视作品", person, "娘家的故事第二部")


FILM_TRIPLETS = [film("导演", "张玲"), film("主演", "林在培"), film("主演", "何赛飞")]
NOVEL_TRIPLETS = [Triplet("作者", "人物", "图书作品", "余华", "活着")]
# What the adapter has learned; the base below it answers every sentence with an empty list.
ANSWERS = {
    FILM: format_target(FILM_TRIPLETS),
    NOVEL: format_target(NOVEL_TRIPLETS),
    RAIN: format_target([]),
    BROKEN: format_target(FILM_TRIPLETS)[:-30],
    NONSENSE: "没有。",
}


class TinyRun:
    """A base directory and an adapter directory on disk."""

    def __init__(self, base: Path, adapter: Path) -> None:
        self.base = base
        self.adapter = adapter

    def load(self) -> tuple[Any, Any]:
        """Return the base in 4-bit with the adapter, and the tokenizer."""
        model, tokenizer = load_base_model(self.base, dtype=torch.float32, device="cpu")
        return load_adapter(model, self.adapter), tokenizer


def build(directory: Path) -> TinyRun:
    """Train base and adapter; takes some seconds."""
    torch.manual_seed(0)
    base, adapter = directory / "base", directory / "adapter"
    make_base(base)
    model, tokenizer = load_base_model(base, load_in_4bit=False, dtype=torch.float32, device="cpu")
    memorise(model, tokenizer, ANSWERS, steps=150, lr=3e-3)
    memorise(model, tokenizer, dict.fromkeys(ANSWERS, format_target([])), steps=20, lr=1e-3)
    model.save_pretrained(base)

    config = ProjectConfig()
    config.pre_model, config.fp16, config.eval_batch_size = str(base), False, 2
    config.max_source_seq_len, config.max_target_seq_len = 64, 48
    model, tokenizer = load_base_model(base, load_in_4bit=True, dtype=torch.float32, device="cpu")
    peft_model = attach_lora(model, rank=8, alpha=32, dropout=0.0, target_modules=TARGETS)
    memorise(peft_model, tokenizer, ANSWERS, steps=100, lr=5e-3)
    meta = AdapterMeta(
        model.base_fingerprint, str(base), config.max_source_seq_len, config.max_target_seq_len
    )
    schema = Schema.from_targets(ANSWERS.values()).to_dict()
    adapter.mkdir()
    write_adapter_files(peft_model, adapter, meta, config.to_dict(), schema)
    return TinyRun(base, adapter)


def make_base(directory: Path) -> None:
    """Write a base of random weights, with a tokenizer whose pieces are long: every test is quick then."""
    directory.mkdir()
    text = "".join(build_prompt(sentence) + answer for sentence, answer in ANSWERS.items())
    (directory / "text").write_text(text, encoding="utf-8")
    blanks = [f"<|blank_{length}|>" for length in range(2, 81)]
    sentencepiece.SentencePieceTrainer.train(
        input=str(directory / "text"),
        model_prefix=str(directory / "ice_text"),
        model_type="bpe",
        vocab_size=500,
        split_by_unicode_script=False,
        split_by_whitespace=False,
        character_coverage=1.0,
        pad_id=3,
        control_symbols=[piece for piece in CONTROL_PIECES if piece not in ("<s>", "</s>", "<pad>")],
        user_defined_symbols=["<n>", "<|tab|>", *blanks],
        minloglevel=2,
    )
    tokenizer = ChatGLMTokenizer(str(directory / "ice_text.model"), num_image_tokens=0)
    tokenizer.save_pretrained(directory)
    config = ChatGLMConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        num_layers=2,
        num_attention_heads=4,
        inner_hidden_size=128,
        **{
            name: getattr(tokenizer, name)
            for name in ("bos_token_id", "eos_token_id", "pad_token_id", "gmask_token_id", "mask_token_id")
        },
    )
    ChatGLMForConditionalGeneration(config).save_pretrained(directory)


def build_relations(run: TinyRun, directory: Path) -> TinyRun:
    """Let base and adapter learn prompts that name two relations at most.

    What a prompt names decides the answer, so all weights learn it: an adapter alone is not sure to.
    """
    schema = Schema.from_targets(ANSWERS.values())
    answers = {}
    for sentence, triplets in ((FILM, FILM_TRIPLETS), (NOVEL, NOVEL_TRIPLETS), (RAIN, [])):
        for part in [*schema.split(2), *schema.split(1)]:
            answer = format_target(triplet for triplet in triplets if triplet in part)
            answers[with_relations(build_prompt(sentence), part.names())] = answer
    base, adapter = directory / "base", directory / "adapter"
    shutil.copytree(run.base, base)
    model, tokenizer = load_base_model(base, load_in_4bit=False, dtype=torch.float32, device="cpu")
    memorise(model, tokenizer, answers, steps=280, lr=2e-3)
    model.save_pretrained(base)
    model, tokenizer = load_base_model(base, load_in_4bit=True, dtype=torch.float32, device="cpu")
    peft_model = attach_lora(model, rank=8, alpha=32, dropout=0.0, target_modules=TARGETS)
    assert memorise(peft_model, tokenizer, answers, steps=20, lr=2e-3) < 0.01
    config = ProjectConfig()
    config.pre_model, config.fp16, config.eval_batch_size = str(base), False, 4
    config.max_source_seq_len, config.max_target_seq_len = 100, 48
    config.schema_prompt, config.relations_per_prompt = True, 2
    meta = AdapterMeta(model.base_fingerprint, str(base), 100, 48, relations_per_prompt=2)
    adapter.mkdir()
    write_adapter_files(peft_model, adapter, meta, config.to_dict(), schema.to_dict())
    return TinyRun(base, adapter)


def memorise(model: Any, tokenizer: Any, answers: dict[str, str], steps: int, lr: float) -> float:
    """Train on (sentence or whole context, answer) pairs, all of them in each step; return the last loss."""
    rows, labels = [], []
    for sentence, answer in answers.items():
        context = sentence if split_context(sentence)[0] else build_prompt(sentence)
        prompt = encode_prompt(tokenizer, context, 256).input_ids
        target = [*tokenizer.encode_plain(answer), tokenizer.eos_token_id]
        rows.append(prompt + target)
        labels.append([-100] * len(prompt) + target)
    width = max(map(len, rows))

    def pad(lists: list[list[int]], value: int) -> torch.Tensor:
        return torch.tensor([[value] * (width - len(row)) + row for row in lists])

    input_ids = pad(rows, tokenizer.pad_token_id)
    mask = pad([[1] * len(row) for row in rows], 0)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    model.train()
    for _ in range(steps):
        loss = model(input_ids=input_ids, attention_mask=mask, labels=pad(labels, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return float(loss)


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")
    return path
