"""The model card of an adapter: what it was trained on, how good it is, what it needs, in two languages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from bases.adapter_files import AdapterMeta, LoraShape
from task.schema import Schema
from utils.common_utils import visible

MAX_NAMES = 40  # of relations that are listed
# Figures of an adapter's evaluation: Chinese and English name, and what hubs call it.
_FIGURES = {
    "triplet_f1": ("F1（五个字段全对）", "F1 (all five fields right)", "f1"),
    "triplet_precision": ("精确率", "precision", "precision"),
    "triplet_recall": ("召回率", "recall", "recall"),
    "invalid_answers": ("不合法的答案", "invalid answers", ""),
    "dev_loss": ("验证集损失", "loss on dev", "loss"),
}
_CHATGLM_LICENCE = (
    "ChatGLM-6B 的权重另有许可证（其模型页的 MODEL_LICENSE），使用者要自己遵守。",
    "The weights of ChatGLM-6B have a licence of their own (MODEL_LICENSE on its page), which users keep.",
)


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Args:
        title: of the card.
        base_model: the base's name on a hub.
        license_name: of the adapter, as hubs call it.
        meta, config, lora, schema: the adapter's own.
        train_lines: lines of the training file; None if that is not known any more.
        is_chatglm: whether the base is a ChatGLM-6B; None if that is not known.
    """

    title: str
    base_model: str
    license_name: str
    meta: AdapterMeta
    config: dict[str, Any]
    lora: LoraShape
    schema: Schema
    train_lines: int | None
    is_chatglm: bool | None


def write_card(facts: CardFacts) -> str:
    """Return the card: YAML that hubs read, then Markdown."""
    return f"---\n{_front_matter(facts)}\n---\n\n{_body(facts)}"


def _front_matter(facts: CardFacts) -> str:
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="knowledge triplet extraction",
            dataset_type=_file_of(facts, "dev_path"),
            dataset_name=_file_of(facts, "dev_path"),
            metric_type=kind,
            metric_name=key,
            metric_value=round(float(facts.meta.metrics[key]), 4),
        )
        for key, (_, _, kind) in _FIGURES.items()
        if kind and _is_number(facts.meta.metrics.get(key))
    ]
    card = ModelCardData(
        language=["zh"],
        license=facts.license_name,
        library_name="peft",
        base_model=facts.base_model,
        tags=["lora", "qlora", "information-extraction", "relation-extraction", "chinese"],
        model_name=facts.title,
        eval_results=results or None,
    )
    return card.to_yaml()


def _body(facts: CardFacts) -> str:
    names = sorted({combination.predicate for combination in facts.schema.combinations})
    shown = "、".join(_plain(name) for name in names[:MAX_NAMES]) + ("……" if len(names) > MAX_NAMES else "")
    train = _file_of(facts, "train_path")
    lines = "" if facts.train_lines is None else f"，{facts.train_lines} 行"
    lines_en = "" if facts.train_lines is None else f", {facts.train_lines} lines"
    targets = ", ".join(map(_plain, facts.lora.target_modules))
    lora = f"r={facts.lora.rank}, alpha={facts.lora.alpha:g}, {targets}"
    lengths = facts.meta.max_source_seq_len, facts.meta.max_target_seq_len
    licence, licence_en = _CHATGLM_LICENCE if facts.is_chatglm else ("", "")
    base = _plain(facts.base_model)
    return f"""# {_plain(facts.title)}

从中文句子里抽取知识三元组（主语、关系、宾语及两者的类型）的 LoRA 适配器，基座是 {base}。
(English below.)

## 成绩

在 {_file_of(facts, "dev_path")} 上，训练结束时选出的一步：

{_table(facts, english=False)}

## 数据与训练

- 训练集：{train}{lines}；{len(names)} 种关系：{shown}
- LoRA：{lora}；{_knob(facts, "epochs")} 轮，学习率 {_knob(facts, "learning_rate")}
- 长度：输入 {lengths[0]}、输出 {lengths[1]} 个 token

## 怎样加载

```bash
python -m bases.download {base}
python inference_triplet.py --adapter 本目录 --pre_model {base} --text "《活着》是余华的小说。"
```

输出受语法约束：总是合法的 JSON，主语和宾语是原文的片段，关系只有 `schema.json` 里的。
{_peft(facts)}
## 许可证

适配器：{_plain(facts.license_name)}。它只有与基座一起才能使用，基座的许可证对使用者同样有效。{licence}
训练数据的许可证由发布者补充。

---

A LoRA adapter that extracts knowledge triplets (subject, relation, object, and the types of both) from
Chinese sentences. Base: {base}.

**Figures** on {_file_of(facts, "dev_path")}, of the step that was chosen:

{_table(facts, english=True)}

**Data and training**: {train}{lines_en}; {len(names)} relations (see `schema.json`). LoRA: {lora};
{_knob(facts, "epochs")} epochs at {_knob(facts, "learning_rate")}.
Lengths: {lengths[0]} tokens in, {lengths[1]} out.

**How to load**: the commands above. Answers are constrained by a grammar: always valid JSON, subjects and
objects are parts of the sentence, relations are those of `schema.json`.

**Licence**: {_plain(facts.license_name)} for the adapter. It is of use with its base only, whose licence
holds for users as well. {licence_en} The publisher adds the licence of the training data.
"""


def _peft(facts: CardFacts) -> str:
    """Return how plain PEFT loads it, for bases that transformers itself brings."""
    if facts.is_chatglm is not False:
        return ""
    return f"""
不用本项目，只用 PEFT（没有约束；提示词见 `adapter_meta.json` 的 prompt_template）：

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{_plain(facts.base_model)}")
model = PeftModel.from_pretrained(base, "本目录")
```
"""


def _table(facts: CardFacts, english: bool) -> str:
    rows = [
        (names[1 if english else 0], f"{float(facts.meta.metrics[key]):.3f}")
        for key, names in _FIGURES.items()
        if _is_number(facts.meta.metrics.get(key))
    ]
    if not rows:
        return "not measured" if english else "没有量过。"
    head = ("figure", "value") if english else ("指标", "值")
    return "\n".join(f"| {left} | {right} |" for left, right in [head, ("---", "---"), *rows])


def _file_of(facts: CardFacts, knob: str) -> str:
    """Return a data file's name without its folders."""
    value = facts.config.get(knob)
    return _plain(PurePath(value).name) if isinstance(value, str) and value else "?"


def _knob(facts: CardFacts, name: str) -> str:
    """Return a number of the training as it stands there."""
    value = facts.config.get(name)
    return str(value) if _is_number(value) else "?"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _plain(text: str) -> str:
    """Return a text that means nothing to Markdown: one line, without marks."""
    kept = "".join(character for character in text if character not in "`|<>[]*#\\")
    return visible(" ".join(kept.split()), keep="")
