"""Sentences to triplets with a model: prompts, batched greedy generation, reading of the answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig

from extraction.parsing import AnswerStatus, parse_answer
from utils.common_utils import UserError
from utils.prompt import EncodedPrompt, build_prompt, encode_prompt
from utils.triplets import Triplet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """What came of one sentence.

    Args:
        triplets: without duplicates, in the order of the answer. Empty both for "nothing to extract" and for
            an answer that gave no result; `problem` tells them apart.
        raw: the answer as generated, without `<eop>`.
        status: how the answer was read.
        truncated: no `<eop>` came within the token budget.
        source_truncated: the sentence was cut at its end to fit the prompt's length.
        error: what stopped the generation of this sentence; then there is no answer.
    """

    triplets: list[Triplet] = field(default_factory=list)
    raw: str = ""
    status: AnswerStatus = AnswerStatus.INVALID
    truncated: bool = False
    source_truncated: bool = False
    error: str | None = None

    @property
    def problem(self) -> str | None:
        """Why `triplets` is not a result, in Chinese; None if it is one."""
        if self.error is not None:
            return f"生成失败：{self.error}"
        if self.status is AnswerStatus.INVALID:
            cut = "在长度上限内没有结束，" if self.truncated else ""
            return f"模型的回答{cut}不是可用的三元组 JSON"
        return None


class TripletExtractor:
    """Extracts triplets from sentences.

    Args:
        model: a ChatGLM with its head, with or without an adapter; put into evaluation mode during a call.
        tokenizer: the model's `ChatGLMTokenizer`.
        max_source_seq_len: prompt tokens at most; a longer sentence is cut at its end and flagged.
        max_new_tokens: answer tokens at most, `<eop>` included.
        batch_size: sentences generated together.
        autocast_dtype: half precision to compute in under autocast, as in training; None for the weights'
            own, or the caller's autocast.

    Raises:
        UserError: prompt and answer together are longer than the model's context.
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
    ) -> None:
        limit = model.config.max_sequence_length
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
        self.generation_config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    def extract_one(self, sentence: str) -> Extraction:
        """Extract the triplets of one sentence."""
        return self.extract([sentence])[0]

    def extract(
        self,
        sentences: Sequence[str],
        prompts: Sequence[str] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Extraction]:
        """Extract the triplets of sentences.

        Args:
            sentences: the texts.
            prompts: the whole context of each sentence, for instructions other than the default one.
            on_progress: called after each batch with the number of sentences in it.

        Returns:
            One extraction per sentence, in their order. A sentence whose generation fails carries its
            `error`; the others are not affected.

        Raises:
            torch.OutOfMemoryError: even a single sentence does not fit into memory.
            ValueError: there are not as many prompts as sentences.
        """
        prompts = [build_prompt(sentence) for sentence in sentences] if prompts is None else prompts
        if len(prompts) != len(sentences):
            raise ValueError(f"{len(prompts)} prompts for {len(sentences)} sentences")
        extractions: list[Extraction] = [Extraction()] * len(prompts)
        encoded: dict[int, EncodedPrompt] = {}
        for index, prompt in enumerate(prompts):
            try:
                encoded[index] = encode_prompt(self.tokenizer, prompt, self.max_source_seq_len)
            except UserError as error:
                extractions[index] = Extraction(error=str(error))
        # Prompts of like length share a batch, so that little of it is padding.
        order = sorted(encoded, key=lambda index: len(encoded[index].input_ids))

        was_training = self.model.training
        self.model.eval()
        try:
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                results = self._extract_batch([encoded[index] for index in batch])
                for index, extraction in zip(batch, results, strict=True):
                    extractions[index] = extraction
                if on_progress is not None:
                    on_progress(len(batch))
        finally:
            self.model.train(was_training)
        return extractions

    @torch.no_grad()
    def adapter_changes_logits(self) -> bool:
        """Tell whether the model, a `PeftModel`, answers a prompt with other logits than its base does."""
        prompt = encode_prompt(self.tokenizer, build_prompt("句子"), self.max_source_seq_len)
        input_ids = torch.tensor([prompt.input_ids], device=self.model.device)
        with self._autocast():
            adapted = self.model(input_ids=input_ids).logits
            with self.model.disable_adapter():
                return not torch.equal(adapted, self.model(input_ids=input_ids).logits)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.model.device.type, self.autocast_dtype)

    def _extract_batch(self, prompts: list[EncodedPrompt]) -> list[Extraction]:
        """Generate a batch; if that fails, each of its sentences alone."""
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
        return [extraction for prompt in prompts for extraction in self._extract_batch([prompt])]

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
        with self._autocast():
            output_ids = self.model.generate(
                input_ids=torch.tensor(input_ids, device=device),
                attention_mask=torch.tensor(attention_mask, device=device),
                generation_config=self.generation_config,
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
