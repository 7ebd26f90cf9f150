"""Lines to token features: ids and labels made together, what is too long cut where it does no harm.

`python -m data_handle.data_preprocess FILE…` is the linter of data files, see lint_report.py.
"""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from bases.interface import IGNORE_INDEX
from data_handle.reader import Example
from data_handle.relation_prompts import RelationPrompts
from task.answers import CHANGES, EMPTY_TYPE, MISSING_TYPE, NO_JSON, read_answer
from task.prompt import PromptTokenizer, encode_prompt, split_context
from task.triplets import Triplet, parse_target
from utils.common_utils import UserError

_LIST_START = re.compile(r"\s*(?:```(?:json)?\s*)?\[\s*")
_LIST_END = re.compile(r"\s*\]\s*(?:```\s*)?")
_SEPARATOR = re.compile(r"\s*,\s*")
_JSON_START = re.compile(r"\s*(?:```|[\[{])")
_JSON_ANSWER = re.compile(r"\s*(?:```json|(?:```\s*)?\[\s*\{)")


class Tokenizer(PromptTokenizer, Protocol):
    """What encoding a file needs of a base model's tokenizer."""

    vocab_file: str

    def encode_plain(self, text: str) -> list[int]: ...

    def answer_ids(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Features:
    """One training sequence: `input_ids`, and `labels` of equal length with -100 where nothing is learnt."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_targets(self) -> int:
        """How many tokens carry a label that the model predicts (the first one can't)."""
        return sum(label != IGNORE_INDEX for label in self.labels[1:])


class FittedTarget(NamedTuple):
    """An answer within the limit.

    `input_ids` ends with `<eop>` unless `text_cut`, and is None if not one item fits; `tokens` is what the
    whole answer takes with its `<eop>`; `items_dropped` counts what its JSON list lost.
    """

    input_ids: list[int] | None
    tokens: int
    items_dropped: int = 0
    text_cut: bool = False


@dataclass(frozen=True)
class EncodedExample:
    """Features of one example, and what the length limits cost it.

    Attributes:
        features: None if the example can't be learnt from; `left_out` then says why, in Chinese.
        source_truncated: the sentence lost its end.
        triplets_dropped: items of the answer's JSON list left out at its end.
        text_cut: the answer is plain text that was cut in tokens, and so has no `<eop>`.
    """

    features: Features | None
    source_truncated: bool = False
    triplets_dropped: int = 0
    text_cut: bool = False
    left_out: str | None = None


@dataclass
class EncodingSummary:
    """What became of the lines of a file.

    Attributes:
        examples: lines that can be learnt from.
        tokens: of these, context and answer.
        left_out: (line number, reason in Chinese) of the others.
        lines: the line numbers by what happened: "source" (the sentence lost its end), "triplets" (once for
            each item that the answer's list lost), "text" (the answer was cut in tokens), a key of `CHANGES`
            (the answer was rewritten), "other" (it has no triplets, though it seems to be meant to).
    """

    max_source_seq_len: int
    max_target_seq_len: int
    examples: int = 0
    tokens: int = 0
    left_out: list[tuple[int, str]] = field(default_factory=list)
    lines: dict[str, list[int]] = field(default_factory=dict)

    def add(self, encoded: EncodedExample, line_number: int) -> None:
        """Count one example."""
        if encoded.features is None:
            self.left_out.append((line_number, encoded.left_out or ""))
            return
        self.examples += 1
        self.tokens += len(encoded.features.input_ids)
        losses = {
            "source": int(encoded.source_truncated),
            "triplets": encoded.triplets_dropped,
            "text": int(encoded.text_cut),
        }
        self.add_notes((kind for kind, count in losses.items() for _ in range(count)), line_number)

    def add_notes(self, kinds: Iterable[str], line_number: int) -> None:
        """Note kinds of losses or of rewriting, see `lines`."""
        for kind in kinds:
            self.lines.setdefault(kind, []).append(line_number)

    def add_all(self, other: EncodingSummary) -> None:
        """Count what another part of the file was counted to."""
        self.examples += other.examples
        self.tokens += other.tokens
        self.left_out += other.left_out
        for kind, lines in other.lines.items():
            self.lines.setdefault(kind, []).extend(lines)

    def select(self, wanted: Callable[[int], bool], examples: int, tokens: int) -> EncodingSummary:
        """Return the summary of the lines wanted, whose samples and tokens the caller has counted."""
        chosen = {kind: [n for n in lines if wanted(n)] for kind, lines in self.lines.items()}
        return EncodingSummary(
            self.max_source_seq_len,
            self.max_target_seq_len,
            examples,
            tokens,
            [item for item in self.left_out if wanted(item[0])],
            {kind: lines for kind, lines in chosen.items() if lines},
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncodingSummary:
        """Read what `dataclasses.asdict` made of one.

        Raises:
            TypeError, ValueError, AttributeError: it is something else.
        """
        summary = cls(**values)
        numbers = (summary.max_source_seq_len, summary.max_target_seq_len, summary.examples, summary.tokens)
        summary.left_out = [(int(line_number), str(reason)) for line_number, reason in summary.left_out]
        summary.lines = {
            str(kind): [int(number) for number in lines] for kind, lines in summary.lines.items()
        }
        if not all(type(number) is int for number in numbers):
            raise ValueError("counts are integers")
        return summary

    @property
    def sources_truncated(self) -> int:
        """How many sentences lost their end."""
        return len(self.lines.get("source", ()))

    @property
    def targets_cut(self) -> int:
        """How many answers lost items of their list."""
        return len(set(self.lines.get("triplets", ())))

    @property
    def triplets_dropped(self) -> int:
        """How many items these answers lost together."""
        return len(self.lines.get("triplets", ()))

    @property
    def texts_cut(self) -> int:
        """How many answers of plain text were cut."""
        return len(self.lines.get("text", ()))

    def check(self, source: str) -> None:
        """Refuse a file of which nothing is left.

        Args:
            source: what to call it.

        Raises:
            UserError: not one example could be learnt from.
        """
        if not self.examples:
            hint = self.hint(source) or ""
            raise UserError(f"{source} 里没有一条样本可用于训练：{self.report()}{hint}")

    def hint(self, source: str) -> str | None:
        """Say what helps where triplets were left out for want of types; None if none were.

        Args:
            source: the file.
        """
        if not any(MISSING_TYPE in reason or EMPTY_TYPE.search(reason) for _, reason in self.left_out):
            return None
        return (
            f"缺少的类型可以补上：python -m data_handle.convert {source} -o 新文件.jsonl"
            "（--types 给出各个关系的类型，没有给的记作“实体”）。"
        )

    def report(self) -> str:
        """Return one paragraph in Chinese for the log."""
        parts = [f"{self.examples} 条样本，共 {self.tokens:,} 个 token"]
        if self.sources_truncated:
            parts.append(
                f"{self.sources_truncated} 条的句子超过 max_source_seq_len={self.max_source_seq_len}，"
                "句尾被截去（指令不动）"
            )
        if self.targets_cut:
            parts.append(
                f"{self.targets_cut} 条的答案超过 max_target_seq_len={self.max_target_seq_len}，"
                f"从末尾共去掉 {self.triplets_dropped} 个三元组（JSON 保持完整）"
            )
        if self.texts_cut:
            parts.append(f"{self.texts_cut} 条的文字答案超过 max_target_seq_len，在末尾截断且不加 <eop>")
        if changes := [kind for kind in CHANGES if kind in self.lines]:
            lines = sorted({line for kind in changes for line in self.lines[kind]})
            ways = "、".join(f"{CHANGES[kind]} {len(self.lines[kind])} 条" for kind in changes)
            parts.append(f"{len(lines)} 条的答案改写成了本项目的写法（{ways}；{_first_lines(lines)}）")
        if other := self.lines.get("other"):
            parts.append(f"{len(other)} 条的答案像是该有三元组却没有，按文字训练（{_first_lines(other)}）")
        if self.left_out:
            shown = "，".join(f"第 {line} 行（{reason}）" for line, reason in self.left_out[:5])
            rest = f"等 {len(self.left_out)} 条" if len(self.left_out) > 5 else ""
            parts.append(f"没有采用：{shown}{rest}")
        if len(parts) == 1:
            parts.append("全部在长度限制以内")
        return "；".join(parts) + "。"


def _first_lines(line_numbers: Sequence[int], limit: int = 5) -> str:
    """Name the first of some lines."""
    shown = "、".join(map(str, line_numbers[:limit]))
    return f"第 {shown} 行" + ("等" if len(line_numbers) > limit else "")


def encode_example(
    tokenizer: Tokenizer, context: str, target: str, max_source_seq_len: int, max_target_seq_len: int
) -> EncodedExample:
    """Encode one example as prompt and answer (for ChatGLM: context, `[gMASK] <sop>`, target, `<eop>`).

    Labels are on the answer and its end only.

    A target that is too long loses whole items from the end of its JSON list, so that what is learnt is
    always whole JSON in the notation of the line. Plain text is cut in tokens instead and gets no `<eop>`, so
    that the model doesn't learn to stop early. JSON of which not even one item fits teaches nothing true (an
    empty list would deny the facts), so that example is left out, and so is one whose JSON is broken already.

    Args:
        tokenizer: a `ChatGLMTokenizer`.
        context: the whole prompt.
        target: the answer.
        max_source_seq_len: the most tokens of the prompt, special ones included.
        max_target_seq_len: the most tokens of the answer, its end included.

    Raises:
        UserError: the instruction alone doesn't fit into `max_source_seq_len`.
    """
    encoded = _encode(tokenizer, context, target, max_source_seq_len, max_target_seq_len)
    if _is_broken_json(target):
        return EncodedExample(None, encoded.source_truncated, left_out=NO_JSON)
    return encoded


def _encode(
    tokenizer: Tokenizer, context: str, target: str, max_source_seq_len: int, max_target_seq_len: int
) -> EncodedExample:
    """Do what `encode_example` does with an answer whose JSON is whole."""
    prompt = encode_prompt(tokenizer, context, max_source_seq_len)
    answer = fit_target(tokenizer, target, max_target_seq_len)
    if answer.input_ids is None:
        reason = (
            f"答案有 {answer.tokens} 个 token，max_target_seq_len={max_target_seq_len} 一个三元组也放不下"
        )
        return EncodedExample(None, prompt.truncated, left_out=reason)
    labels = [IGNORE_INDEX] * len(prompt.input_ids) + answer.input_ids
    features = Features(prompt.input_ids + answer.input_ids, labels)
    return EncodedExample(features, prompt.truncated, answer.items_dropped, answer.text_cut)


def fit_target(tokenizer: Tokenizer, target: str, max_target_seq_len: int) -> FittedTarget:
    """Encode an answer with its end, cut where it is too long as `encode_example` says."""
    input_ids = tokenizer.answer_ids(target)
    tokens = len(input_ids)
    if tokens <= max_target_seq_len:
        return FittedTarget(input_ids, tokens)
    if not _JSON_START.match(target):
        return FittedTarget(input_ids[:max_target_seq_len], tokens, text_cut=True)

    ends, rest = _item_ends(target)
    kept, kept_ids = 0, None
    for count, end in enumerate(ends, start=1):
        input_ids = tokenizer.answer_ids(target[:end] + target[rest:])
        if len(input_ids) > max_target_seq_len:
            break
        kept, kept_ids = count, input_ids
    return FittedTarget(kept_ids, tokens, items_dropped=len(ends) - kept)


def encode_examples(
    tokenizer: Tokenizer,
    examples: Iterable[Example],
    max_source_seq_len: int,
    max_target_seq_len: int,
    source: str = "数据",
) -> tuple[list[Features], EncodingSummary]:
    """Encode examples in order, leaving out those that can't be learnt from; see `encode_example`.

    Args:
        tokenizer: a `ChatGLMTokenizer`.
        examples: in order.
        max_source_seq_len, max_target_seq_len: in tokens.
        source: what to call them if none is left.

    Raises:
        UserError: not one example is left.
    """
    summary = EncodingSummary(max_source_seq_len, max_target_seq_len)
    encoded = encode_each(tokenizer, examples, summary)
    features = [each for item in encoded for each in item.features]
    summary.check(source)
    return features, summary


class Learnt(NamedTuple):
    """An example in the product's notation, its triplets (None: of another kind), its samples, if any."""

    example: Example
    triplets: tuple[Triplet, ...] | None
    features: list[Features]


def encode_each(
    tokenizer: Tokenizer,
    examples: Iterable[Example],
    summary: EncodingSummary,
    prompts: RelationPrompts | None = None,
) -> Iterator[Learnt]:
    """Yield what is to be learnt of examples, within the limits of `summary`.

    There are no features where the limits leave nothing to learn, and several of a line with triplets that
    `prompts` asks more than once. An example whose answer can't be used is not yielded, see `read_answer`.
    `summary` counts what becomes of each.
    """
    limits = summary.max_source_seq_len, summary.max_target_seq_len
    for example in examples:
        head, sentence, _ = split_context(example.context)
        answer = read_answer(example.target, head, sentence)
        if answer.problem is not None:
            summary.add(EncodedExample(None, left_out=answer.problem), example.line_number)
            continue
        summary.add_notes((*answer.changes, *(["other"] if answer.is_other else [])), example.line_number)
        asked: Iterable[tuple[str, str]] = [(example.context, answer.target)]
        if prompts is not None and answer.triplets is not None:
            asked = prompts.ask(example.context, answer.triplets)
        features = []
        for context, target in asked:
            try:
                encoded = _encode(tokenizer, context, target, *limits)
            except UserError as error:
                encoded = EncodedExample(None, left_out=str(error).rstrip("。"))
            summary.add(encoded, example.line_number)
            features += [encoded.features] if encoded.features is not None else []
        yield Learnt(example._replace(target=answer.target), answer.triplets, features)


def _is_broken_json(target: str) -> bool:
    if not _JSON_ANSWER.match(target):
        return False
    try:
        parse_target(target)
    except ValueError as error:  # otherwise it is JSON, only of something else than triplets
        return isinstance(error, json.JSONDecodeError)
    return False


def _item_ends(target: str) -> tuple[list[int], int]:
    """Find where each item of a JSON list ends in its text, and where the rest after the last one begins.

    No ends if the text, but for a fence around it, is not exactly one JSON list.
    """
    start = _LIST_START.match(target)
    if not start:
        return [], 0
    decoder = json.JSONDecoder()
    ends, position = [], start.end()
    try:
        while True:
            _, position = decoder.raw_decode(target, position)
            ends.append(position)
            separator = _SEPARATOR.match(target, position)
            if not separator:
                break
            position = separator.end()
    except (ValueError, RecursionError):
        return [], 0
    return (ends, position) if _LIST_END.fullmatch(target, position) else ([], 0)


if __name__ == "__main__":  # the linter under the name that it was first known by
    runpy.run_module("data_handle.lint_report", run_name="__main__")
