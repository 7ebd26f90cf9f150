"""From answers to an extraction: the pieces of a sentence joined, names and values as they were typed."""

from __future__ import annotations

from collections.abc import Iterable

from extraction.calibration import Calibration
from extraction.decoding.grammar import AnswerGrammar
from extraction.decoding.row import Answer
from extraction.parsing import AnswerStatus
from extraction.result import Extraction, Span
from task.triplets import Triplet, format_target, is_value


def merge_answers(
    grammar: AnswerGrammar,
    parts: Iterable[tuple[int, str, Answer]],
    with_scores: bool,
    min_score: float,
    calibration: Calibration | None = None,
) -> Extraction:
    """Join the answers to the pieces of a sentence.

    Args:
        grammar: that they were decoded under.
        parts: each piece's offset in the sentence, its text, and its answer, in the order of the sentence.
        with_scores: say the triplets' probabilities; the answers have them then.
        min_score: leave out triplets below this probability.
        calibration: turns the answers' probabilities into those that are said and compared with `min_score`.
    """
    found: dict[Triplet, tuple[float, tuple[Span | None, Span | None]]] = {}
    truncated = False
    for offset, text, answer in parts:
        truncated |= answer.truncated
        source = grammar.source(text)
        scores = answer.scores or [1.0] * len(answer.triplets)
        if calibration is not None and answer.scores:
            scores = list(map(calibration.apply, scores))
        for normalised, score in zip(answer.triplets, scores, strict=True):
            triplet, *spans = grammar.as_typed(normalised, source)
            if not (is_value(triplet.object) and is_value(triplet.subject)):
                continue  # of a character that the model can't write, it can't tell what it is
            moved = [span and Span(span.start + offset, span.end + offset) for span in spans]
            if triplet not in found or found[triplet][0] < score:
                found[triplet] = score, (moved[0], moved[1])
    kept = {triplet: rest for triplet, rest in found.items() if rest[0] >= min_score}
    return Extraction(
        triplets=list(kept),
        raw=format_target(found),
        status=AnswerStatus.OK,
        truncated=truncated,
        scores=[score for score, _ in kept.values()] if with_scores else [],
        spans=[spans for _, spans in kept.values()],
    )
