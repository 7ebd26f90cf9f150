"""The stages of `gpu_round`: each loads a model and measures, and notes what it finds."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import GenerationConfig

from bases import family_of
from bases.adapter import attach_lora
from bases.chatglm import load_base_model, load_config
from bases.chatglm.family import ChatGLMFamily
from bases.interface import Family
from bases.layers import expand
from bases.lora_product import lengthen_lora, shorten_lora
from benchmarks.bench_inference import MAX_NEW, MAX_SOURCE, Line, ScriptedDecoder, read_lines
from benchmarks.measure import device_name
from benchmarks.training_paths import ProjectPath, RecipePath, project_config
from data_handle.packing import plan_micro_batches
from extraction import memory_plan as extraction_plan
from extraction.decoding.decoder import ConstrainedDecoder, Statistics
from extraction.decoding.grammar import AnswerGrammar, Constraint
from extraction.warm_up import warm_up_kernels
from training.memory_plan import TrainingSettings, memory_parts, shape_of
from utils.common_utils import log
from utils.device import avoid_planning_kernels, compute_dtype
from utils.memory import GB, memory_budget


def note(args: argparse.Namespace, stage: str, **values: Any) -> None:
    """Append a line to the results."""
    line = json.dumps({"stage": stage, **values}, ensure_ascii=False)
    log(line)
    with (args.out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


class Stage:
    """One process: loads a model and measures."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device(args.device)
        self.on_card = self.device.type == "cuda"

    def run(self) -> None:
        """Do the stage that the arguments name."""
        avoid_planning_kernels()
        name = self.args.stage
        if name == "extraction":
            self.extraction()
        elif name == "training":
            self.training()
        else:
            self.budget(float(name.removeprefix("budget")))

    def note(self, **values: Any) -> None:
        """Append a line to the results."""
        note(self.args, self.args.stage, **values)

    def now(self) -> float:
        """Return the time when all that was asked of the device is done."""
        if self.on_card:
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak(self) -> float:
        """Return the most bytes that tensors took since the last call, in GB; 0 on a CPU."""
        if not self.on_card:
            return 0.0
        peak = torch.cuda.max_memory_allocated() / GB
        torch.cuda.reset_peak_memory_stats()
        return round(peak, 3)

    # --- extraction

    def extraction(self) -> None:
        """Time sentences one by one and in batches, the first time and again; then other ways."""
        dtype = compute_dtype(self.device)
        started = self.now()
        config = load_config(self.args.pre_model)
        shape = family_of(config).shape(config)
        if self.on_card:
            warm_up_kernels(shape, dtype, self.device)
        model, tokenizer = load_base_model(
            self.args.pre_model, load_in_4bit=True, dtype=dtype, device=self.device
        )
        quantized = {name: module for name, module in model.named_modules() if is_4bit(module)}
        expand(model)
        model.eval()
        loaded = self.now()
        self.note(
            what="load", seconds=round(loaded - started, 1), peak_gb=self.peak(), **machine(self.device)
        )
        lines, schema = read_lines(tokenizer, [self.args.data])
        grammar = AnswerGrammar(tokenizer, model.config.vocab_size, Constraint(schema))
        settings = extraction_plan.ExtractionSettings(dtype.itemsize, True, MAX_SOURCE, MAX_NEW)
        budget = memory_budget(self.device, math.inf) + (torch.cuda.memory_allocated() if self.on_card else 0)
        plan = extraction_plan.plan_extraction(shape, settings, budget)
        self.note(what="plan", rows=plan.rows, line=plan.describe())
        with torch.no_grad():
            self.singles(model, grammar, lines[:: max(1, len(lines) // 12)][:12])
            many = (lines * math.ceil(self.args.sentences / len(lines)))[: self.args.sentences]
            many.sort(key=lambda line: len(line.prompt))
            self.batches(model, grammar, many, plan.rows, settings)
            if self.on_card:
                self.profile_decoding(model, grammar, many[-plan.rows :], plan.rows)
                for rows in (64, 256):
                    self.timed(model, grammar, many, rows, what=f"rows {rows}")
            expanded = {name: model.get_submodule(name) for name in quantized}
            replace_modules(model, quantized)
            self.timed(model, grammar, many[::4], plan.rows, what="4-bit, not expanded, first time")
            self.timed(model, grammar, many[::4], plan.rows, what="4-bit, not expanded, again")
            replace_modules(model, expanded)
            self.timed(model, grammar, many[::4], plan.rows, what="expanded, the same sentences")
            adapted = attach_lora(
                model, rank=8, alpha=32, dropout=0.0, target_modules=["query_key_value"]
            ).eval()
            with torch.autocast(self.device.type, dtype, enabled=dtype.itemsize == 2):
                for name, change in (("LoRA by PEFT", lengthen_lora), ("LoRA", shorten_lora)):
                    change(adapted)
                    self.timed(adapted, grammar, many[::2], plan.rows, what=name)

    def decoder(self, model: Any, grammar: AnswerGrammar, lines: Sequence[Line], rows: int) -> Any:
        """Return a decoder that is told what to choose: random weights would write noise."""
        decoder = ScriptedDecoder(model, grammar, max_new_tokens=MAX_NEW, batch_size=rows, pool=self.pool)
        decoder.scripts = [line.answer for line in lines]
        return decoder

    @property
    def pool(self) -> Any:
        """The threads that compile grammars, as an extractor has them."""
        if not hasattr(self, "_pool"):
            self._pool = ThreadPoolExecutor(min(4, max(1, (os.cpu_count() or 1) // 4)))
        return self._pool

    def decode(
        self, model: Any, grammar: AnswerGrammar, lines: Sequence[Line], rows: int
    ) -> tuple[float, Statistics, int]:
        """Answer lines; return the seconds, the statistics, and the tokens of the answers."""
        decoder: ConstrainedDecoder = self.decoder(model, grammar, lines, rows)
        started = self.now()
        answers = dict(decoder.decode([line.prompt for line in lines], [line.sentence for line in lines]))
        seconds = self.now() - started
        return seconds, decoder.statistics, sum(len(answer.token_ids) for answer in answers.values())

    def singles(self, model: Any, grammar: AnswerGrammar, lines: Sequence[Line]) -> None:
        """Time sentences alone: first time, again, and `generate`."""
        if not self.on_card:
            lines = lines[:2]
        first, again, theirs = [], [], []
        tokens = []
        for line in lines:
            seconds, _, count = self.decode(model, grammar, [line], 1)
            first.append(seconds)
            tokens.append(count)
        for line in lines:
            again.append(self.decode(model, grammar, [line], 1)[0])
        for line, count in list(zip(lines, tokens, strict=True))[:6]:
            started = self.now()
            generate(model, grammar.tokenizer, line.prompt, count)
            theirs.append((self.now() - started) / count)
        per_token = statistics.median(theirs)
        expected = [per_token * count for count in tokens]  # `generate` takes as long for each token
        self.note(
            what="batch 1",
            first_ms=milliseconds(first),
            again_ms=milliseconds(again),
            generate_ms=milliseconds(expected),
            very_first_ms=round(first[0] * 1e3),
            ratio_first=median_ratio(expected, first),
            ratio_again=median_ratio(expected, again),
        )

    def batches(
        self,
        model: Any,
        grammar: AnswerGrammar,
        lines: Sequence[Line],
        rows: int,
        settings: extraction_plan.ExtractionSettings,
    ) -> None:
        """Time all lines the first time and again, and hold the peak against the plan."""
        gc.collect()
        self.peak()
        seconds = self.timed(model, grammar, lines, rows, what="automatic, first time")
        statistics_ = self.last
        predicted = extraction_plan.memory_parts(
            shape_of(model.config),
            settings,
            expanded=True,
            rows=rows,
            cache_tokens=statistics_.cache_tokens,
            pass_tokens=statistics_.pass_tokens,
            logits=statistics_.logits,
        )
        predicted.pop("运行库")
        planned = sum(predicted.values()) / GB
        self.note(
            what="peak", predicted_gb=round(planned, 3), peak_gb=self.last_peak, sizes=sizes(statistics_)
        )
        again = self.timed(model, grammar, lines, rows, what="automatic, again")
        self.note(what="first of again", share=round(again / seconds, 3))

    def timed(self, model: Any, grammar: AnswerGrammar, lines: Sequence[Line], rows: int, what: str) -> float:
        """Time lines and note it."""
        self.peak()
        try:
            seconds, self.last, tokens = self.decode(model, grammar, lines, rows)
        except torch.OutOfMemoryError as error:
            self.note(what=what, rows=rows, error=str(error)[:100])
            return math.nan
        self.last_peak = self.peak()
        self.note(
            what=what,
            rows=rows,
            sentences=len(lines),
            per_second=round(len(lines) / seconds, 1),
            seconds=round(seconds, 2),
            constraint=round(self.last.constraint_seconds / seconds, 4),
            passes=self.last.passes,
            row_passes=self.last.row_passes,
            tokens=tokens,
            peak_gb=self.last_peak,
        )
        return seconds

    def profile_decoding(self, model: Any, grammar: AnswerGrammar, lines: Sequence[Line], rows: int) -> None:
        """Write down where the time of decoding goes."""
        self.profile("decoding", lambda: self.decode(model, grammar, lines, rows))

    def profile(self, name: str, work: Callable[[], object]) -> None:
        """Profile some work into files of the results."""
        if not self.on_card:
            return
        try:
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
                work()
                torch.cuda.synchronize()
            table = found.key_averages()
            text = "\n".join(
                table.table(sort_by=key, row_limit=40, max_name_column_width=70)
                for key in ("self_device_time_total", "self_cpu_time_total")
            )
            (self.args.out / f"profile_{name}.txt").write_text(text, encoding="utf-8")
        except Exception as error:  # a profile is a gift, not a need
            self.note(what=f"profile {name}", error=str(error)[:200])

    # --- training

    def training(self) -> None:
        """Time optimiser steps: new shapes, then each switch off, then the recipe."""
        path = self.project(20.0, "training")
        steps = list(islice(path.steps(), 44 if self.on_card else 6))
        self.take(path, steps[0])  # the longest samples
        self.peak_against_plan(path, steps[1:3])
        many = steps[3:33] if self.on_card else steps[3:]
        self.steps(path, many, "all pieces, each step new")
        rest = steps[33:] if self.on_card else steps[3:4]
        self.steps(path, rest, "all pieces")
        self.profile("training", lambda: [self.take(path, step) for step in rest[:2]])
        model = path.run.model
        lengthen_lora(model)
        self.steps(path, rest, "without: one operation for LoRA")
        shorten_lora(model)
        with on_cpu_masks():
            self.steps(path, rest, "without: masks made on the card")
        if self.on_card:
            torch.backends.cuda.enable_cudnn_sdp(True)
            self.steps(path, rest, "without: no cuDNN attention, first time")
            self.steps(path, rest, "without: no cuDNN attention, again")
            lengthen_lora(model)
            with on_cpu_masks():
                self.steps(path, rest, "without all")
            shorten_lora(model)
            torch.backends.cuda.enable_cudnn_sdp(False)
        config = path.config
        recipe = RecipePath(config)
        recipe.step(steps[0][:1])
        self.steps(recipe, steps[4:6] if self.on_card else steps[3:4], "recipe")

    def project(self, budget: float, name: str) -> ProjectPath:
        """Load what train.py would."""
        scratch = self.args.scratch / name
        scratch.mkdir(exist_ok=True)
        started = self.now()
        config = project_config(self.args, self.args.pre_model, scratch, vram_budget_gb=budget)
        path = ProjectPath(config)
        path.run.model.train()
        plan = path.run.plan
        self.note(
            what="load",
            seconds=round(self.now() - started, 1),
            planned_gb=round(plan.peak / GB, 2),
            checkpoint_every=plan.checkpoint_every,
            tokens_per_pass=plan.tokens_per_pass,
            **machine(self.device),
        )
        return path

    def take(self, path: ProjectPath | RecipePath, samples: Any) -> float:
        """Take a step; return its seconds."""
        started = self.now()
        path.step(samples)
        return self.now() - started

    def steps(self, path: ProjectPath | RecipePath, steps: Sequence[Any], what: str) -> None:
        """Time steps and note it."""
        times = [self.take(path, step) for step in steps]
        count = statistics.mean(len(step) for step in steps)
        self.note(
            what=what,
            samples_per_s=round(count / statistics.median(times), 2),
            samples_per_s_mean=round(count * len(times) / sum(times), 2),
            median_ms=round(statistics.median(times) * 1e3, 1),
            max_to_median=round(max(times) / statistics.median(times), 3),
            steps=len(times),
            peak_gb=self.peak(),
        )

    def peak_against_plan(self, path: ProjectPath, steps: Sequence[Any]) -> None:
        """Hold the peak of steps against what the plan says of passes of their sizes."""
        self.peak()
        run, config = path.run, path.config
        predicted = []
        for step in steps:
            self.take(path, step)
            lengths = [len(sample.input_ids) for sample in step]
            sizes = run.accelerator.unwrap_model(run.model).config
            passes = plan_micro_batches(lengths, run.gradients.tokens_per_pass, sizes.hidden_size)
            largest = max(passes, key=lambda each: each.tokens)
            parts = memory_parts(
                shape_of(sizes),
                TrainingSettings.of(config.to_dict() | {"eval_batch_size": 0}, self.on_card),
                run.plan.checkpoint_every,
                largest.tokens,
                sum(step[index].num_targets for row in largest.rows for index in row),
            )
            predicted.append(sum(parts.values()) - parts["运行库"])
        self.note(what="peak", predicted_gb=round(max(predicted) / GB, 3), peak_gb=self.peak())

    def budget(self, budget: float) -> None:
        """Take the longest steps within a budget."""
        path = self.project(budget, f"budget{budget:g}")
        steps = list(islice(path.steps(), 6 if self.on_card else 3))
        self.peak()
        reserved = torch.cuda.memory_reserved() / GB if self.on_card else 0
        self.steps(path, steps, f"budget {budget:g} GB")
        self.peak_against_plan(path, steps[:2])
        if self.on_card:
            reserved = max(reserved, torch.cuda.max_memory_reserved() / GB)
            self.note(what="reserved", reserved_gb=round(reserved, 2))


@contextlib.contextmanager
def on_cpu_masks() -> Any:
    """Lay batches out on the CPU and move them, as a family without a way of its own does."""
    own = ChatGLMFamily.pack_on
    ChatGLMFamily.pack_on = Family.pack_on  # type: ignore[method-assign]
    try:
        yield
    finally:
        ChatGLMFamily.pack_on = own  # type: ignore[method-assign]


def is_4bit(module: torch.nn.Module) -> bool:
    """Tell whether a layer has 4-bit weights."""
    return type(module).__name__ == "Linear4bit"


def replace_modules(model: torch.nn.Module, modules: dict[str, torch.nn.Module]) -> None:
    """Put modules in the place of those of their names."""
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.eval())


def generate(model: Any, tokenizer: Any, prompt: list[int], length: int) -> None:
    """Decode greedily without a constraint, `length` tokens."""
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    ids = torch.tensor([prompt], device=model.device)
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(
            max_new_tokens=length, min_new_tokens=length, do_sample=False, use_cache=True, **special
        ),
    )


def milliseconds(times: Sequence[float]) -> float:
    """Return the median in ms."""
    return round(statistics.median(times) * 1e3, 1)


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios."""
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 2)


def sizes(statistics_: Statistics) -> dict[str, int]:
    """Return the largest sizes of a decoding."""
    return {name: getattr(statistics_, name) for name in ("cache_tokens", "pass_tokens", "logits")}


def machine(device: torch.device) -> dict[str, str]:
    """Return what is measured on."""
    return {"device": device_name(device), "torch": torch.__version__}
