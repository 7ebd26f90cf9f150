"""The options of an extractor, for a command line, a service or a program."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExtractorOptions:
    """What is to be loaded, and how it is to answer. What is None is as in the adapter's training.

    Args:
        adapter: directory of an adapter, or of a run that has one in `model_best`; None for the bare base.
        pre_model: the base model.
        device: "cpu", "cuda" or "cuda:1"; None takes CUDA where there is one.
        batch_size: sentences generated together; on a card as many as fit, on a CPU as in training.
        load_in_4bit, load_in_8bit: keep the weights in so many bits (True, for one at most) or don't quantise
            them so (False); None: as in training, on a card that has room for it turned back into half
            precision once.
        vram_budget_gb: of the card's memory at most; all that is free when None.
        max_new_tokens: answer tokens at most.
        schema: file of the allowed combinations.
        open_schema: any predicate and types.
        free_values: subjects and objects need not be parts of the sentence.
        free_decoding: no constraint at all.
        passes: 2: what is found in a sentence is asked for once more; see `TripletExtractor`.
        with_scores: compute the triplets' probabilities, if there is a constraint.
        min_score: leave out triplets below this probability; None: what training found best on dev, where
            the relations are those of training (see `AdapterMeta`), and nothing elsewhere.
    """

    adapter: str | Path | None = None
    pre_model: str | None = None
    device: str | None = None
    batch_size: int | None = None
    load_in_4bit: bool | None = None
    load_in_8bit: bool | None = None
    vram_budget_gb: float | None = None
    max_new_tokens: int | None = None
    schema: str | Path | None = None
    open_schema: bool = False
    free_values: bool = False
    free_decoding: bool = False
    passes: int = 1
    with_scores: bool = False
    min_score: float | None = None
