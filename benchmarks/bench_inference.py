"""Constrained decoding against `model.generate`: passes, latency, throughput, cost of the constraint.

Usage: python -m benchmarks.bench_inference --model tiny|block|full --device cpu|cuda
       (full: --pre_model DIR of make_full_size_checkpoint)
       python -m benchmarks.bench_inference --simulate 5 25 4.5 --batch_size 64
       (a device that takes 5 ms a pass or 25 ms per 1000 tokens, and the host 4.5 ms to ask for one: what of
       the host's work it hides)

Both sides get the same prompts and write answers of the same length: `generate` decodes greedily without
constraint, held to the length of the constrained answer (in a batch: of the longest). Runs are paired,
medians are reported, and the last line is a JSON object. The first run over the sentences, whose shapes are
all new, stands beside the repeated ones.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig

from bases.adapter import load_adapter
from bases.chatglm import (
    ChatGLMConfig,
    ChatGLMForConditionalGeneration,
    ChatGLMTokenizer,
    load_base_model,
    load_config,
)
from bases.layers import expand
from benchmarks import overlap
from benchmarks.measure import show
from data_handle.reader import read_jsonl
from extraction.decoding.decoder import ConstrainedDecoder, Statistics
from extraction.decoding.grammar import AnswerGrammar, Constraint
from task.prompt import encode_prompt, split_context
from task.schema import Schema
from task.triplets import is_triplet_target
from utils.command_line import ChineseArgumentParser
from utils.common_utils import log, run_main, set_seed
from utils.device import avoid_planning_kernels, compute_dtype
from utils.startup import limit_primitive_cache

ROOT = Path(__file__).resolve().parent.parent

BASE = ROOT / "models" / "chatglm-tiny"
ADAPTER = ROOT / "output" / "demo" / "model_best"
MAX_SOURCE, MAX_NEW = 256, 256
BUNDLED = tuple(ROOT / "data" / name for name in ("mixed_dev_dataset.jsonl", "mixed_train_dataset.jsonl"))


class Line(NamedTuple):
    """One line of the data: the sentence, its prompt's ids, its answer's ids."""

    sentence: str
    prompt: list[int]
    answer: list[int]


class ScriptedDecoder(ConstrainedDecoder):
    """Computes every pass, but chooses what the data's answers say: random weights would write noise."""

    scripts: Sequence[list[int]]

    def _preferred(self, row: Any, likeliest: list[int]) -> list[int]:
        known = self.scripts[row.key][len(row.committed) : len(row.committed) + len(likeliest)]
        return known + likeliest[len(known) :]


def main() -> int:
    """Run the benchmark."""
    parser = ChineseArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("tiny", "block", "full"), default="tiny")
    parser.add_argument("--pre_model", type=Path, help="for full: the model's directory")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--adapter", type=Path, default=ADAPTER, help="for tiny; the demo's, if it is there")
    parser.add_argument("--sentences", type=int, default=500, help="for the throughput")
    parser.add_argument("--single", type=int, default=40, help="sentences for the latency, one at a time")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="paired runs of the throughput")
    parser.add_argument("--scores", action="store_true", help="compute scores too (tiny only)")
    ms = ("LEAST", "PER_1000", "LAUNCH")
    parser.add_argument("--simulate", nargs=3, type=float, metavar=ms, help="ms of a simulated device")
    args = parser.parse_args()
    if args.scores and args.model != "tiny":
        parser.error("--scores needs answers that the model chose: with --model tiny only")
    if (args.model == "full") != (args.pre_model is not None):
        parser.error("--model full needs --pre_model, the others have their own")
    limit_primitive_cache()

    set_seed(0)
    if args.simulate:
        return simulate(args)
    if args.device == "cuda":
        avoid_planning_kernels()
    if args.model == "full":
        model, tokenizer = load_full(args)
    else:
        model, tokenizer = load_tiny(args) if args.model == "tiny" else make_block(args.device)
    model.eval()
    lines, schema = read_lines(tokenizer)
    grammar = AnswerGrammar(tokenizer, model.config.vocab_size, Constraint(schema))
    bench = Bench(model, grammar, scripted=args.model != "tiny", with_scores=args.scores)
    rng = random.Random(0)
    singles = rng.sample(lines, args.single)
    many = sorted(rng.sample(lines, min(args.sentences, len(lines))), key=lambda line: len(line.prompt))

    first = [bench.ours([line], 1)[0] for line in singles]
    single = [bench.pair([line], 1) for line in singles]
    log(f"单句：{len(single)} 对完成")
    first_batched, batched = bench.ours(many, args.batch_size)[0], []
    for _ in range(args.repeats):
        batched.append(bench.pair(many, args.batch_size))
        log(f"{len(many)} 句：{batched[-1].ours:.2f} 秒对 {batched[-1].theirs:.2f} 秒")
    report(args, single, batched, len(many), (first, first_batched))
    return 0


def simulate(args: argparse.Namespace) -> int:
    """Answer sentences beside a simulated device; print what of the host's work it hides."""
    tokenizer = ChatGLMTokenizer.from_pretrained(BASE)
    lines, schema = read_lines(tokenizer)
    lines = sorted((lines * args.sentences)[: args.sentences], key=lambda line: len(line.prompt))
    config = load_config(BASE)
    grammar = AnswerGrammar(tokenizer, config.vocab_size, Constraint(schema))
    found = overlap.compare(
        config, grammar, lines, args.batch_size, overlap.Speed(*args.simulate), args.scores
    )
    show(overlap.table(found), {"simulated": args.simulate, "groups": found}, torch.device("cpu"))
    return 0


def load_tiny(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return the embedded base, with the demo's adapter if there is one."""
    model, tokenizer = load_base_model(BASE, load_in_4bit=False, dtype=torch.float32, device=args.device)
    if args.adapter.exists():
        model = load_adapter(model, args.adapter)
    else:
        log(f"没有 {args.adapter}（make demo 生成），只用基座模型。")
    return model, tokenizer


def load_full(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return the model of a directory in 4 bits; on a card turned back, as extraction does."""
    dtype = compute_dtype(args.device)
    model, tokenizer = load_base_model(args.pre_model, load_in_4bit=True, dtype=dtype, device=args.device)
    if args.device == "cuda":
        expand(model)
    return model, tokenizer


def make_block(device: str) -> tuple[Any, Any]:
    """Return a random model of 4 layers at ChatGLM-6B's width and vocabulary, with the base's tokenizer."""
    tokenizer = ChatGLMTokenizer.from_pretrained(BASE)
    special = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id")
    config = ChatGLMConfig(num_layers=4, **{name: getattr(tokenizer, name) for name in special})
    assert (config.hidden_size, config.vocab_size) == (4096, 130528)
    torch.set_default_dtype(compute_dtype(device))
    with torch.device(device):
        model = ChatGLMForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    return model, tokenizer


def read_lines(tokenizer: Any, files: Sequence[Path] = BUNDLED) -> tuple[list[Line], Schema]:
    """Return the triplet lines of files, and their schema."""
    examples = [example for file in files for example in read_jsonl(file)[0]]
    examples = [example for example in examples if is_triplet_target(example.target)]
    lines = [
        Line(
            split_context(example.context)[1],
            encode_prompt(tokenizer, example.context, MAX_SOURCE).input_ids,
            tokenizer.encode_plain(example.target),
        )
        for example in examples
    ]
    return lines, Schema.from_targets(example.target for example in examples)


class Pair(NamedTuple):
    """One run of each side over the same lines, in seconds, and what ours did."""

    ours: float
    theirs: float
    statistics: Statistics


class Bench:
    """Runs both sides."""

    def __init__(self, model: Any, grammar: AnswerGrammar, *, scripted: bool, with_scores: bool) -> None:
        self.model = model
        self.grammar = grammar
        self.with_scores = with_scores
        self.decoder = ScriptedDecoder if scripted else ConstrainedDecoder

    def pair(self, lines: Sequence[Line], batch_size: int) -> Pair:
        """Time both sides over lines that are sorted by length."""
        ours, lengths, found = self.ours(lines, batch_size)
        start = self._now()
        for first in range(0, len(lines), batch_size):
            batch = lines[first : first + batch_size]
            self._generate([line.prompt for line in batch], max(lengths[first : first + batch_size]))
        return Pair(ours, self._now() - start, found)

    def ours(self, lines: Sequence[Line], batch_size: int) -> tuple[float, list[int], Statistics]:
        """Answer lines; return the seconds, the tokens of each answer, and the statistics."""
        decoder = self.decoder(
            self.model,
            self.grammar,
            max_new_tokens=MAX_NEW,
            batch_size=batch_size,
            with_scores=self.with_scores,
        )
        if isinstance(decoder, ScriptedDecoder):
            decoder.scripts = [line.answer for line in lines]
        start = self._now()
        answers = dict(decoder.decode([line.prompt for line in lines], [line.sentence for line in lines]))
        seconds = self._now() - start
        return seconds, [len(answers[index].token_ids) for index in range(len(lines))], decoder.statistics

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @torch.no_grad()
    def _generate(self, prompts: list[list[int]], length: int) -> None:
        """Decode greedily without a constraint, `length` tokens."""
        tokenizer, device = self.grammar.tokenizer, self.model.device
        width = max(map(len, prompts))
        input_ids = [[tokenizer.pad_token_id] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self.model.generate(
            input_ids=torch.tensor(input_ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=GenerationConfig(
                max_new_tokens=length,
                min_new_tokens=length,
                do_sample=False,
                use_cache=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
        )


def report(
    args: argparse.Namespace,
    single: Sequence[Pair],
    batched: Sequence[Pair],
    sentences: int,
    first: tuple[Sequence[float], float],
) -> None:
    """Print the table and the line of JSON; `first` has our seconds with every shape new."""
    tokens = sum(pair.statistics.tokens for pair in single)
    passes = sum(pair.statistics.row_passes for pair in single)
    share = {
        name: sum(pair.statistics.constraint_seconds for pair in pairs) / sum(pair.ours for pair in pairs)
        for name, pairs in (("single", single), ("batched", batched))
    }
    ours, theirs = (statistics.median(times) for times in zip(*(pair[:2] for pair in single), strict=True))
    latency = statistics.median(pair.theirs / pair.ours for pair in single)
    throughput = statistics.median(pair.theirs / pair.ours for pair in batched)
    many = (
        statistics.median(pair.ours for pair in batched),
        statistics.median(pair.theirs for pair in batched),
    )
    rows = [
        ("", "第一次", "约束解码", "model.generate", "倍数"),
        (
            "每句耗时（批次 1，毫秒）",
            f"{statistics.median(first[0]) * 1e3:.1f}",
            f"{ours * 1e3:.1f}",
            f"{theirs * 1e3:.1f}",
            f"{latency:.2f}",
        ),
        (
            f"吞吐（{sentences} 句，批次 {args.batch_size}，句/秒）",
            f"{sentences / first[1]:.2f}",
            *(f"{sentences / seconds:.2f}" for seconds in many),
            f"{throughput:.2f}",
        ),
        ("前向次数 / token", "", f"{passes / tokens:.1%}", "100.0%", f"{tokens / passes:.2f}"),
        ("约束占用的时间（单句 / 批次）", "", f"{share['single']:.1%} / {share['batched']:.1%}", "", ""),
    ]
    result = {
        "model": args.model,
        "passes_per_token": round(passes / tokens, 4),
        "latency_ratio": round(latency, 3),
        "throughput_ratio": round(throughput, 3),
        "first_of_repeated": round(many[0] / first[1], 3),
        "constraint_share": round(max(share.values()), 4),
    }
    show(rows, result, torch.device(args.device))


if __name__ == "__main__":
    run_main(main)
