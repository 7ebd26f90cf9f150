"""Results as a command prints them: JSON for programs, lines and tables with scores for people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

from extraction.files import result_fields
from extraction.parsing import AnswerStatus
from extraction.result import Extraction
from task.triplets import Triplet
from utils.common_utils import log, to_json, visible, visible_json
from utils.progress import Progress
from utils.table import format_table

FORMATS = ("json", "jsonl", "line", "table")
FOR_PEOPLE = ("line", "table")
DOUBTFUL = "存疑"


@dataclass
class Display:
    """Prints the result of one sentence after the other.

    Args:
        out: where results go; what there is to say about them goes to stderr.
        format: one of `FORMATS`.
        with_scores, with_spans: what JSON says of each triplet; the formats for people have the scores.
        doubt_below: triplets with a score below it are marked, where scores are shown.
    """

    out: TextIO
    format: str
    with_scores: bool = False
    with_spans: bool = False
    doubt_below: float | None = None
    _explained: bool = field(default=False, init=False)
    _last_note: float = field(default_factory=lambda: time.monotonic(), init=False)

    def tell_pieces(self, answered: int, total: int) -> None:
        """Say now and then how far a long sentence is, which is extracted in pieces."""
        if time.monotonic() - self._last_note >= Progress.INTERVAL:
            self._last_note = time.monotonic()
            log(f"长句分段抽取 {answered}/{total} …")

    def show(self, sentence: str, extraction: Extraction) -> bool:
        """Print a result, or say why there is none; return whether there is one."""
        if extraction.source_truncated:
            log("注意：句子太长，超出输入长度（max_source_seq_len）的部分没有参与抽取。")
        if extraction.problem is not None:
            answer = f"模型的回答：{extraction.raw!r}" if extraction.raw else ""
            log(f"没有结果：{extraction.problem}。{answer}")
            return False
        if extraction.truncated:
            log("注意：回答到长度上限（--max_new_tokens）还没有结束，后面的三元组可能缺失。")
        elif extraction.status is AnswerStatus.REPAIRED:
            log("注意：回答不是完整的 JSON，已修复，只保留其中完整的三元组。")
        if self.format in FOR_PEOPLE:
            self._show_to_people(extraction)
        else:
            self._show_json(sentence, extraction)
        return True

    def _show_json(self, sentence: str, extraction: Extraction) -> None:
        if self.format == "json":
            text = to_json(extraction.to_list(self.with_scores, self.with_spans), indent=2)
        else:
            fields = result_fields(extraction, self.with_scores, self.with_spans)
            text = to_json({"text": sentence, **fields})
        print_json(text, self.out)
        if self.with_scores and any(doubtful := self._doubtful(extraction)):
            triplets = zip(extraction.triplets, extraction.scores, doubtful, strict=True)
            named = "；".join(_as_line(triplet, score) for triplet, score, doubt in triplets if doubt)
            log(f"{DOUBTFUL}：{named}。{self._explanation()}")

    def _show_to_people(self, extraction: Extraction) -> None:
        if not extraction.triplets:
            log("（没有三元组）")
            return
        scores: Sequence[float | None] = extraction.scores or [None] * len(extraction.triplets)
        doubtful = self._doubtful(extraction)
        marks = [DOUBTFUL if doubt else "" for doubt in doubtful]
        if self.format == "line":
            for triplet, score, mark in zip(extraction.triplets, scores, marks, strict=True):
                print(_as_line(triplet, score) + (f"  {mark}" if mark else ""), file=self.out)
        else:
            headings = ["主语", "主语类型", "关系", "宾语", "宾语类型", "置信度", ""]
            rows = [
                (t.subject, t.subject_type, t.predicate, t.object, t.object_type, _as_text(score), mark)
                for t, score, mark in zip(extraction.triplets, scores, marks, strict=True)
            ]
            print(format_table(headings, rows, left=5), file=self.out)
        self.out.flush()
        if any(doubtful) and not self._explained:
            self._explained = True
            log(f"标“{DOUBTFUL}”的{self._explanation()}")

    def _doubtful(self, extraction: Extraction) -> list[bool]:
        level = self.doubt_below or 0.0
        return [score < level for score in extraction.scores] or [False] * len(extraction.triplets)

    def _explanation(self) -> str:
        return (
            f"置信度低于 {self.doubt_below:g}，验证集上这样的三元组多半是错的；"
            f"--min_score {self.doubt_below:g} 可以略去它们。"
        )


def print_json(text: str, out: TextIO) -> None:
    """Print JSON; on a terminal, what would act on it (C1 controls, bidirectional marks) is escaped."""
    print(visible_json(text) if out.isatty() else text, file=out, flush=True)


def _as_line(triplet: Triplet, score: float | None) -> str:
    line = f"{triplet.subject} —{triplet.predicate}→ {triplet.object}"
    return visible(line, keep="") + (f"  {_as_text(score)}" if score is not None else "")


def _as_text(score: float | None) -> str:
    return "" if score is None else f"{score:.2f}"
