"""What came of one sentence: its triplets, or why there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from extraction.parsing import AnswerStatus
from task.schema import Schema
from task.triplets import Triplet


class Span(NamedTuple):
    """A part of the sentence as typed: `sentence[start:end]`."""

    start: int
    end: int


@dataclass(frozen=True)
class Extraction:
    """What came of one sentence.

    Args:
        triplets: without duplicates, in the order of the answer. Empty both for "nothing to extract" and for
            an answer that gave no result; `problem` tells them apart.
        raw: the answer as generated, without `<eop>`; under a constraint, all its triplets in the notation
            of training data.
        status: how the answer was read.
        truncated: the token budget ended before the answer did.
        source_truncated: the sentence was cut at its end to fit the prompt's length.
        error: what stopped the generation of this sentence; then there is no answer.
        scores: the model's probability of each triplet; only under a constraint and if asked for.
        spans: where object and subject of each triplet stand in the sentence, if they do; only under a
            constraint.
    """

    triplets: list[Triplet] = field(default_factory=list)
    raw: str = ""
    status: AnswerStatus = AnswerStatus.INVALID
    truncated: bool = False
    source_truncated: bool = False
    error: str | None = None
    scores: list[float] = field(default_factory=list)
    spans: list[tuple[Span | None, Span | None]] = field(default_factory=list)

    @property
    def problem(self) -> str | None:
        """Why `triplets` is not a result, in Chinese; None if it is one."""
        if self.error is not None:
            return f"生成失败：{self.error}"
        if self.status is AnswerStatus.INVALID:
            cut = "在长度上限内没有结束，" if self.truncated else ""
            return f"模型的回答{cut}不是可用的三元组 JSON"
        return None

    def to_list(self, with_scores: bool = False, with_spans: bool = False) -> list[dict[str, Any]]:
        """Return the triplets for JSON, with `score`, `object_span` and `subject_span` if wanted."""
        items: list[dict[str, Any]] = [triplet._asdict() for triplet in self.triplets]
        for index, item in enumerate(items):
            if with_scores:
                item["score"] = round(self.scores[index], 4)
            if with_spans:
                item["object_span"], item["subject_span"] = (
                    span and list(span) for span in self.spans[index]
                )
        return items


class Extractor(Protocol):
    """What extracts, as those see it who use it without torch: a `TripletExtractor`."""

    @property
    def half_right_score(self) -> float | None: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def schema(self) -> Schema | None: ...

    def extract_one(
        self, sentence: str, on_piece: Callable[[int, int], None] | None = None
    ) -> Extraction: ...

    def stream(
        self,
        sentences: Sequence[str],
        prompts: Sequence[str] | None = None,
        on_piece: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Extraction]]: ...
