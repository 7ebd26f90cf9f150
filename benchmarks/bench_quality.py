"""F1 on labelled lines that training never saw, by the number of lines trained on: a curve with intervals.

Usage: python -m benchmarks.bench_quality --train FILE --dev FILE --test FILE --lines 360,1000 --seeds 3
       [--pre_model DIR --output DIR] [-- options for train.py]

Each point is a training of its own (`train.py`, the best epoch chosen on --dev) on as many lines drawn from
--train with the seed, and an extraction of --test. What is done already in --output is not done again, so a
run that was interrupted goes on. Reported: strict and relaxed F1, a 95 % interval (bootstrap over sentences),
and for the largest size F1 per predicate, per number of triplets, per length, and kinds of mistakes. The
curve is drawn into OUTPUT/curve.svg, everything is in OUTPUT/results.json, the last line is a JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bases import find_family
from data_handle.reader import read_jsonl
from extraction.evaluation.evaluate import score
from extraction.evaluation.mistakes import Mistake, Scored, bootstrap, count_mistakes, grouped, total
from extraction.loading import ExtractorOptions, load_extractor
from task.answers import read_answer
from task.prompt import split_context
from task.triplets import Triplet
from utils.command_line import ChineseArgumentParser
from utils.common_utils import PROJECT, UserError, log, run_main, to_json
from utils.directories import write_file
from utils.table import format_table

# What docs/decisions/real-sentences.md and docs/quality.md found for the embedded base.
RECIPE = {
    "epochs": "10",
    "learning_rate": "1e-3",
    "label_smoothing": "0.1",
    "lora_rank": "64",
    "lora_alpha": "128",
    "lora_dropout": "0.1",
    "max_source_seq_len": "320",
    "max_target_seq_len": "352",
    "eval_steps": "0",
    "eval_samples": "1000",
    "eval_batch_size": "32",
}
# All linear layers, as those of other families are by default.
CHATGLM_MODULES = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")


def main() -> int:
    """Run the benchmark."""
    parser = ChineseArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="labelled lines to train on")
    parser.add_argument("--dev", type=Path, required=True, help="labelled lines to choose the epoch on")
    parser.add_argument("--test", type=Path, required=True, help="labelled lines to score")
    parser.add_argument("--lines", default="360,1000", help="sizes of the training set, with commas")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each size")
    parser.add_argument("--pre_model", default=str(PROJECT / "models" / "chatglm-tiny"), help="the base")
    parser.add_argument("--output", type=Path, default=Path("output/quality"), help="where everything goes")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="after --: options for train.py")
    args = parser.parse_args()
    try:
        sizes = sorted({int(size) for size in args.lines.split(",")})
    except ValueError as error:
        raise UserError(f"--lines 应当是逗号隔开的行数，如 360,1000，而不是 {args.lines}。") from error
    available = len([line for line in args.train.read_text(encoding="utf-8").splitlines() if line.strip()])
    if not sizes or sizes[0] < 1 or sizes[-1] > available:
        raise UserError(f"--lines 应当在 1 到 {available}（{args.train} 的行数）之间。")
    points = []
    for size in sizes:
        for seed in range(1, args.seeds + 1):
            points.append(measure(args, size, seed))
            log(f"{size} 行，种子 {seed}：严格 F1 {points[-1]['strict']:.3f}")
    results: dict[str, Any] = {
        "base": Path(args.pre_model).name,
        "points": points,
        "sizes": summarise(points),
    }
    write_file(args.output / "results.json", to_json(results, indent=2) + "\n")
    write_file(args.output / "curve.svg", draw(results["sizes"]))
    header = ["lines", "seeds", "strict", "lowest", "highest", "95 %", "relaxed", "precision", "recall"]
    print(format_table(header, [row(size) for size in results["sizes"]]))
    print_details(points[-1])
    print(json.dumps({"base": results["base"], "sizes": results["sizes"]}, ensure_ascii=False))
    return 0


def measure(args: argparse.Namespace, size: int, seed: int) -> dict[str, Any]:
    """Train on so many lines and extract the test set; or return what an earlier run found."""
    folder = args.output / f"{size}-{seed}"
    done = folder / "point.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return found
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for line in args.train.read_text(encoding="utf-8").splitlines() if line.strip()]
    drawn = random.Random(seed).sample(lines, size)
    (folder / "train.jsonl").write_text("\n".join(drawn) + "\n", encoding="utf-8")
    command = [sys.executable, str(PROJECT / "train.py"), "--pre_model", args.pre_model]
    command += [word for name, value in RECIPE.items() for word in (f"--{name}", value)]
    command += ["--lora_target_modules", *lora_modules(Path(args.pre_model))]
    command += ["--train_path", str(folder / "train.jsonl"), "--dev_path", str(args.dev)]
    command += ["--save_dir", str(folder / "run"), "--overwrite_output_dir", "--seed", str(seed)]
    started = time.perf_counter()
    subprocess.run([*command, *(word for word in args.rest if word != "--")], check=True)
    seconds = time.perf_counter() - started
    point = {"lines": size, "seed": seed, "train_seconds": round(seconds, 1)}
    point |= evaluate_test(folder / "run" / "model_best", args.pre_model, args.test)
    write_file(done, to_json(point, indent=2) + "\n")
    return point


def lora_modules(pre_model: Path) -> Sequence[str]:
    """Return the modules of a base that LoRA stands beside: all its linear layers."""
    family = find_family(pre_model)
    shape = family.shape(family.load_config(pre_model))
    return CHATGLM_MODULES if set(CHATGLM_MODULES) <= shape.linear_shapes.keys() else ("auto",)


def evaluate_test(adapter: Path, pre_model: str, test: Path) -> dict[str, Any]:
    """Extract the test set with an adapter; return its scores and where the mistakes are."""
    examples, bad = read_jsonl(test)
    if bad:
        raise UserError(f"{test} 有坏数据 {len(bad)} 行，如 {bad[0]}；请先改好。")
    extractor = load_extractor(ExtractorOptions(adapter=adapter, pre_model=pre_model, with_scores=True))
    contexts = [example.context for example in examples]
    targets = [example.target for example in examples]
    sentences = [split_context(context)[1] for context in contexts]
    started = time.perf_counter()
    found = dict(extractor.stream(sentences, contexts))
    seconds = time.perf_counter() - started
    evaluation = score(contexts, targets, found, extractor.tokenizer, extractor.schema)
    scored = [
        Scored(sentence, _expected(context, target), frozenset(found[index].triplets))
        for index, (sentence, context, target) in enumerate(zip(sentences, contexts, targets, strict=True))
    ]
    del extractor
    gc.collect()
    missed, wrong = count_mistakes(scored)
    strict = total(scored)
    overall = evaluation.report.overall
    return {
        "strict": strict.f1,
        "precision": strict.precision,
        "recall": strict.recall,
        "relaxed": overall.relaxed.f1,
        "interval": bootstrap(scored),
        "calibration_error": evaluation.reliability.calibration_error,
        "test_seconds": round(seconds, 1),
        "per_predicate": {
            name: match.strict.to_dict() for name, match in evaluation.report.per_predicate.items()
        },
        "per_triplets": {name: counts.to_dict() for name, counts in grouped(scored, _by_triplets).items()},
        "per_length": {name: counts.to_dict() for name, counts in grouped(scored, _by_length).items()},
        "missed": {kind.value: missed[kind] for kind in Mistake},
        "wrong": {kind.value: wrong[kind] for kind in Mistake},
    }


def _expected(context: str, target: str) -> frozenset[Triplet]:
    head, sentence, _ = split_context(context)
    return frozenset(read_answer(target, head, sentence).triplets or ())


def _by_triplets(sentence: Scored) -> str:
    number = len(sentence.expected)
    return str(number) if number < 4 else "4-6" if number < 7 else "7+"


def _by_length(sentence: Scored) -> str:
    characters = len(sentence.sentence)
    return (
        "1-30"
        if characters <= 30
        else "31-60"
        if characters <= 60
        else "61-100"
        if characters <= 100
        else "> 100"
    )


def summarise(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over seeds, the range, and the widest of the intervals, for each size."""
    sizes = []
    for size in sorted({point["lines"] for point in points}):
        of_size = [point for point in points if point["lines"] == size]
        scores = [point["strict"] for point in of_size]
        mean = {
            name: statistics.fmean(point[name] for point in of_size)
            for name in ("relaxed", "precision", "recall", "train_seconds")
        }
        interval = [
            min(point["interval"][0] for point in of_size),
            max(point["interval"][1] for point in of_size),
        ]
        strict = statistics.fmean(scores)
        sizes.append(
            {
                "lines": size,
                "seeds": len(of_size),
                "strict": strict,
                "lowest": min(scores),
                "highest": max(scores),
            }
            | {"interval": interval, **mean}
        )
    return sizes


def row(size: dict[str, Any]) -> list[str]:
    """Return a size as cells of the table."""
    low, high = size["interval"]
    numbers = [f"{size[name]:.3f}" for name in ("strict", "lowest", "highest")]
    rest = [f"{size[name]:.3f}" for name in ("relaxed", "precision", "recall")]
    return [str(size["lines"]), str(size["seeds"]), *numbers, f"{low:.3f}-{high:.3f}", *rest]


def print_details(point: dict[str, Any]) -> None:
    """Print where a point's mistakes are."""
    for name, title in (
        ("per_triplets", "triplets"),
        ("per_length", "characters"),
        ("per_predicate", "predicate"),
    ):
        groups = point[name].items()
        if name == "per_predicate":
            groups = sorted(groups, key=lambda item: -item[1]["expected"])[:20]
        rows = [
            [group, str(counts["expected"]), *(f"{counts[key]:.3f}" for key in ("precision", "recall", "f1"))]
            for group, counts in groups
        ]
        print(format_table([title, "expected", "precision", "recall", "F1"], rows))
    rows = [[kind, str(point["missed"][kind]), str(point["wrong"][kind])] for kind in point["missed"]]
    print(format_table(["mistake", "missed", "wrong"], rows))


def draw(sizes: Sequence[dict[str, Any]]) -> str:
    """Return the curve as an SVG picture: F1 over the logarithm of the lines, intervals as bars."""
    width, height, left, bottom = 640, 360, 60, 40
    lowest = math.log(sizes[0]["lines"]) - 0.2
    span = math.log(sizes[-1]["lines"]) + 0.2 - lowest

    def x(lines: float) -> float:
        return left + (math.log(lines) - lowest) / span * (width - left - 20)

    def y(f1: float) -> float:
        return height - bottom - f1 * (height - bottom - 20)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for tenth in range(0, 11, 2):
        level = y(tenth / 10)
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{level:.1f}" y2="{level:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{level + 4:.1f}" text-anchor="end">{tenth / 10:.1f}</text>')
    for size in sizes:
        place, (low, high) = x(size["lines"]), size["interval"]
        parts.append(
            f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}" stroke="#7a9cc6" '
            f'stroke-width="6"/><circle cx="{place:.1f}" cy="{y(size["strict"]):.1f}" r="4" fill="#1f4e8c"/>'
            f'<text x="{place:.1f}" y="{height - 16}" text-anchor="middle">{size["lines"]}</text>'
        )
    line = " ".join(f"{x(size['lines']):.1f},{y(size['strict']):.1f}" for size in sizes)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f4e8c" stroke-width="2"/></svg>')
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    run_main(main)
