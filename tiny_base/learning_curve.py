"""Draw how F1 on dev grows with the lines of training data, from a base and from random weights.

    python -m tiny_base.learning_curve --lines 63 125 250 500 1009 -- --learning_rate 2e-3 …

What follows `--` goes to train.py. Every run takes at least 4 epochs and `--steps` optimiser steps of 8
samples, so that few lines are seen more often; the adapter with the least loss on dev counts. Writes
learning_curve.json (results already there are kept) and learning_curve.svg into the model's directory.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

from bases.chatglm import ChatGLMTokenizer
from tiny_base.model import new_model, save_base
from utils.command_line import ChineseArgumentParser
from utils.common_utils import UserError, log, run_main, set_seed

ROOT = Path(__file__).resolve().parent.parent

MODEL_DIR = ROOT / "models" / "chatglm-tiny"
TRAIN_FILE = ROOT / "data" / "mixed_train_dataset.jsonl"
SAMPLES_PER_STEP, MIN_EPOCHS = 8, 4
SEED = 1


def write_random_model(directory: Path, tokenizer_dir: Path) -> None:
    """Write the architecture with the weights that pre-training starts from."""
    set_seed(SEED)
    save_base(new_model(ChatGLMTokenizer.from_pretrained(str(tokenizer_dir))), directory, tokenizer_dir)


def fine_tune(model: Path, count: int, steps: int, work_dir: Path, arguments: list[str]) -> dict[str, float]:
    """Train on a seeded sample of `count` lines, and measure the best adapter on all of dev.

    Returns:
        What train.py records at the end: `triplet_f1`, `dev_loss` and others.

    Raises:
        UserError: the training failed.
    """
    lines = TRAIN_FILE.read_text(encoding="utf-8").splitlines(keepends=True)
    if count > len(lines):
        raise UserError(f"--lines {count}：{TRAIN_FILE} 只有 {len(lines)} 行。")
    data, save_dir = work_dir / f"{model.name}-{count}.jsonl", work_dir / f"{model.name}-{count}"
    data.write_text("".join(random.Random(SEED).sample(lines, count)), encoding="utf-8")
    epochs = max(MIN_EPOCHS, math.ceil(steps / math.ceil(count / SAMPLES_PER_STEP)))
    command = [sys.executable, str(ROOT / "train.py"), "--pre_model", str(model), "--train_path", str(data)]
    command += ["--save_dir", str(save_dir), "--overwrite_output_dir", "--epochs", str(epochs)]
    command += ["--best_metric", "dev_loss", "--eval_samples", "0", "--eval_steps", "0", *arguments]
    log(f"{model.name}：{count} 行，{epochs} 轮")
    if subprocess.run(command, cwd=ROOT).returncode:
        raise UserError("训练没有成功，见上面的输出。")
    records = [json.loads(line) for line in (save_dir / "metrics.jsonl").read_text("utf-8").splitlines()]
    final: dict[str, float] = records[-1]
    return final


def draw(results: dict[str, dict[str, float]], path: Path) -> None:
    """Draw one line for each base, F1 against lines of training data.

    Args:
        results: F1 by number of lines, by label.
        path: of the SVG file.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "learning_curve"  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    for label, points in results.items():
        pairs = sorted((int(count), f1) for count, f1 in points.items())
        axes.plot(*zip(*pairs, strict=True), marker="o", label=label)
        for count, f1 in pairs:
            axes.annotate(f"{f1:.2f}", (count, f1), textcoords="offset points", xytext=(0, 6), ha="center")
    axes.set(xlabel="lines of training data", ylabel="strict F1 on dev", xscale="log", ylim=(-0.05, 1))
    ticks = sorted({int(count) for points in results.values() for count in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def main() -> None:
    """Read the command line, train, write results and figure."""
    parser = ChineseArgumentParser(description="画学习曲线（训练行数与 F1）；-- 之后的参数交给 train.py")
    parser.add_argument("--model", type=Path, default=MODEL_DIR, help="基座目录，结果也写在这里")
    parser.add_argument(
        "--lines", type=int, nargs="*", default=[63, 125, 250, 500, 1009], help="从基座起训练的行数"
    )
    parser.add_argument("--random_lines", type=int, nargs="*", default=[1009], help="从随机权重起训练的行数")
    parser.add_argument("--steps", type=int, default=250, help="每次训练至少多少步（每步 8 条）")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/learning_curve"), help="训练的输出目录")
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    args = parser.parse_args(arguments[:split])
    args.work_dir.mkdir(parents=True, exist_ok=True)
    figures = args.model / "learning_curve.json"
    results = json.loads(figures.read_text("utf-8")) if figures.is_file() else {}
    random_model = args.work_dir / "random"
    if args.random_lines:
        write_random_model(random_model, args.model)
    bases = {
        "pre-trained base": (args.model, args.lines),
        "random initialisation": (random_model, args.random_lines),
    }
    for label, (model, counts) in bases.items():
        for count in counts:
            final = fine_tune(model, count, args.steps, args.work_dir, arguments[split + 1 :])
            results.setdefault(label, {})[str(count)] = round(final["triplet_f1"], 4)
            figures.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, args.model / "learning_curve.svg")
    log(f"已写入 {figures} 和 learning_curve.svg")


if __name__ == "__main__":
    run_main(main)
