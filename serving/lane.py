"""The rows of one model: which pieces they decode, what becomes of the answers. For the engine's thread."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch

from extraction.decoding.decoder import Answer, ConstrainedDecoder
from extraction.extractor import TripletExtractor
from extraction.merging import merge_answers
from extraction.result import Extraction
from extraction.splitting import questions, split_sentence
from serving.jobs import Job, Outcome, Piece, Question, Work
from serving.metrics import Metrics
from task.prompt import EncodedPrompt, encode_prompt
from utils.common_utils import UserError

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = "内存不足，这一句单独生成也放不下"

Turn = tuple[Work, Piece]


class Lane:
    """One model's rows.

    Args:
        name: of the model, as requests have it.
        extractor: with its constraint and lengths.
        activate: makes this lane's adapter the one that the shared base answers with.
        metrics: counts along.
    """

    def __init__(
        self, name: str, extractor: TripletExtractor, activate: Callable[[], None], metrics: Metrics
    ) -> None:
        self.name = name
        self.extractor = extractor
        self.capacity = extractor.batch_size
        self.activate = activate
        self.metrics = metrics
        self._turns: deque[Iterator[Turn]] = deque()
        self._rows: dict[Hashable, Turn] = {}  # by what the decoder knows them by
        self._free: list[Turn] = []  # without a constraint: answered at the next step, as a whole
        self._alone: deque[Turn] = deque()  # failed in company, not yet tried alone
        self._next_key = 1
        self._decoder: ConstrainedDecoder | None = None

    @property
    def rows(self) -> int:
        """Pieces in work."""
        return len(self._rows) + len(self._free)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._turns or self._rows or self._free or self._alone)

    def take(self, job: Job) -> None:
        """Put a job behind those that wait."""
        self._turns.append(self._pieces(job))

    def reset(self) -> None:
        """Forget everything that is to do."""
        self._turns.clear()
        self._rows.clear()
        self._free.clear()
        self._alone.clear()
        self._decoder = None

    def step(self) -> None:
        """Give free rows to those whose turn it is, and compute one pass."""
        self._drop_cancelled()
        self._fill()
        self.activate()
        if self._free:
            self._answer_freely()
        if self._rows:
            self._decode()

    # --- what to decode

    def _pieces(self, job: Job) -> Iterator[Turn]:
        """Yield the pieces of a job's sentences, each made when there is a row for it."""
        tokenizer, room = self.extractor.tokenizer, self.extractor.max_source_seq_len
        for number, question in enumerate(job.questions):
            if job.cancelled:
                return
            job.begun += 1
            self.metrics.waited(time.perf_counter() - job.submitted)
            work = Work(job, number)
            try:
                if question.constraint is None:
                    ids, work.source_truncated = encode_prompt(tokenizer, question.prompt, room)
                    yield from work.pieces(iter([Piece(0, "", ids)]))
                else:
                    yield from work.pieces(self._split(question))
            except UserError as error:  # the instruction leaves no room
                work.failure = work.failure or ("instruction", str(error))
            self._settle(work)  # it may have failed, or have been waiting only for this

    def _split(self, question: Question) -> Iterator[Piece]:
        """Yield what a question that has a constraint is asked as."""
        assert question.constraint is not None
        extractor = self.extractor
        for prompt, part in questions(question.prompt, question.constraint, extractor.relations_per_prompt):
            for piece in split_sentence(extractor.tokenizer, prompt, extractor.max_source_seq_len):
                yield Piece(*piece, part)

    def _fill(self) -> None:
        """Put pieces into the free rows."""
        if self._alone:  # with nobody else: whose fault it is shows then
            if not self.rows:
                self._add(self._alone.popleft())
            return
        while self.rows < self.capacity and (turn := self._next_turn()):
            self._add(turn)

    def _next_turn(self) -> Turn | None:
        """Return the next piece of the job whose turn it is: a long one does not hold up the others."""
        while self._turns:
            turns = self._turns.popleft()
            if (turn := next(turns, None)) is not None:
                self._turns.append(turns)
                return turn
        return None

    def _add(self, turn: Turn) -> None:
        work, piece = turn
        if piece.constraint is None:
            self._free.append(turn)
            return
        if self._decoder is None:
            self._decoder = self.extractor.make_decoder(self.capacity, at_once=True)
        self._rows[self._next_key] = turn
        self._decoder.add(
            self._next_key,
            piece.input_ids,
            piece.text,
            grammar=self.extractor.grammar(piece.constraint),
            with_scores=work.question.with_scores,
        )
        self._next_key += 1

    def _drop_cancelled(self) -> None:
        """Free the rows of jobs that nobody waits for."""
        for key in [key for key, (work, _) in self._rows.items() if work.job.cancelled]:
            del self._rows[key]
            if self._decoder is not None:
                self._decoder.cancel(key)
        self._free = [turn for turn in self._free if not turn[0].job.cancelled]
        self._alone = deque(turn for turn in self._alone if not turn[0].job.cancelled)

    # --- what comes of it

    def _decode(self) -> None:
        """Run a pass, and take the answers that are finished."""
        assert self._decoder is not None
        finished: list[tuple[Any, Answer | Exception]] | None = None
        try:
            with self.extractor.autocast():
                finished = self._decoder.step()
        except (torch.OutOfMemoryError, MemoryError):
            kind, message = "out_of_memory", OUT_OF_MEMORY
        except Exception as error:
            logger.debug("generation failed", exc_info=True)
            kind, message = "generation", f"{type(error).__name__}: {error}"
        if finished is None:  # outside the handlers: there, the traceback keeps the failed pass's tensors
            self._start_anew(kind, message)
            return
        for key, answer in finished:
            work, piece = self._rows.pop(key)
            if isinstance(answer, Exception):
                work.fail("generation", f"{type(answer).__name__}: {answer}")
            else:
                work.take(piece, answer)
            self._settle(work)
        self._show_beginnings()

    def _show_beginnings(self) -> None:
        """Deliver what there is of the answers that somebody wants to see grow."""
        growing: dict[Work, dict[int, tuple[Piece, Answer]]] = {}
        if self._decoder is None or not any(work.job.growing for work, _ in self._rows.values()):
            return
        for key, answer in self._decoder.unfinished():
            work, piece = self._rows[key]
            if work.job.growing and not work.delivered:
                growing.setdefault(work, {})[piece.place] = piece, answer
        for work, unfinished in growing.items():
            extraction = self._merge(work, work.beginning(unfinished))
            if len(extraction.triplets) > work.shown:
                work.shown = len(extraction.triplets)
                work.job.deliver(work.number, Outcome(extraction, whole=False))

    def _start_anew(self, kind: str, message: str) -> None:
        """After a failed pass: half the rows if memory was short, else one by one; alone, it is an error."""
        failed = list(self._rows.values())
        self._rows.clear()
        self._decoder = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(failed) == 1:
            failed[0][0].fail(kind, message)
            self._settle(failed[0][0])
        elif kind == "out_of_memory":
            self.capacity = max(1, len(failed) // 2)
            logger.warning("内存不足，一起生成的行数从 %d 减到 %d。", len(failed), self.capacity)
            self._turns.appendleft(iter(failed))
        else:
            logger.warning("一批句子生成失败（%s），改为逐句生成。", message)
            self._alone += failed

    def _answer_freely(self) -> None:
        """Answer the prompts that have no constraint, together."""
        turns, self._free = self._free, []
        prompts = [EncodedPrompt(piece.input_ids, work.source_truncated) for work, piece in turns]
        try:
            extractions = self.extractor.answer_freely(prompts)
        except (torch.OutOfMemoryError, MemoryError):
            extractions = [Extraction(error=OUT_OF_MEMORY)] * len(turns)
        for (work, piece), extraction in zip(turns, extractions, strict=True):
            tokens = len(self.extractor.tokenizer.encode_plain(extraction.raw))
            failure = "generation" if extraction.error is not None else None
            self._deliver(work, Outcome(extraction, len(piece.input_ids), tokens, failure))

    def _settle(self, work: Work) -> None:
        """Deliver a question's outcome as soon as it is there."""
        if work.delivered or not work.done:
            return
        if work.failure is not None:
            kind, message = work.failure
            self._deliver(work, Outcome(Extraction(error=message), failure=kind))
            return
        extraction = self._merge(work, sorted(work.parts, key=lambda part: part[0].place))
        prompt_tokens = sum(len(piece.input_ids) for piece, _ in work.parts)
        answer_tokens = sum(len(answer.token_ids) for _, answer in work.parts)
        self._deliver(work, Outcome(extraction, prompt_tokens, answer_tokens))

    def _merge(self, work: Work, parts: list[tuple[Piece, Answer]]) -> Extraction:
        """Return what the answers to a sentence's pieces come to."""
        question = work.question
        assert question.constraint is not None
        named = [(piece.offset, piece.text, answer) for piece, answer in parts]
        grammar = self.extractor.grammar(question.constraint)
        return merge_answers(
            grammar, named, question.with_scores, question.min_score, self.extractor.calibration
        )

    def _deliver(self, work: Work, outcome: Outcome) -> None:
        if work.delivered or work.job.cancelled:
            return
        work.delivered = True
        extraction = outcome.extraction
        kind = "error" if extraction.problem else "truncated" if extraction.truncated else "ok"
        self.metrics.sentence(self.name, kind, outcome.prompt_tokens, outcome.answer_tokens)
        if outcome.failure is not None:
            self.metrics.failed(outcome.failure)
        work.job.finished += 1
        work.job.deliver(work.number, outcome)
