"""Evaluation on dev: loss over its target tokens, triplets scored; the best adapter is kept."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from bases.fsdp import unsharded
from bases.interface import IGNORE_INDEX
from data_handle.data_loader import length_sorted_batches
from extraction.decoding.grammar import Constraint
from extraction.evaluation.evaluate import Evaluation, score
from extraction.evaluation.tuning import Tuning, tune
from extraction.loading import make_extractor
from glm_config import ProjectConfig
from task.prompt import split_context
from task.triplets import is_triplet_target
from training.run import Run
from training.saving import save_best
from training.schedule import is_due
from utils.common_utils import log


def is_evaluation_due(run: Run) -> bool:
    """Tell whether the step just done is followed by an evaluation: every `eval_steps`, and at the end."""
    return run.is_over_an_epoch or is_due(run.state.global_step, run.config.eval_steps)


def is_evaluation_left(run: Run) -> bool:
    """Tell whether an earlier run gave its last evaluation up, or what it found is not here."""
    state = run.state
    return state.evaluation_due or (state.global_step >= run.total_steps and not state.best_score)


def evaluate(run: Run) -> None:
    """Measure dev loss and triplet F1, and keep the adapter if it is the best so far (all processes).

    Generation runs on the main process only; the others wait for its figures. A stop gives the evaluation
    up; the state remembers that it is due.
    """
    state, started = run.state, time.monotonic()
    state.evaluation_due = True
    with run.log.paused("评估"):
        with evaluating(run):
            values = measure(run, run.config.eval_samples)[0]
            if values is None:
                return
            result = score_of(run.config, values)
            better = all(map(math.isfinite, result)) and result > state.best_score
            better = run.is_main and better and save_best(run, values)
        result, better = broadcast_object_list([result, better])
        state.evaluation_due = False
        if better:
            state.best_score, state.best_step = result, state.global_step
        state.evaluations_without_gain = 0 if better else state.evaluations_without_gain + 1
        run.log.record("eval", state.global_step, values)
        note = "目前最佳，已保存" if better else f"最佳在第 {state.best_step} 步"
        run.log.say(
            f"评估 步 {state.global_step} | {describe_scores(values)} | "
            f"用时 {time.monotonic() - started:.0f} 秒 | {note}"
        )
        run.accelerator.wait_for_everyone()


@contextlib.contextmanager
def evaluating(run: Run) -> Iterator[None]:
    """Put the model into evaluation mode, with all its weights in every process."""
    run.model.eval()
    try:
        with unsharded(run.model):
            yield
    finally:
        run.model.train()


def measure(
    run: Run, samples: int | None
) -> tuple[dict[str, float] | None, Evaluation | None, Tuning | None]:
    """Measure the present adapter (all processes).

    Args:
        run: in evaluation mode.
        samples: dev lines to generate for; None for all, 0 for none.

    Returns:
        the figures, in the main process those of the triplets among them, the whole evaluation there, and
        with all lines what they teach about scores; no figures if a process was asked to stop.
    """
    dev_loss = _measure_loss(run)
    if dev_loss is None:
        return None, None, None
    evaluation, tuning = _answer_dev(run, samples) if run.is_main and samples != 0 else (None, None)
    if run.is_stopping():
        return None, None, None
    scores = triplet_scores(evaluation) if evaluation is not None else {}
    return {"dev_loss": dev_loss, **scores}, evaluation, tuning


def target_count(labels: torch.Tensor) -> int:
    """Return how many labels [batch, tokens] the model has to predict (the first token's it can't)."""
    return int((labels[:, 1:] != IGNORE_INDEX).sum())


def _measure_loss(run: Run) -> float | None:
    """Return the mean loss over all target tokens of dev, or None if stopped; each process does its share."""
    accelerator, model = run.accelerator, run.accelerator.unwrap_model(run.model)
    own = run.dev.features[accelerator.process_index :: accelerator.num_processes]
    loss_sum, total, answered = 0.0, 0, 0
    for batch in length_sorted_batches(own, run.plan.eval_rows, run.tokenizer.pad_token_id):
        if run.stop.signal is not None:
            break
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        with torch.no_grad(), accelerator.autocast():
            loss_sum += _loss_of(model, batch)
        total += target_count(batch["labels"])
        answered += len(batch["labels"])
        run.log.doing = f"评估：验证集的损失，已算 {answered}/{len(own)} 条"
    sums = torch.tensor([loss_sum, total], dtype=torch.float64, device=accelerator.device)
    if run.is_stopping():
        return None
    loss_sum, total = accelerator.reduce(sums, "sum").tolist()
    return loss_sum / max(total, 1)


def _loss_of(model: Any, batch: dict[str, torch.Tensor]) -> float:
    """Return the sum of a batch's losses; out of memory, that of its halves.

    Raises:
        torch.OutOfMemoryError: not even one sample fits.
    """
    labels = batch["labels"]
    try:
        return float(model(**batch, use_cache=False).loss) * target_count(labels)
    except torch.OutOfMemoryError:
        if len(labels) == 1:
            raise
    # Outside the handler: while it runs, the traceback keeps the failed pass's tensors alive.
    if labels.is_cuda:
        torch.cuda.empty_cache()
    log(f"评估时显存不足：一批 {len(labels)} 条分成两半。")
    halves = zip(*(tensor.chunk(2) for tensor in batch.values()), strict=True)
    return sum(_loss_of(model, dict(zip(batch, half, strict=True))) for half in halves)


def _answer_dev(run: Run, samples: int | None) -> tuple[Evaluation | None, Tuning | None]:
    """Let the model answer dev (a fixed sample of triplet lines, or all lines); None if stopped meanwhile.

    All lines also teach about scores.
    """
    config, examples = run.config, list(run.dev.examples)
    if samples is not None:
        examples = [example for example in examples if is_triplet_target(example.target)]
        random.Random(config.seed).shuffle(examples)
    model = run.accelerator.unwrap_model(run.model)
    constraint = Constraint(run.schema)
    extractor = make_extractor(
        model,
        run.tokenizer,
        config,
        constraint,
        batch_size=run.plan.eval_rows,
        with_scores=samples is None,
        relations_per_prompt=config.relations_per_prompt if config.schema_prompt else 0,
    )
    contexts = [example.context for example in examples[:samples]]
    targets = [example.target for example in examples[:samples]]
    extractions = {}
    sentences = [split_context(context)[1] for context in contexts]
    with run.accelerator.autocast():
        for index, extraction in extractor.stream(sentences, contexts):
            if run.stop.signal is not None:
                break
            extractions[index] = extraction
            run.log.doing = f"评估：已生成 {len(extractions)}/{len(contexts)} 句的答案"
        else:
            if samples is None:
                return tune(contexts, targets, extractions, run.tokenizer, run.schema)
            return score(contexts, targets, extractions, run.tokenizer, run.schema), None
    return None, None


def triplet_scores(evaluation: Evaluation) -> dict[str, float]:
    """Return the strict precision, recall and F1 of an evaluation, and its rate of invalid answers."""
    report = evaluation.report
    strict = report.overall.strict
    return {
        "triplet_precision": strict.precision,
        "triplet_recall": strict.recall,
        "triplet_f1": strict.f1,
        "invalid_answers": report.invalid / max(report.sentences, 1),
    }


def describe_scores(values: dict[str, float]) -> str:
    """Return scores as one short Chinese phrase."""
    parts = [f"dev loss {values['dev_loss']:.4f}"]
    if "triplet_f1" in values:
        names = ("triplet_precision", "triplet_recall", "triplet_f1")
        parts.append("三元组 P/R/F1 " + " / ".join(f"{values[name]:.4f}" for name in names))
        parts.append(f"无效回答 {values['invalid_answers']:.1%}")
    return " | ".join(parts)


def score_of(config: ProjectConfig, values: dict[str, float]) -> list[float]:
    """Return what evaluations are compared by, larger being better: F1 if asked for, then loss."""
    by_f1 = config.best_metric == "triplet_f1"
    return [*([values.get("triplet_f1", 0.0)] if by_f1 else []), -values["dev_loss"]]
