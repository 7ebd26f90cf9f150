"""A sentence being decoded: what it has committed, what it drafts, which choices it asks the model for."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Hashable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, NamedTuple

from extraction.decoding import drafting
from extraction.decoding.grammar import AnswerGrammar
from extraction.decoding.source_text import SourceText
from task.triplets import KEYS, Triplet

MAX_DRAFT = 32  # tokens
_JSON = json.JSONDecoder()


@dataclass(frozen=True)
class Answer:
    """A decoded answer.

    Args:
        token_ids: what was committed, without what ends an answer.
        triplets: the whole ones, in the notation of the answer (normalised), without repetitions.
        scores: their probabilities under the constraint; empty if not asked for.
        truncated: the budget ended before the list did.
    """

    token_ids: list[int]
    triplets: list[Triplet]
    scores: list[float]
    truncated: bool


class Choice(NamedTuple):
    """A token, and the log probability of it, or of all that end the value as it does."""

    token: int
    log_probability: float


class Row:
    """A sentence being decoded.

    Args:
        key: what its answer is known by.
        prompt: ids.
        sentence: what the values come from.
        grammar: of the answer.
        max_new_tokens: tokens of the answer at most.
        with_scores: compute the probabilities of triplets.

    Attributes:
        pending: tokens committed (or of the prompt), but not yet in the cache.
        length: tokens in the cache.
        draft: a guess at what follows, as the pass under way verifies it.
        error: what went wrong with it.
    """

    def __init__(
        self,
        key: Hashable,
        prompt: list[int],
        sentence: str,
        grammar: AnswerGrammar,
        *,
        max_new_tokens: int,
        with_scores: bool,
    ) -> None:
        self.key = key
        self.grammar = grammar
        self.max_new_tokens = max_new_tokens
        self.error: Exception | None = None
        self.with_scores = with_scores
        self._prompt = prompt
        self._sentence = sentence
        self._compiled: Future[Any] | None = None
        self._matcher: Any = None
        self._begin()

    def _begin(self) -> None:
        self.pending = list(self._prompt)
        self.length = 0
        self.draft: list[int] = []
        self.committed: list[int] = []
        self.text = b""  # of the answer behind its last whole triplet
        self.triplets: list[Triplet] = []
        self.scores: list[float] = []
        self.score = 0.0  # log probability of the choices since the last whole triplet
        self.repetitions = 0  # in a row
        self.done = self.truncated = False

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self._prompt)

    @property
    def answer(self) -> Answer:
        """What there is of the answer."""
        return Answer(self.committed, self.triplets, self.scores, self.truncated)

    # --- beginning

    @property
    def is_compiling(self) -> bool:
        """Whether `compile` has been called."""
        return self._compiled is not None

    def compile(self, pool: Executor) -> None:
        """Let a thread prepare the grammar, if that has not been done."""
        if self._compiled is None:
            self.source = self.grammar.source(self._sentence)
            self._compiled = pool.submit(self._compile, self.source)

    def _compile(self, source: SourceText) -> Any:
        """Return the grammar of an answer, its opening behind it; at its beginning for the empty answer."""
        matcher = self.grammar.matcher(source)
        if self.grammar.can_have_items(source) and not matcher.consume_tokens(self.grammar.opening):
            raise RuntimeError(f"llguidance: {matcher.get_error()}")
        return matcher

    def start(self, pool: Executor) -> None:
        """Begin the answer; the grammar is compiled while the prompt is computed."""
        self.compile(pool)
        if not self.grammar.can_have_items(self.source):
            self._force()
            return
        opening = self.grammar.opening[: self.max_new_tokens]
        self.done = self.truncated = len(opening) == self.max_new_tokens
        self.committed += opening
        self.pending += opening
        self.text = self._write(opening)

    def restart(self) -> None:
        """Forget what was decoded: the row's place is needed. The same answer comes of it the next time."""
        self._begin()
        self.error = None
        self._compiled = self._matcher = None  # it has gone on with the answer

    @property
    def matcher(self) -> Any:
        """llguidance's state machine, once it is compiled."""
        if self._matcher is None:
            assert self._compiled is not None
            self._matcher = self._compiled.result()
        return self._matcher

    # --- a pass

    def prepare_draft(self) -> None:
        """Guess the tokens that follow."""
        text = drafting.draft(self.text.decode("utf-8", "ignore"), self.source.escaped, self.triplets)
        self.draft = self.grammar.vocabulary.encode(text)[:MAX_DRAFT] if text else []

    def advance(self, likeliest: list[int]) -> Generator[int, Choice, None]:
        """Commit the choices that a pass decides, and what is forced after each.

        Args:
            likeliest: the model's choices after the last pending token and after each token of the draft.

        Yields:
            The place of `likeliest` where the grammar wants another choice; it is to be sent.
        """
        self.length += len(self.pending)
        self.pending = []
        used = 0  # tokens of the draft that turned out right
        while not self.done:
            if len(self.committed) >= self.max_new_tokens:
                self.done = self.truncated = True
                break
            token = likeliest[used]
            is_consumed = not self.with_scores and self.matcher.try_consume_tokens([token]) == 1
            if not is_consumed:
                token, log_probability = yield used
                self.score += log_probability
            self._commit([token], is_consumed)
            if not (self.done or self._is_open()):
                self._force()
            new = self.pending
            if self.done or new != self.draft[used : used + len(new)]:
                break
            used += len(new)
            self.length += len(new)
            self.pending = []
        if self.pending and used < len(self.draft):  # a beginning of them may be right
            for token, drafted in zip(self.pending[:-1], self.draft[used:], strict=False):
                if token != drafted:
                    break
                self.length += 1
                self.pending = self.pending[1:]

    def _write(self, tokens: list[int]) -> bytes:
        return b"".join(self.grammar.vocabulary.token_bytes[token] for token in tokens)

    def _is_open(self) -> bool:
        """Tell whether a value can end here or go on, so that nothing is forced; False if that isn't sure.

        llguidance would find the same, in ten times the time.
        """
        before, opening, value = self.text.rpartition(b'": "')
        if (
            not (opening and before.endswith((b'"object', b'"subject')))
            or self.grammar.constraint.free_values
        ):
            return False
        try:
            return b'"' not in value and self.source.can_end_or_go_on(value.decode())
        except UnicodeDecodeError:  # in the middle of a character
            return False

    def _force(self) -> None:
        """Commit what the grammar leaves no choice about."""
        while not self.done and (forced := self.matcher.compute_ff_tokens()):
            self._commit(forced)

    def _commit(self, tokens: list[int], is_consumed: bool = False) -> None:
        """Append tokens to the answer; a triplet that ends in them may end it.

        Args:
            tokens: that the grammar allows.
            is_consumed: the matcher has taken them (one) already.
        """
        matcher = self.matcher
        room = self.max_new_tokens - len(self.committed)
        is_cut, tokens = len(tokens) > room, tokens[:room]
        table = self.grammar.vocabulary.token_bytes
        written = [table[token] for token in tokens]
        whole = b"".join(written)
        # One by one only where a triplet may end.
        if b"}" in whole:
            parts = [([token], text) for token, text in zip(tokens, written, strict=True)]
        else:
            parts = [(tokens, whole)]
        for part, text in parts:
            if not (is_consumed or matcher.consume_tokens(part)):
                raise RuntimeError(f"llguidance: {matcher.get_error()}")
            self.committed += part
            self.pending += part
            self.text += text
            if b"}" in text:
                self._collect()
            if self.done:
                return
        self.done = matcher.is_stopped() or is_cut
        self.truncated = is_cut

    def _collect(self) -> None:
        """Take whole triplets out of the text; a second repetition in a row ends the answer."""
        while (start := self.text.find(b'{"')) >= 0:
            text = self.text[start:].decode("utf-8", "ignore")
            try:
                fields, end = _JSON.raw_decode(text)
            except ValueError:
                return  # a brace inside a value
            self.text = self.text[start + len(text[:end].encode()) :]
            triplet = Triplet(*(fields[key] for key in KEYS))
            if triplet in self.triplets:
                self.repetitions += 1
                self.done = self.done or self.repetitions == 2
            else:
                self.repetitions = 0
                self.triplets.append(triplet)
                self.scores += [min(1.0, math.exp(self.score))] if self.with_scores else []
            self.score = 0.0
