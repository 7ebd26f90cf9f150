"""Evaluation of an extractor on labelled data: triplet answers scored, classification answers compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from extraction.decoding.source_text import normalise
from extraction.evaluation.metrics import Report
from extraction.evaluation.reliability import Reliability
from extraction.files import result_fields
from extraction.result import Extraction, Extractor
from task.answers import Answer, read_answer
from task.prompt import split_context
from task.schema import Schema
from task.triplets import Combination, Triplet, combination_of, is_triplet_target

SHOWN_PREDICATES = 20


@dataclass
class Evaluation:
    """Scores of the triplet lines in `report`; the other kinds of lines apart."""

    report: Report = field(default_factory=Report)
    reliability: Reliability = field(default_factory=Reliability)  # of the triplets' scores, if there are any
    classification_lines: int = 0
    classification_errors: list[dict[str, str]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)  # generation failed; scored as invalid
    unusable: list[dict[str, str]] = field(default_factory=list)  # the reference can't be read; not scored
    outside_schema: Counter[Combination] = field(default_factory=Counter)  # expected, but never to be had
    unknown_predicates: set[str] = field(default_factory=set)  # of those: whatever their types
    results: list[dict[str, Any]] = field(default_factory=list)  # as lines, with `gold`

    def to_dict(self, max_errors: int | None = None) -> dict[str, Any]:
        """Return everything for JSON, the lists of errors in full or up to `max_errors` each."""
        correct = self.classification_lines - len(self.classification_errors)
        return {
            "triplets": self.report.to_dict(max_errors),
            "reliability": self.reliability.to_dict() if self.reliability.triplets else None,
            "classification": {
                "sentences": self.classification_lines,
                "correct": correct,
                "accuracy": correct / self.classification_lines if self.classification_lines else 0.0,
                "errors": self.classification_errors[:max_errors],
            },
            "outside_schema": {
                "triplets": self.outside_schema.total(),
                "combinations": [
                    {**combination._asdict(), "triplets": count}
                    for combination, count in self.outside_schema.most_common()
                ],
                "unknown_predicates": sorted(self.unknown_predicates),
            },
            "failure_count": len(self.failures),
            "failures": self.failures[:max_errors],
            "unusable_count": len(self.unusable),
            "unusable": self.unusable[:max_errors],
        }

    def describe(self, max_errors: int) -> str:
        """Return scores, failures and the first errors as Chinese lines."""
        lines = [self.report.to_table()] if self.report.sentences else []
        if self.reliability.triplets:
            lines.append(self.reliability.to_table())
        if total := self.classification_lines:
            correct = total - len(self.classification_errors)
            lines.append(f"分类 {total} 句，答案一致 {correct}（{correct / total:.1%}）")
        if self.outside_schema:
            lines.append(self._describe_outside())
        lines += [f"失败：{item['sentence']}：{item['error']}" for item in self.failures + self.unusable]
        for error in self.report.errors[:max_errors]:
            lines.append(f"错例：{error.sentence}")
            for label, triplets in (("漏掉", error.missing), ("多出", error.spurious)):
                lines += [f"  {label}（{t.subject}，{t.predicate}，{t.object}）" for t in triplets]
        return "\n".join(lines)

    def _describe_outside(self) -> str:
        """Say which expected triplets the schema rules out."""
        counts: Counter[str] = Counter()
        for combination, count in self.outside_schema.items():
            counts[combination.predicate] += count
        named = "、".join(
            f"{name}（{count} 个{'，谓语本身就没有' if name in self.unknown_predicates else ''}）"
            for name, count in counts.most_common(SHOWN_PREDICATES)
        )
        more = "等" if len(counts) > SHOWN_PREDICATES else ""
        return (
            f"标准答案里有 {counts.total()} 个三元组的关系不在允许的范围（schema.json）内，约束下抽不出来："
            f"{named}{more}。"
        )


def evaluate(
    extractor: Extractor,
    contexts: Sequence[str],
    targets: Sequence[str],
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Let the extractor answer every context, and compare with the targets.

    Args:
        extractor: what is evaluated; it gets each line's own prompt.
        contexts, targets: the two fields of the data files. Targets in triplet notation are scored; any
            other is a classification answer and has to be met exactly.
        on_progress: called with the number of contexts answered since the last call.
    """
    extractions: dict[int, Extraction] = {}
    sentences = [split_context(context)[1] for context in contexts]
    for index, extraction in extractor.stream(sentences, contexts):
        extractions[index] = extraction
        if on_progress is not None:
            on_progress(1)
    return score(contexts, targets, extractions, extractor.tokenizer, extractor.schema)


def score(
    contexts: Sequence[str],
    targets: Sequence[str],
    extractions: Mapping[int, Extraction],
    tokenizer: Any,
    schema: Schema | None = None,
) -> Evaluation:
    """Compare answers with targets; for callers that run `TripletExtractor.stream` themselves.

    Args:
        contexts, targets: see `evaluate`.
        extractions: an answer for every context, by the context's index.
        tokenizer: that of the extractor.
        schema: what its answers are limited to; expected triplets outside are counted.

    Raises:
        KeyError: an answer is missing.
    """
    evaluation = Evaluation()
    for index, (context, target) in enumerate(zip(contexts, targets, strict=True)):
        (head, sentence, _), extraction = split_context(context), extractions[index]
        answer = read_answer(target, head, sentence)
        if extraction.error is not None:
            evaluation.failures.append({"sentence": sentence, "error": extraction.error})
        expected = _count(evaluation, sentence, answer, extraction, tokenizer)
        if schema is not None:
            evaluation.outside_schema.update(combination_of(t) for t in expected if t not in schema)
    if schema is not None:
        known = {combination.predicate for combination in schema.combinations}
        predicates = {combination.predicate for combination in evaluation.outside_schema}
        evaluation.unknown_predicates = predicates - known
    return evaluation


def _count(
    evaluation: Evaluation, sentence: str, answer: Answer, extraction: Extraction, tokenizer: Any
) -> list[Triplet]:
    """Count a line; return the triplets that its target holds."""
    if answer.triplets is None and (answer.problem or is_triplet_target(answer.target)):
        reason = answer.problem or "不是三元组的列表"
        evaluation.unusable.append({"sentence": sentence, "error": f"标准答案无法读取：{reason}"})
        return []
    if answer.triplets is None:
        evaluation.classification_lines += 1
        # The model can't write full-width forms and the like: both sides as the tokenizer sees them.
        texts = (extraction.raw, answer.target)
        given, wanted = (normalise(text, tokenizer).strip() for text in texts)
        if extraction.error is not None or given != wanted:
            evaluation.classification_errors.append(
                {"sentence": sentence, "expected": answer.target, "answer": extraction.raw}
            )
        return []
    references = list(answer.triplets)
    triplets, expected = extraction.triplets, references
    if triplets and not extraction.spans:  # written freely, so again as the tokenizer sees it
        triplets, expected = (
            [Triplet(*(normalise(value, tokenizer).strip() for value in triplet)) for triplet in each]
            for each in (triplets, expected)
        )
        sentence = normalise(sentence, tokenizer)
    evaluation.report.add(sentence, triplets, expected, extraction.status)
    evaluation.results.append(_result(sentence, triplets, expected, extraction))
    for triplet, probability in zip(triplets, extraction.scores, strict=False):
        evaluation.reliability.add(probability, triplet in expected)
    return references


def _result(
    sentence: str, triplets: list[Triplet], expected: list[Triplet], extraction: Extraction
) -> dict[str, Any]:
    """Return a line as the command writes it, with what was expected; both as they were compared."""
    compared = replace(extraction, triplets=triplets)
    fields = result_fields(compared, bool(extraction.scores), bool(extraction.spans))
    return {"text": sentence, **fields, "gold": [triplet._asdict() for triplet in expected]}
