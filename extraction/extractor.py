"""Sentences to triplets with a model: prompts, decoding under a constraint or freely, reading of answers."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, overload

import torch
from transformers import GenerationConfig, LogitsProcessorList

from extraction.calibration import Calibration
from extraction.decoding.decoder import (
    NOT_FINITE,
    Answer,
    ConstrainedDecoder,
    Statistics,
)
from extraction.decoding.grammar import AnswerGrammar, Constraint
from extraction.merging import merge_answers
from extraction.parsing import parse_answer
from extraction.result import Extraction
from extraction.splitting import asks_for_triplets, questions, questions_for_each, split_sentence
from task.prompt import EncodedPrompt, build_prompt, encode_prompt
from task.relations import relations_room
from task.schema import Schema
from task.triplets import combination_of
from utils.common_utils import UserError

logger = logging.getLogger(__name__)

GRAMMARS = 64  # kept, of the parts of a schema and of requests with schemas of their own


def _finite(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Pass logits on to transformers' generation, if they are finite."""
    if not scores.amax(-1).isfinite().all():
        raise FloatingPointError(NOT_FINITE)
    return scores


class _Piece(NamedTuple):
    """A part of a sentence that fits into a prompt."""

    sentence: int  # its index
    place: int  # among the sentence's pieces
    offset: int  # in the sentence
    text: str
    input_ids: list[int]
    constraint: Constraint


_Part = tuple[_Piece, Answer | str]  # with its answer, or what went wrong


class TripletExtractor:
    """Extracts triplets from sentences.

    Args:
        model: a ChatGLM with its head, with or without an adapter; put into evaluation mode during a call.
        tokenizer: the model's `ChatGLMTokenizer`.
        max_source_seq_len: prompt tokens at most. Under a constraint a longer sentence is split at its
            sentence ends; else it is cut at its end and flagged.
        max_new_tokens: answer tokens at most, `<eop>` included.
        batch_size: sentences generated together.
        autocast_dtype: half precision to compute in under autocast, as in training; None for the weights'
            own, or the caller's autocast.
        constraint: what answers to triplet prompts may hold; None lets the model write what it likes and
            repairs its answers. Other prompts are always answered freely.
        with_scores: compute the triplets' probabilities; needs a constraint.
        min_score: leave out triplets below this probability.
        calibration: of the probabilities; None leaves them as the model has them.
        half_right_score: triplets with a score below it are rather wrong than right (see `Reliability`). Not
            acted upon here: those who show results mark them.
        relations_per_prompt: how many of the wanted relations a prompt names at most, as the adapter was
            trained; a sentence is asked for so many at a time then. 0: prompts name none.
        passes: 2: what is found in a sentence is asked for once more, each relation for itself.

    Raises:
        UserError: prompt and answer together are longer than the model's context, or the relations leave no
            room for a sentence.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_source_seq_len: int,
        max_new_tokens: int,
        batch_size: int = 8,
        autocast_dtype: torch.dtype | None = None,
        constraint: Constraint | None = None,
        with_scores: bool = False,
        min_score: float = 0.0,
        calibration: Calibration | None = None,
        half_right_score: float | None = None,
        relations_per_prompt: int = 0,
        passes: int = 1,
    ) -> None:
        limit = model.config.max_position_embeddings
        if max_source_seq_len + max_new_tokens > limit:
            raise UserError(
                f"输入长度 {max_source_seq_len} 加输出长度 {max_new_tokens} 超过了模型的上限 {limit}，"
                "请调小 max_new_tokens。"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.max_source_seq_len = max_source_seq_len
        self.batch_size = batch_size
        self.autocast_dtype = autocast_dtype
        self.constraint = constraint
        self.with_scores = with_scores or min_score > 0
        self.min_score = min_score
        self.calibration = calibration
        self.half_right_score = half_right_score
        self.relations_per_prompt = relations_per_prompt
        self.passes = passes
        if relations_per_prompt and self.schema is not None:
            relations_room(tokenizer, self.schema, relations_per_prompt, max_source_seq_len)
        self.grammar = lru_cache(GRAMMARS)(self._make_grammar)
        self.statistics = Statistics()  # of constrained decoding
        self.generation_config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    @property
    def schema(self) -> Schema | None:
        """The combinations that answers are limited to; None if they are not."""
        return self.constraint.schema if self.constraint is not None else None

    def extract_one(self, sentence: str, on_piece: Callable[[int, int], None] | None = None) -> Extraction:
        """Extract the triplets of one sentence; see `stream`."""
        return dict(self.stream([sentence], on_piece=on_piece))[0]

    @overload
    def extract(self, sentences: str, prompts: None = None) -> Extraction: ...  # type: ignore[overload-overlap]

    @overload
    def extract(self, sentences: Sequence[str], prompts: Sequence[str] | None = None) -> list[Extraction]: ...

    def extract(
        self, sentences: str | Sequence[str], prompts: Sequence[str] | None = None
    ) -> Extraction | list[Extraction]:
        """Extract the triplets of a sentence, or of several; see `stream`.

        Returns:
            The sentence's extraction; one per sentence, in their order.
        """
        if isinstance(sentences, str):
            return self.extract_one(sentences)
        extractions = dict(self.stream(sentences, prompts))
        return [extractions[index] for index in range(len(sentences))]

    def stream(
        self,
        sentences: Sequence[str],
        prompts: Sequence[str] | None = None,
        on_piece: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Extraction]]:
        """Extract the triplets of sentences.

        Args:
            sentences: the texts.
            prompts: the whole context of each sentence, for instructions other than the default one.
            on_piece: while sentences are in work that had to be split, called with the number of pieces
                answered and of all found so far: a sentence of a megabyte has some thousand.

        Yields:
            The index of a sentence and its extraction, as they finish. A sentence whose generation fails
            carries its `error`; the others are not affected.

        Raises:
            torch.OutOfMemoryError: even a single sentence does not fit into memory.
            ValueError: there are not as many prompts as sentences.
        """
        prompts = [build_prompt(sentence) for sentence in sentences] if prompts is None else prompts
        if len(prompts) != len(sentences):
            raise ValueError(f"{len(prompts)} prompts for {len(sentences)} sentences")
        constrained = [index for index, prompt in enumerate(prompts) if self._is_constrained(prompt)]
        free = sorted({*range(len(prompts))} - {*constrained})
        was_training = self.model.training
        self.model.eval()
        try:
            yield from self._stream_free({index: prompts[index] for index in free})
            yield from self._stream_constrained({index: prompts[index] for index in constrained}, on_piece)
        finally:
            self.model.train(was_training)

    def _is_constrained(self, prompt: str) -> bool:
        return self.constraint is not None and asks_for_triplets(prompt)

    @torch.no_grad()
    def adapter_changes_logits(self) -> bool:
        """Tell whether the model, a `PeftModel`, answers a prompt with other logits than its base does."""
        prompt = encode_prompt(self.tokenizer, build_prompt("句子"), self.max_source_seq_len)
        input_ids = torch.tensor([prompt.input_ids], device=self.model.device)
        with self.autocast():
            adapted = self.model(input_ids=input_ids).logits
            with self.model.disable_adapter():
                return not torch.equal(adapted, self.model(input_ids=input_ids).logits)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the model computes."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.model.device.type, self.autocast_dtype)

    # --- under the constraint

    def _make_grammar(self, constraint: Constraint) -> AnswerGrammar:
        return AnswerGrammar(self.tokenizer, self.model.config.vocab_size, constraint)

    @property
    def _grammar(self) -> AnswerGrammar:
        assert self.constraint is not None
        return self.grammar(self.constraint)

    def fits(self, sentence: str) -> bool:
        """Tell whether a sentence need not be split."""
        asked = [(build_prompt(sentence), self.constraint)]
        if self.constraint is not None:
            asked = [*questions(build_prompt(sentence), self.constraint, self.relations_per_prompt)]
        return all(len(self.tokenizer.prompt_ids(prompt)) <= self.max_source_seq_len for prompt, _ in asked)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """What compiles grammars; it lives as long as the extractor, for leaving one takes time."""
        cores = os.cpu_count() or 1
        # On a CPU the model's own threads want the cores.
        threads = min(4, max(1, cores // 4)) if self.model.device.type == "cuda" else 1
        return ThreadPoolExecutor(threads, thread_name_prefix="grammar")

    def _stream_constrained(
        self, prompts: dict[int, str], on_piece: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[int, Extraction]]:
        if self.constraint is None:
            return
        size, wanted = self.relations_per_prompt, self.constraint
        asked = {index: questions(prompt, wanted, size) for index, prompt in prompts.items()}
        kept: dict[int, list[_Part]] = defaultdict(list)
        for number in range(1, self.passes + 1):
            again = {}
            for index, parts in self._ask(asked, on_piece):
                kept[index] += parts
                more = self._ask_again(prompts[index], kept[index]) if number < self.passes else []
                if more:
                    again[index] = more
                else:
                    yield index, self._merge(kept.pop(index), self.min_score)
            asked = again

    def _ask_again(self, prompt: str, parts: list[_Part]) -> list[tuple[str, Constraint]]:
        """Return the questions for the relations that answers hold, each for itself; none after a failure."""
        assert self.constraint is not None
        found = {combination_of(triplet) for triplet in self._merge(parts, 0.0).triplets}
        return questions_for_each(prompt, self.constraint, found, self.relations_per_prompt)

    def _ask(
        self,
        asked: dict[int, list[tuple[str, Constraint]]],
        on_piece: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, list[_Part]]]:
        """Answer the questions for sentences; yield a sentence's index with all that came, in order."""
        pieces: list[_Piece] = []

        def tell(answered: int) -> None:
            if on_piece is not None and len(pieces) > sum(map(len, asked.values())):
                on_piece(answered, len(pieces))

        for index, pairs in asked.items():
            begun = len(pieces)
            try:
                for prompt, part in pairs:
                    for split in split_sentence(self.tokenizer, prompt, self.max_source_seq_len):
                        pieces.append(_Piece(index, len(pieces) - begun, *split, part))
                        tell(0)
            except UserError as error:
                del pieces[begun:]
                yield index, [(_Piece(index, 0, 0, "", [], Constraint()), str(error))]
        pieces.sort(key=lambda piece: len(piece.input_ids))
        counts = Counter(piece.sentence for piece in pieces)
        parts: dict[int, list[_Part]] = defaultdict(list)
        for number, (piece, answer) in enumerate(self._answer(pieces), start=1):
            tell(number)
            found = parts[piece.sentence]
            found.append((piece, answer))
            if len(found) == counts[piece.sentence]:
                yield piece.sentence, sorted(parts.pop(piece.sentence), key=lambda part: part[0].place)

    def _answer(self, waiting: list[_Piece]) -> Iterator[tuple[_Piece, Answer | str]]:
        """Decode pieces; yield an answer, or what went wrong, for each."""
        while waiting:
            answered: set[int] = set()
            failed = False
            try:
                for place, answer in self._decode(waiting, self.batch_size):
                    answered.add(place)
                    yield waiting[place], answer
            except (torch.OutOfMemoryError, MemoryError):
                rows = min(self.batch_size, len(waiting) - len(answered))
                if rows == 1:
                    raise
                self.batch_size = rows // 2  # for good
                logger.warning("一批 %d 句的生成内存不足，改为一批 %d 句，接着做。", rows, self.batch_size)
            except Exception as error:
                failed = True
                logger.debug("generation failed", exc_info=True)
                logger.warning("一批句子生成失败（%s），改为逐句生成。", error)
            # Outside the handlers: while one runs, the traceback keeps the failed batch's tensors alive.
            waiting = [piece for place, piece in enumerate(waiting) if place not in answered]
            if waiting and torch.cuda.is_available():
                torch.cuda.empty_cache()
            if failed:
                for piece in waiting[: self.batch_size]:  # those that were being decoded
                    yield piece, self._answer_alone(piece)
                waiting = waiting[self.batch_size :]

    def _answer_alone(self, piece: _Piece) -> Answer | str:
        """Decode a piece; return the answer, or what went wrong."""
        try:
            return next(answer for _, answer in self._decode([piece], 1))
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            logger.debug("generation failed", exc_info=True)
            return f"{type(error).__name__}: {error}"

    def make_decoder(self, batch_size: int | None = None, *, at_once: bool = False) -> ConstrainedDecoder:
        """Return a decoder for triplet prompts, which the caller feeds; calls of `step` need `autocast`.

        Args:
            batch_size: rows; the extractor's own when None.
            at_once: see there.
        """
        return ConstrainedDecoder(
            self.model,
            self._grammar,
            max_new_tokens=self.generation_config.max_new_tokens,
            batch_size=batch_size or self.batch_size,
            with_scores=self.with_scores,
            at_once=at_once,
            statistics=self.statistics,
            pool=self._pool,
        )

    def _decode(self, pieces: list[_Piece], batch_size: int) -> Iterator[tuple[int, Answer]]:
        """Decode pieces; yield their places in the list and the answers, as they finish."""
        decoder = self.make_decoder(batch_size)
        answers = decoder.decode(
            [piece.input_ids for piece in pieces],
            [piece.text for piece in pieces],
            [self.grammar(piece.constraint) for piece in pieces],
        )
        while True:
            with self.autocast():  # not while the caller has its turn
                result = next(answers, None)
            if result is None:
                return
            yield result

    def _merge(self, parts: list[_Part], min_score: float) -> Extraction:
        """Join the answers to the pieces of a sentence."""
        answers: list[tuple[int, str, Answer]] = []
        for piece, answer in parts:
            if isinstance(answer, str):
                return Extraction(error=answer)
            answers.append((piece.offset, piece.text, answer))
        return merge_answers(self._grammar, answers, self.with_scores, min_score, self.calibration)

    # --- freely

    def _stream_free(self, prompts: dict[int, str]) -> Iterator[tuple[int, Extraction]]:
        encoded: dict[int, EncodedPrompt] = {}
        for index, prompt in prompts.items():
            try:
                encoded[index] = encode_prompt(self.tokenizer, prompt, self.max_source_seq_len)
            except UserError as error:
                yield index, Extraction(error=str(error))
        # Prompts of like length share a batch, so that little of it is padding.
        order = sorted(encoded, key=lambda index: len(encoded[index].input_ids))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            yield from zip(batch, self.answer_freely([encoded[index] for index in batch]), strict=True)

    def answer_freely(self, prompts: list[EncodedPrompt]) -> list[Extraction]:
        """Generate a batch without a constraint; if that fails, each of its sentences alone.

        Raises:
            torch.OutOfMemoryError: even a single sentence does not fit into memory.
        """
        try:
            answers = self._generate([prompt.input_ids for prompt in prompts])
        except (torch.OutOfMemoryError, MemoryError):
            if len(prompts) == 1:
                raise
            logger.warning("一批 %d 句的生成内存不足，改为逐句生成；可调小批次大小。", len(prompts))
        except Exception as error:
            logger.debug("generation failed", exc_info=True)
            if len(prompts) == 1:
                return [Extraction(error=f"{type(error).__name__}: {error}")]
            logger.warning("一批 %d 句生成失败（%s），改为逐句生成。", len(prompts), error)
        else:
            return [self._read(*pair) for pair in zip(prompts, answers, strict=True)]
        # Outside the handlers: while one runs, the traceback keeps the failed batch's tensors alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return [extraction for prompt in prompts for extraction in self.answer_freely([prompt])]

    # Not inference_mode: layers may keep what they make here (4-bit on the CPU does), and its tensors would
    # be useless to a training step after an evaluation.
    @torch.no_grad()
    def _generate(self, prompts: list[list[int]]) -> list[list[int]]:
        """Return the ids that greedy decoding appends to each prompt, `<eop>` and padding included."""
        width = max(map(len, prompts))
        padding = self.tokenizer.pad_token_id
        input_ids = [[padding] * (width - len(prompt)) + prompt for prompt in prompts]
        attention_mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        device = self.model.device
        with self.autocast():
            output_ids = self.model.generate(
                input_ids=torch.tensor(input_ids, device=device),
                attention_mask=torch.tensor(attention_mask, device=device),
                generation_config=self.generation_config,
                logits_processor=LogitsProcessorList([_finite]),
            )
        return output_ids[:, width:].tolist()

    def _read(self, prompt: EncodedPrompt, answer: list[int]) -> Extraction:
        """Turn the ids of an answer into triplets."""
        truncated = self.tokenizer.eos_token_id not in answer
        if not truncated:
            answer = answer[: answer.index(self.tokenizer.eos_token_id)]
        # No clean-up: it would take the blanks before punctuation out of the values.
        raw = self.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        triplets, status = parse_answer(raw)
        return Extraction(triplets, raw, status, truncated, prompt.truncated)
