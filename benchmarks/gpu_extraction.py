"""The stage of `gpu_round` about extraction: speeds, the plan, what of the host's work a card hides."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from bases import family_of
from bases.adapter import attach_lora
from bases.chatglm import load_base_model, load_config
from bases.interface import ModelShape
from bases.layers import expand
from bases.lora_product import lengthen_lora, shorten_lora
from benchmarks.bench_inference import MAX_NEW, MAX_SOURCE, Line, ScriptedDecoder, read_lines
from benchmarks.gpu_stages import Stage, machine, milliseconds
from benchmarks.overlap import Watch, exposed
from extraction import memory_plan as extraction_plan
from extraction.decoding.decoder import ConstrainedDecoder, Statistics
from extraction.decoding.grammar import AnswerGrammar, Constraint
from extraction.decoding.row_cache import RowCache
from extraction.warm_up import warm_up_kernels
from training.memory_plan import shape_of
from utils.device import compute_dtype
from utils.memory import GB, memory_budget


class ExtractionStage(Stage):
    """Decodes scripted answers in many ways."""

    def run(self) -> None:
        """Do the stage."""
        self.extraction()

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
            self.overlap(model, grammar, many[::2])
            self.copies(config, shape, dtype)
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

    def overlap(self, model: Any, grammar: AnswerGrammar, lines: Sequence[Line]) -> None:
        """Note how much of the host's work the device hides, in one group of rows and in two."""
        for rows, groups in ((64, 1), (64, 2), (128, 1), (128, 2)) if self.on_card else ((8, 1), (8, 2)):
            decoder = self.decoder(model, grammar, lines, rows, groups=groups)
            watch = Watch(decoder)
            started, own = self.now(), time.thread_time()
            for _ in decoder.decode([line.prompt for line in lines], [line.sentence for line in lines]):
                pass
            seconds, own = self.now() - started, time.thread_time() - own
            passes, counted = watch.passes, decoder.statistics
            self.note(
                what="overlap",
                rows=rows,
                groups=groups,
                per_second=round(len(lines) / seconds, 1),
                busy=round(sum(end - begin for begin, end in passes) / seconds, 4),
                constraint=round(counted.constraint_seconds / seconds, 4),
                exposed_constraint=round(exposed(watch.constraint, passes) / seconds, 4),
                host_cpu_ms_a_pass=round(own / counted.passes * 1e3, 2),
                passes=counted.passes,
            )
        if self.on_card:
            self.note(what="waits", places=waits(lambda: self.decode(model, grammar, lines[:96], 64)))

    def copies(self, config: Any, shape: ModelShape, dtype: torch.dtype) -> None:
        """Time the cache's rows as they move together, and one by one."""
        rows, tokens = (32, 320) if self.on_card else (4, 64)
        heads = config.num_attention_heads
        state = torch.zeros(rows, heads, 1, config.hidden_size // heads, dtype=dtype, device=self.device)
        cache = RowCache()
        slots = torch.full((rows, 1), tokens - 1, device=self.device)
        cache.prepare(0, slots, tokens)
        for layer in range(shape.num_layers):
            cache.update(state, state, layer)
        there, here = list(range(rows // 2, rows)), list(range(rows // 2))
        times: dict[str, list[float]] = {"together": [], "one by one": []}
        for _ in range(4):
            started = self.now()
            cache.move(there, here)
            times["together"].append(self.now() - started)
            for source, target in zip(there, here, strict=True):
                cache.move([source], [target])
            times["one by one"].append(self.now() - started - times["together"][-1])
        found = {name: milliseconds(each[1:]) for name, each in times.items()}
        self.note(what="rows move", rows=len(here), tokens=tokens, ms=found)

    def decoder(
        self, model: Any, grammar: AnswerGrammar, lines: Sequence[Line], rows: int, **options: Any
    ) -> Any:
        """Return a decoder that is told what to choose: random weights would write noise."""
        options |= {"max_new_tokens": MAX_NEW, "batch_size": rows, "pool": self.pool}
        decoder = ScriptedDecoder(model, grammar, **options)
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


def waits(work: Callable[[], object]) -> dict[str, int]:
    """Return where the host waited for the card during some work: how often, by file and line."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = (f"{Path(each.filename).name}:{each.lineno}" for each in found)
    return dict(Counter(places).most_common(12))


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios."""
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 2)


def sizes(statistics_: Statistics) -> dict[str, int]:
    """Return the largest sizes of a decoding."""
    return {name: getattr(statistics_, name) for name in ("cache_tokens", "pass_tokens", "logits")}
