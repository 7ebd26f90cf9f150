"""Documents: each sentence read with its neighbours, values taken from it, offsets those of the document.

A sentence like 他1980年出生于苏州 names nobody. Read together with the sentences around it, the model can
choose the name for the subject: the constraint lets it write any part of what it reads, and nothing else. The
object has to stand in the sentence itself, for the neighbours have their own turn. A fact about 他 is none.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from extraction.extractor import TripletExtractor
from extraction.parsing import AnswerStatus
from extraction.result import Extraction, Span
from task.schema import Schema
from task.triplets import Triplet, format_target

# A sentence ends behind its marks and the quotes and brackets that close with it, or where its line ends.
_SENTENCE = re.compile(r"[^。！？!?…\n]*(?:[。！？!?…]+[”’」』）)\"']*|\n|\Z)")
_MARKUP = re.compile(r"(?:[#>*+\-|\s]|\d+[.)、]\s)*")  # of Markdown, at the beginning of a line
_FENCES = re.compile(r"^(```|~~~).*?(?:^\1[^\n]*$|\Z)", re.DOTALL | re.MULTILINE)  # code is no prose
# Subjects that name nothing by themselves.
_POINTERS = re.compile(
    r"[他她它]们?|其|(该|本|此|这[个部本首家座位款种]?)(公司|企业|集团|机构|校|学校|大学|片|影片|电影|剧|电视剧|书|小说|"
    r"作品|歌|歌曲|曲|专辑|节目|市|省|县|国|地|山|景区|景点|人|物种)"
)


class Part(NamedTuple):
    """A sentence, and what is read along with it; both are places in the document."""

    sentence: Span
    window: Span


class _Found(NamedTuple):
    """A triplet with its score, if there are any, and where object and subject stand in the document."""

    triplet: Triplet
    score: float | None
    spans: tuple[Span, Span]
    is_within: bool  # the subject stands in the sentence, too


class DocumentExtractor:
    """Extracts triplets from documents; to those who use it, an extractor like any other.

    Args:
        extractor: what reads; it has to have a constraint, with values from the sentence.
        context_sentences: how many sentences before and behind one are read along with it; fewer where the
            prompt would grow too long.
    """

    def __init__(self, extractor: TripletExtractor, context_sentences: int) -> None:
        if extractor.constraint is None or extractor.constraint.free_values:
            raise ValueError("documents need a constraint that takes values from the text")
        self._extractor = extractor
        self.context_sentences = context_sentences

    @property
    def half_right_score(self) -> float | None:
        """See `TripletExtractor`."""
        return self._extractor.half_right_score

    @property
    def tokenizer(self) -> Any:
        """That of the model."""
        return self._extractor.tokenizer

    @property
    def schema(self) -> Schema | None:
        """The combinations that answers are limited to; None if they are not."""
        return self._extractor.schema

    def extract_one(self, sentence: str, on_piece: Callable[[int, int], None] | None = None) -> Extraction:
        """Extract the triplets of one document; see `stream`."""
        return dict(self.stream([sentence], on_piece=on_piece))[0]

    def stream(
        self,
        sentences: Sequence[str],
        prompts: Sequence[str] | None = None,
        on_piece: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Extraction]]:
        """Extract the triplets of documents.

        Args:
            sentences: the documents.
            prompts: not taken: documents are cut into prompts here.
            on_piece: called with the number of sentences answered and of all.

        Yields:
            The index of a document and its extraction, as they finish; spans are places in the document.

        Raises:
            ValueError: prompts were given.
        """
        if prompts is not None:
            raise ValueError("a document has no prompt of its own")
        parts = [(index, part) for index, text in enumerate(sentences) for part in self.parts(text)]
        windows = [sentences[index][part.window.start : part.window.end] for index, part in parts]
        counts = Counter(index for index, _ in parts)
        gathered: dict[int, list[tuple[Part, Extraction]]] = defaultdict(list)
        for answered, (number, extraction) in enumerate(self._extractor.stream(windows), start=1):
            index, part = parts[number]
            gathered[index].append((part, extraction))
            if on_piece is not None:
                on_piece(answered, len(parts))
            if len(gathered[index]) == counts[index]:
                yield index, merge(sentences[index], sorted(gathered.pop(index), key=lambda item: item[0]))

    def parts(self, document: str) -> list[Part]:
        """Return the sentences of a document, each with what is read along with it."""
        spans = split_document(document)
        return [Part(sentence, self._window(document, spans, place)) for place, sentence in enumerate(spans)]

    def _window(self, document: str, spans: Sequence[Span], place: int) -> Span:
        """Return the sentence at a place with as many neighbours as wanted, if they fit into a prompt."""
        for reach in range(self.context_sentences, 0, -1):
            first, last = spans[max(place - reach, 0)], spans[min(place + reach, len(spans) - 1)]
            if self._fits(document[first.start : last.end]):
                return Span(first.start, last.end)
        return spans[place]

    def _fits(self, text: str) -> bool:
        return self._extractor.fits(text)


def split_document(document: str) -> list[Span]:
    """Return where the sentences of a document stand, without blanks and marks of Markdown; code has none.

    Of a document without any, the whole of it.
    """
    code = [match.span() for match in _FENCES.finditer(document)]
    spans = []
    for match in _SENTENCE.finditer(document):
        start, end = match.span()
        if start == 0 or document[start - 1] == "\n":
            start += len(_MARKUP.match(match[0])[0])  # type: ignore[index]  # it matches anything
        text = document[start:end]
        start, end = start + len(text) - len(text.lstrip()), end - (len(text) - len(text.rstrip()))
        has_word = any(map(str.isalnum, document[start:end]))
        if has_word and not any(first <= start < last for first, last in code):
            spans.append(Span(start, end))
    return spans or [Span(0, len(document))]


def merge(document: str, readings: Iterable[tuple[Part, Extraction]]) -> Extraction:
    """Join what was read of a document's parts: each triplet once, with its best score.

    Args:
        document: the whole text.
        readings: the parts in the document's order, and what came of each.
    """
    best: dict[Triplet, _Found] = {}
    truncated = False
    for part, extraction in readings:
        if extraction.problem is not None:
            return Extraction(error=extraction.error or extraction.problem)
        truncated |= extraction.truncated
        scores: list[float | None] = [*extraction.scores] or [None] * len(extraction.triplets)
        for triplet, score in zip(extraction.triplets, scores, strict=True):
            found = _locate(document, part, triplet, score)
            if found is not None and (triplet not in best or _rank(found) > _rank(best[triplet])):
                best[triplet] = found
    return Extraction(
        triplets=list(best),
        raw=format_target(best),
        status=AnswerStatus.OK,
        truncated=truncated,
        scores=[found.score for found in best.values() if found.score is not None],
        spans=[found.spans for found in best.values()],
    )


def _rank(found: _Found) -> tuple[float, bool]:
    return (found.score or 0.0, found.is_within)


def _locate(document: str, part: Part, triplet: Triplet, score: float | None) -> _Found | None:
    """Return where a triplet's values stand; None if it isn't one of this sentence, or of nobody.

    Its object has to stand in the sentence, and its subject to be a name, which is looked for in the
    sentence, then backwards from it, then behind it.
    """
    (start, end), window = part.sentence, part.window
    at = document.find(triplet.object, start, end)
    if at < 0 or _POINTERS.fullmatch(triplet.subject):
        return None
    places = [
        document.find(triplet.subject, start, end),
        document.rfind(triplet.subject, window.start, start),
        document.find(triplet.subject, end, window.end),
    ]
    subject = next((place for place in places if place >= 0), None)
    if subject is None:  # it reaches across the end of the sentence
        subject = document.find(triplet.subject, window.start, window.end)
    if subject < 0:
        return None
    spans = Span(at, at + len(triplet.object)), Span(subject, subject + len(triplet.subject))
    return _Found(triplet, score, spans, places[0] >= 0)
