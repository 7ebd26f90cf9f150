"""Peak memory of training: what the plan predicts, what is measured, and what the peers' recipe takes.

Usage: python -m benchmarks.bench_memory --model tiny|block|full --device cpu|cuda [--data FILE]
       python -m benchmarks.bench_memory --model causal --pre_model DIR [--no_4bit|--in_8bit] [--data FILE]

Every row is a process of its own that loads the model and takes two optimiser steps. On the CPU the figure is
the growth of the process since its libraries are loaded, on CUDA what tensors take. The last line is a JSON
object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from bases import find_family
from benchmarks.measure import gigabytes, peak_during, peak_so_far, show
from benchmarks.training_paths import (
    ProjectPath,
    add_arguments,
    model_directory,
    project_config,
    recipe_of,
    scratch_directory,
)
from data_handle.data_loader import load_data
from data_handle.data_preprocess import Features
from data_handle.packing import plan_micro_batches
from glm_config import ProjectConfig
from training.memory_plan import TrainingSettings, memory_parts
from utils.command_line import ChineseArgumentParser
from utils.common_utils import log, quiet_libraries, run_main, set_seed
from utils.memory import map_large_allocations

# name, gradient_checkpointing, whether a pass holds one sample only
CASES: dict[str, tuple[str, Any, bool]] = {
    "auto": ("自动", "auto", False),
    "none": ("不用检查点", False, False),
    "all": ("全部检查点", True, False),
    "single": ("每次前向一条样本", True, True),
    "recipe": ("同行做法", True, True),
}


def main() -> int:
    """Run the benchmark, or one of its processes."""
    parser = ChineseArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    quiet_libraries()
    if args.case:
        print(json.dumps(measure(args)))
        return 0
    with scratch_directory() as name:
        pre_model = model_directory(args, Path(name))
        results = {}
        for case in CASES:
            command = [
                sys.executable,
                "-m",
                "benchmarks.bench_memory",
                *sys.argv[1:],
                "--case",
                case,
                "--scratch",
                name,
            ]
            command += ["--pre_model", str(pre_model)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[case] = json.loads(done.stdout.splitlines()[-1])
            log(f"{CASES[case][0]}：{results[case]}")
    rows = [("", "峰值", "预计", "误差", "一步（权重之外）")]
    for case, result in results.items():
        predicted = result.get("predicted")
        rows.append(
            (
                CASES[case][0],
                gigabytes(result["peak"]),
                gigabytes(predicted) if predicted else "",
                f"{predicted / result['peak'] - 1:+.1%}" if predicted else "",
                gigabytes(result["step"]),
            )
        )
    recipe = results.pop("recipe")
    summary = {
        "model": args.model,
        "ratio": round(recipe["step"] / results["auto"]["step"], 3),
        "peak_bytes": results["auto"]["step"],
        "recipe_peak_bytes": recipe["step"],
        "prediction_errors": {
            case: round(result["predicted"] / result["peak"] - 1, 4) for case, result in results.items()
        },
        "cases": results | {"recipe": recipe},
    }
    show(rows, summary, torch.device(args.device))
    return 0


def measure(args: argparse.Namespace) -> dict[str, int]:
    """Load and take two steps in this process; return bytes: the whole peak, and that of a step."""
    set_seed(0)
    device = torch.device(args.device)
    _, checkpointing, single = CASES[args.case]
    config = project_config(
        args, args.pre_model, args.scratch, gradient_checkpointing=checkpointing, overwrite_output_dir=True
    )
    start, _ = peak_during(device, lambda: None)
    if args.case == "recipe":
        if args.model != "tiny" and device.type == "cpu":
            map_large_allocations()  # as train.py does for models of this size
        recipe = recipe_of(args.model, config)
        samples = longest_samples(config)
        recipe.step(samples[:1])  # the optimiser's state
        loading = peak_so_far(device)
        before, peak = peak_during(device, lambda: recipe.step(samples))
        return {"peak": max(loading, peak) - start, "step": peak - before}
    ours = ProjectPath(config)
    if single:
        ours.run.gradients.tokens_per_pass = 1
    samples = next(ours.steps())  # the ones of the first step, with the longest among them
    ours.step(samples[:1])
    loading = peak_so_far(device)
    before, peak = peak_during(device, lambda: ours.step(samples))

    lengths = [len(sample.input_ids) for sample in samples]
    family = find_family(args.pre_model)
    shape = family.shape(family.load_config(args.pre_model))
    passes = plan_micro_batches(lengths, ours.run.gradients.tokens_per_pass, shape.hidden_size)
    largest = max(passes, key=lambda each: each.tokens)
    largest_shard = max(file.stat().st_size for file in family.weight_files(args.pre_model))
    predicted = memory_parts(
        shape,
        TrainingSettings.of(config.to_dict() | {"eval_batch_size": 0}, device.type == "cuda", largest_shard),
        ours.run.plan.checkpoint_every,
        largest.tokens,
        sum(samples[index].num_targets for row in largest.rows for index in row),
    )
    return {
        "peak": max(loading, peak) - start,
        "loading": loading - start,
        "step": peak - before,
        "predicted": sum(predicted.values()) - (predicted["运行库"] if device.type == "cuda" else 0),
        "tokens": largest.tokens,
    }


def longest_samples(config: ProjectConfig) -> list[Features]:
    """Return the eight longest samples of the data, which begin a run of the project too."""
    directory = Path(config.pre_model)
    tokenizer = find_family(directory).load_tokenizer(directory)
    data = load_data(
        config.train_path,
        tokenizer,
        max_source_seq_len=config.max_source_seq_len,
        max_target_seq_len=config.max_target_seq_len,
    )
    return sorted(data.features, key=lambda sample: -len(sample.input_ids))[:8]


if __name__ == "__main__":
    run_main(main)
