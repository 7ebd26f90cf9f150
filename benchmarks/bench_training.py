"""Samples per second and memory of an optimiser step: this project's path against the peers' recipe.

Usage: python -m benchmarks.bench_training --model tiny|block|full --device cpu|cuda [--data FILE]
       python -m benchmarks.bench_training --model causal --pre_model DIR [--no_4bit] [--data FILE]

Both sides take the same steps in turn, with the settings of the README (8 samples a step, 256 + 128 tokens,
rank 8 on query_key_value, or on all linear layers of a causal model, whose peers are Hugging Face's own
tools). Medians are reported; the last line is a JSON object. (`cpu_ratio` compares CPU seconds, which mean
something on a busy machine too.) With --shuffle_peers the peers get the same samples in steps drawn at
random, as Trainer draws them by default, and the ratios are those of the sums; without it they profit from
this project's grouping by length.
"""

from __future__ import annotations

import random
import statistics
import time
from itertools import islice
from pathlib import Path

import torch

from benchmarks.hugging_face_path import HuggingFacePath
from benchmarks.measure import gigabytes, peak_during, show
from benchmarks.training_paths import (
    ProjectPath,
    RecipePath,
    add_arguments,
    model_directory,
    project_config,
    recipe_of,
    scratch_directory,
)
from data_handle.data_preprocess import Features
from utils.command_line import ChineseArgumentParser
from utils.common_utils import log, quiet_libraries, run_main, set_seed

Way = ProjectPath | RecipePath | HuggingFacePath


def main() -> int:
    """Run the benchmark."""
    parser = ChineseArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--steps", type=int, default=5, help="steps of either side that are timed")
    parser.add_argument("--checkpointing", default="auto", choices=("auto", "true", "false"))
    parser.add_argument(
        "--tokens_per_pass", type=int, help="most tokens of a pass, as a smaller budget would give"
    )
    parser.add_argument(
        "--shuffle_peers", action="store_true", help="the peers draw the samples of their steps at random"
    )
    args = parser.parse_args()
    quiet_libraries()
    set_seed(0)
    device = torch.device(args.device)
    knobs = {"gradient_checkpointing": {"true": True, "false": False}.get(args.checkpointing, "auto")}
    with scratch_directory() as name:
        scratch = Path(name)
        config = project_config(args, model_directory(args, scratch), scratch, **knobs)
        ours = ProjectPath(config)
        recipe = recipe_of(args.model, config)
        if args.tokens_per_pass:
            ours.run.gradients.tokens_per_pass = args.tokens_per_pass
        steps = list(islice(ours.steps(), args.steps + 1))

        theirs_too = shuffled(steps) if args.shuffle_peers else steps
        costs = alternate(ours, recipe, steps, theirs_too, device)
        peaks = []
        for path in (ours, recipe):
            before, peak = peak_during(device, lambda path=path: path.step(steps[0]))  # type: ignore[misc]
            peaks.append(peak - before)

    sizes = [len(samples) for samples in steps[1:]]
    ours_per_second, theirs = (
        statistics.median(size / cost[side][0] for size, cost in zip(sizes, costs, strict=True))
        for side in (0, 1)
    )
    ratio, cpu_ratio = (compare(costs, measure, args.shuffle_peers) for measure in (0, 1))
    tokens = [len(sample.input_ids) for samples in steps[1:] for sample in samples]
    rows = [
        ("", "本项目", "同行做法", "比"),
        ("样本/秒", f"{ours_per_second:.3f}", f"{theirs:.3f}", f"{ratio:.2f}"),
        ("一步的峰值（权重之外）", *map(gigabytes, peaks), f"{peaks[0] / peaks[1]:.2f}"),
        ("样本的 token（平均）", f"{statistics.mean(tokens):.0f}", "384", ""),
    ]
    result = {
        "model": args.model,
        "ratio": round(ratio, 3),
        **({"cpu_ratio": round(cpu_ratio, 3)} if device.type == "cpu" else {}),
        "samples_per_s": round(ours_per_second, 4),
        "recipe_samples_per_s": round(theirs, 4),
        "peak_bytes": peaks[0],
        "recipe_peak_bytes": peaks[1],
        "tokens_per_pass": ours.run.gradients.tokens_per_pass,
        "checkpoint_every": ours.run.plan.checkpoint_every,
        "fp32": args.fp32,
        "shuffled_peers": args.shuffle_peers,
        "load_in_4bit": config.load_in_4bit,
        "load_in_8bit": config.load_in_8bit,
        "tokens_per_sample": round(statistics.mean(tokens), 1),
    }
    show(rows, result, device)
    return 0


def shuffled(steps: list[list[Features]]) -> list[list[Features]]:
    """Draw the samples of all steps behind the first anew, into steps of the same sizes."""
    pool = [sample for samples in steps[1:] for sample in samples]
    random.Random(0).shuffle(pool)
    drawn = iter(pool)
    return [steps[0], *([next(drawn) for _ in samples] for samples in steps[1:])]


Cost = tuple[float, float]  # seconds, and CPU seconds


def alternate(
    ours: ProjectPath,
    recipe: Way,
    steps: list[list[Features]],
    their_steps: list[list[Features]],
    device: torch.device,
) -> list[tuple[Cost, Cost]]:
    """Take the steps of either side in turn, the first one to warm up; return what each behind it costs."""

    def timed(path: Way, samples: list[Features]) -> Cost:
        started, used = time.perf_counter(), time.process_time()
        path.step(samples)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started, time.process_time() - used

    for path in (ours, recipe):
        timed(path, steps[0])  # warm-up, and the optimiser's state; the longest samples
    costs = []
    for index in range(1, len(steps)):
        work: list[tuple[Way, list[Features]]] = [(ours, steps[index]), (recipe, their_steps[index])]
        found = {path: timed(path, samples) for path, samples in (work if index % 2 else reversed(work))}
        costs.append((found[ours], found[recipe]))
        log(f"步 {index}：{costs[-1][0][0]:.2f} 秒对 {costs[-1][1][0]:.2f} 秒")
    return costs


def compare(costs: list[tuple[Cost, Cost]], measure: int, of_sums: bool) -> float:
    """Return how many times the peers' cost is this project's: of the sums, or the median of the steps."""
    pairs = [(own[measure], other[measure]) for own, other in costs]
    if of_sums:
        return sum(other for _, other in pairs) / sum(own for own, _ in pairs)
    return statistics.median(other / own for own, other in pairs)


if __name__ == "__main__":
    run_main(main)
