"""The training data of the embedded base: samples drawn, packed and cut into batches; who draws which."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn

from bases.chatglm import ChatGLMConfig, ChatGLMTokenizer
from data_handle.data_preprocess import IGNORE_INDEX, Features
from data_handle.packing import assign_rows, pack
from tiny_base.corpus.heldout import HeldOut
from tiny_base.corpus.tasks import SHORT_BLANK, Sample, TaskWriter

COPYING_CHUNKS = 30  # chunks over which the share of copying falls from 30 % to its usual 4 %
ROW_LENGTHS = (256, 512)  # tokens of a packed row; what fits into neither is left out
CHUNK = 2048  # samples drawn and packed together


class Ranks:
    """The processes of a run started by torchrun, or this one alone."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if self.size > 1:
            dist.init_process_group("gloo")

    def average(self, parameters: list[nn.Parameter], figures: list[float]) -> list[float]:
        """Replace the gradients by their means over all processes.

        Args:
            parameters: of the model.
            figures: further numbers of this process.

        Returns:
            The means of the figures over all processes.
        """
        if self.size == 1:
            return figures
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat(
            [
                *(gradient.flatten() for gradient in gradients),
                torch.tensor(figures, device=gradients[0].device),
            ]
        )
        dist.all_reduce(flat)
        flat /= self.size
        parts = flat[: -len(figures)].split([gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, parts, strict=True):
            gradient.copy_(mean.view_as(gradient))
        return flat[-len(figures) :].tolist()


def encode_sample(tokenizer: ChatGLMTokenizer, sample: Sample) -> Features:
    """Encode a sample as the product encodes its training lines: context, blank, <sop>, answer, <eop>."""
    blank = tokenizer.mask_token_id if sample.blank == SHORT_BLANK else tokenizer.gmask_token_id
    context = [*tokenizer.encode_plain(sample.before), blank]
    if sample.after:
        context += tokenizer.encode_plain(sample.after)
    context.append(tokenizer.bos_token_id)
    answer = [*tokenizer.encode_plain(sample.target), tokenizer.eos_token_id]
    return Features(context + answer, [IGNORE_INDEX] * len(context) + answer)


def chunk_batches(
    tokenizer: ChatGLMTokenizer,
    config: ChatGLMConfig,
    held_out: HeldOut,
    seed: int,
    chunk: int,
    batch_tokens: int,
) -> list[dict[str, torch.Tensor]]:
    """Draw one chunk of samples, pack them into rows and cut it into batches, in a seeded order.

    There are two lengths of row, and all batches of a length have the same shape, so that a compiled model
    has two shapes to compile for. Short samples fill up the long rows first. The few rows that fill no batch
    are left out.
    """
    copying = max(0.04, 0.3 * (1 - chunk / COPYING_CHUNKS))
    writer = TaskWriter(f"{seed}/{chunk}", held_out, copying)
    samples = [encode_sample(tokenizer, writer.sample()) for _ in range(CHUNK)]
    short, long = ROW_LENGTHS
    samples = [sample for sample in samples if len(sample.input_ids) <= long]
    long_rows = [  # longest first: the row of a long sample begins with it
        row
        for row in assign_rows([len(sample.input_ids) for sample in samples], long)
        if len(samples[row[0]].input_ids) > short
    ]
    placed = {index for row in long_rows for index in row}
    rest = [index for index in range(len(samples)) if index not in placed]
    short_rows = [
        [rest[place] for place in row]
        for row in assign_rows([len(samples[index].input_ids) for index in rest], short)
    ]
    batches = []
    for row_length, assigned in ((long, long_rows), (short, short_rows)):
        rows = [[samples[index] for index in row] for row in assigned]
        writer.rng.shuffle(rows)
        count = max(1, batch_tokens // row_length)
        batches += [
            pack(rows[start : start + count], row_length, config)
            for start in range(0, len(rows) - count + 1, count)
        ]
    writer.rng.shuffle(batches)
    return batches


def stream(
    tokenizer: ChatGLMTokenizer,
    config: ChatGLMConfig,
    held_out: HeldOut,
    seed: int,
    batch_tokens: int,
    first_chunk: int,
    ranks: Ranks,
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Yield (chunk, batch) without end; each process draws chunks of its own."""
    chunk = first_chunk + ranks.rank
    while True:
        for batch in chunk_batches(tokenizer, config, held_out, seed, chunk, batch_tokens // ranks.size):
            yield chunk, batch
        chunk += ranks.size
