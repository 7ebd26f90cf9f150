"""Documents: sentences, windows, whose subject is a neighbour's, places in the document, duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from extraction.documents import DocumentExtractor, Part, merge, split_document
from extraction.extractor import TripletExtractor
from extraction.parsing import AnswerStatus
from extraction.result import Extraction, Span
from task.prompt import build_prompt
from task.triplets import Triplet

BORN = Triplet("出生地", "地点", "人物", "苏州", "沈知远")
DOCUMENT = "沈知远是导演。他出生于苏州。😀苏州的雨很大。"


class Reader:
    """Says what it is told to, and keeps what it was given to read."""

    def __init__(self, *triplets: Triplet, room: int = 1000, scores: Sequence[float] = ()) -> None:
        self.constraint = SimpleNamespace(free_values=False)
        self.tokenizer = SimpleNamespace()
        self._room = room
        self.half_right_score, self.schema = 0.5, None
        self.read: list[str] = []
        self._triplets, self._scores = triplets, scores

    def fits(self, sentence: str) -> bool:
        return len(build_prompt(sentence)) <= self._room

    def stream(self, sentences: Sequence[str]) -> Iterator[tuple[int, Extraction]]:
        self.read += sentences
        for index in reversed(range(len(sentences))):  # in no particular order
            text = sentences[index]
            known = [
                number for number, each in enumerate(self._triplets) if {*each[3:]} <= {*_parts(text, each)}
            ]
            yield (
                index,
                Extraction(
                    [self._triplets[number] for number in known],
                    status=AnswerStatus.OK,
                    scores=[self._scores[number] for number in known] if self._scores else [],
                ),
            )


def _parts(text: str, triplet: Triplet) -> list[str]:
    return [value for value in (triplet.object, triplet.subject) if value in text]


def extract(reader: Reader, document: str, context: int = 1) -> Extraction:
    return DocumentExtractor(cast(TripletExtractor, reader), context).extract_one(document)


def texts(document: str) -> list[str]:
    return [document[span.start : span.end] for span in split_document(document)]


def test_sentences_of_a_text() -> None:
    assert texts("他说：“走吧！”然后走了……\r\n\n 第二段？！  ") == [
        "他说：“走吧！”",
        "然后走了……",
        "第二段？！",
    ]
    assert texts("没有句号") == ["没有句号"]
    assert texts("……") == ["……"]  # there is always something


def test_sentences_of_markdown() -> None:
    page = "# 雾港来信\n\n- 由沈知远执导。\n1. 顾小满主演。\n> 好看。\n```\nprint(1)\n```\n完。\n"
    assert texts(page) == ["雾港来信", "由沈知远执导。", "顾小满主演。", "好看。", "完。"]


def test_the_subject_may_be_the_neighbours() -> None:
    reader = Reader(BORN)
    extraction = extract(reader, DOCUMENT)
    assert reader.read == ["沈知远是导演。他出生于苏州。", DOCUMENT, "他出生于苏州。😀苏州的雨很大。"]
    assert extraction.triplets == [BORN] and extraction.status is AnswerStatus.OK
    assert extraction.spans == [(Span(11, 13), Span(0, 3))]  # the second sentence's, not the third's
    assert extract(Reader(BORN), "他出生于苏州。天晴。沈知远走了。").triplets == []  # too far away
    assert extract(Reader(BORN), "他出生于苏州。天晴。沈知远走了。", context=2).triplets == [BORN]


def test_the_object_may_not_be_the_neighbours() -> None:
    """A window shows it to the model three times; it counts where it stands."""
    part = Part(Span(0, 7), Span(0, 14))
    assert merge(DOCUMENT, [(part, Extraction([BORN], status=AnswerStatus.OK))]).triplets == []


@pytest.mark.parametrize("subject", ["他", "她们", "该公司", "这部电影", "本校", "其"])
def test_a_pointer_is_no_subject(subject: str) -> None:
    document = f"{subject}在苏州。"
    assert extract(Reader(BORN._replace(subject=subject)), document).triplets == []
    assert extract(Reader(BORN._replace(subject="本溪")), "本溪在苏州。").triplets != []


def test_once_each_with_the_best_score_and_its_place() -> None:
    document = "沈知远生于苏州。后来，沈知远说苏州是家。"
    near, far = Part(Span(0, 8), Span(0, 20)), Part(Span(8, 20), Span(0, 20))
    low, high = (Extraction([BORN], status=AnswerStatus.OK, scores=[score]) for score in (0.4, 0.9))
    merged = merge(document, [(near, low), (far, high)])
    assert (merged.triplets, merged.scores) == ([BORN], [0.9])
    assert merged.spans == [(Span(15, 17), Span(11, 14))]
    assert merge(document, [(near, high), (far, low)]).spans == [(Span(5, 7), Span(0, 3))]


def test_a_window_that_is_too_long_loses_neighbours() -> None:
    reader = Reader(BORN, room=170)
    document = f"沈知远是导演。他出生于苏州。{'很长' * 100}。"
    extract(reader, document)
    assert reader.read[0] == "沈知远是导演。他出生于苏州。" and reader.read[1] == "他出生于苏州。"


def test_a_failure_is_the_documents() -> None:
    failed = [(Part(Span(0, 7), Span(0, 7)), Extraction(error="内存不足"))]
    assert merge(DOCUMENT, failed).error == "内存不足"


def test_several_documents_and_progress() -> None:
    told: list[tuple[int, int]] = []
    reader = Reader(BORN)
    documents = [DOCUMENT, "天晴。"]
    found = dict(
        DocumentExtractor(cast(TripletExtractor, reader), 1).stream(
            documents, on_piece=lambda *n: told.append(n)
        )
    )
    assert [found[index].triplets for index in (0, 1)] == [[BORN], []]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_documents_need() -> None:
    reader: Any = Reader(BORN)
    with pytest.raises(ValueError, match="prompt"):
        list(DocumentExtractor(reader, 1).stream(["文"], prompts=["文"]))
    reader.constraint.free_values = True
    with pytest.raises(ValueError, match="constraint"):
        DocumentExtractor(reader, 1)
