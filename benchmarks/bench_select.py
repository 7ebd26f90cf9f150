"""What `data_handle.label_studio select` is worth: F1 after some hundred lines chosen by it, or at random.

Usage: python -m benchmarks.bench_select --points 100 200 400 --seeds 0 1 2 --work DIR

The bundled training lines play the sentences that nobody has labelled, and their answers the annotator. Both
ways begin with the same few lines drawn at random. At each point random draws on; `select` trains on what it
has, reads the rest of the sentences and takes those that it would have labelled next. Everything is done by
the product's own commands with the settings of `make demo`; the adapter is that of the epoch with the lowest
dev loss. Steps that are finished lie in the working directory, and are not done again. The last line is a
JSON object.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from task.prompt import split_context
from task.triplets import is_triplet_target
from utils.command_line import ChineseArgumentParser, positive_int
from utils.common_utils import log, run_main, to_json
from utils.table import format_table

ROOT = Path(__file__).resolve().parent.parent
TRAIN, DEV = ROOT / "data" / "mixed_train_dataset.jsonl", ROOT / "data" / "mixed_dev_dataset.jsonl"
WAYS = {"random": "随机", "select": "select"}
_SETTINGS = (
    *("--learning_rate", "2e-3", "--lora_rank", "32", "--lora_alpha", "64", "--lora_dropout", "0"),
    *("--lora_target_modules", "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    *("--eval_steps", "0", "--save_freq", "0", "--tensorboard", "false", "--token_cache_dir", ""),
    *("--best_metric", "dev_loss", "--eval_samples", "0", "--eval_batch_size", "32"),
)


class Pool:
    """The lines that can be labelled: those with triplets, or an empty list, as their answer."""

    def __init__(self, path: Path) -> None:
        self.lines: dict[str, dict[str, str]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            fields = json.loads(line)
            if is_triplet_target(fields["target"]):
                self.lines.setdefault(split_context(fields["context"])[1], fields)

    def draw(self, count: int, seed: int) -> list[str]:
        """Return sentences in an order that depends on the seed only."""
        sentences = list(self.lines)
        random.Random(seed).shuffle(sentences)
        return sentences[:count]


class Study:
    """One seed's way through the points.

    Args:
        pool: what can be labelled.
        work: where its files go.
        seed: of the first lines, and of training.
        model: the base.
        epochs: of each training.
    """

    def __init__(self, pool: Pool, work: Path, seed: int, model: str, epochs: int) -> None:
        self.pool, self.work, self.seed, self.model, self.epochs = pool, work, seed, model, epochs

    def follow(self, way: str, start: int, points: Sequence[int]) -> dict[int, dict[str, float]]:
        """Label in one way; return the figures at each point, and at the start.

        Args:
            way: of `WAYS`.
            start: lines drawn at random before anything is chosen.
            points: numbers of lines, rising.
        """
        chosen = self.pool.draw(start, self.seed)
        figures = {start: self.train(f"start-{start}", chosen)}
        adapter = f"start-{start}"
        for count in points:
            if way == "random":
                chosen = self.pool.draw(count, self.seed)
            else:
                chosen = chosen + self.select(f"{way}-{count}", adapter, chosen, count - len(chosen))
            adapter = f"{way}-{count}"
            figures[count] = self.train(adapter, chosen)
        return figures

    def train(self, name: str, sentences: Sequence[str]) -> dict[str, float]:
        """Train on the lines of these sentences; return scores on dev."""
        run = self.work / name
        if not (run / "eval_report.json").exists():
            shutil.rmtree(run, ignore_errors=True)
            train = self.work / f"{name}.jsonl"
            train.write_text("".join(to_json(self.pool.lines[each]) + "\n" for each in sentences), "utf-8")
            self.call(
                *("train.py", "--pre_model", self.model, "--train_path", str(train), "--dev_path", str(DEV)),
                *("--save_dir", str(run), "--epochs", str(self.epochs), "--seed", str(self.seed)),
                *_SETTINGS,
            )
            for checkpoint in run.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
            log(f"种子 {self.seed}，{name}：已训练")
        report = json.loads((run / "eval_report.json").read_text(encoding="utf-8"))
        strict = report["triplets"]["strict"]
        triplets = sum(self.pool.lines[each]["target"].count('"predicate"') for each in sentences)
        return {name: round(strict[name], 4) for name in ("precision", "recall", "f1")} | {
            "triplets": triplets
        }

    def select(self, name: str, adapter: str, labelled: Sequence[str], count: int) -> list[str]:
        """Let the product choose the sentences to label next."""
        results, taken, chosen = (
            self.work / f"{name}.{end}" for end in ("results.jsonl", "labelled.txt", "chosen.jsonl")
        )
        if not chosen.exists():
            sentences = self.work / "sentences.jsonl"
            sentences.write_text("".join(to_json({"text": each}) + "\n" for each in self.pool.lines), "utf-8")
            taken.write_text("".join(to_json({"text": each}) + "\n" for each in labelled), "utf-8")
            self.call(
                *("inference_triplet.py", "--adapter", str(self.work / adapter), "--input", str(sentences)),
                *("--output", str(results), "--scores", "--min_score", "0", "--batch_size", "32"),
            )
            self.call(
                *("-m", "data_handle.label_studio", "select", str(results), "-n", str(count), "--overwrite"),
                *("-o", str(chosen), "--exclude", str(taken)),
            )
        return [json.loads(line)["text"] for line in chosen.read_text(encoding="utf-8").splitlines()]

    def call(self, *command: str) -> None:
        """Run one of the product's commands, its talk in a file.

        Raises:
            CalledProcessError: it failed.
        """
        with (self.work / "log.txt").open("ab") as talk:
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=talk, stderr=talk)


def main() -> int:
    """Run the study."""
    parser = ChineseArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", nargs="+", type=positive_int, default=[100, 200, 400], help="各多少行")
    parser.add_argument("--start", type=positive_int, default=50, help="先随机标多少行")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="哪些种子")
    parser.add_argument("--epochs", type=positive_int, default=5, help="每次训练几轮")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS), help="比较哪些")
    parser.add_argument("--work", type=Path, required=True, help="放中间结果的目录；中断后接着做")
    parser.add_argument("--model", choices=("tiny",), default="tiny", help="只用内置的小模型")
    options = parser.parse_args()
    pool = Pool(TRAIN)
    studies = []
    for seed in options.seeds:
        work = options.work.resolve() / f"seed-{seed}"
        work.mkdir(parents=True, exist_ok=True)
        studies.append(Study(pool, work, seed, str(ROOT / "models" / "chatglm-tiny"), options.epochs))
    for end in range(1, len(options.points) + 1):  # all seeds reach a point before one goes to the next
        figures = {
            way: [study.follow(way, options.start, options.points[:end]) for study in studies]
            for way in options.ways
        }
        report(figures, [options.start, *options.points[:end]])
    return 0


def report(figures: dict[str, list[dict[int, dict[str, float]]]], points: Sequence[int]) -> None:
    """Print the table and the line of JSON."""
    heads = ["lines", *(f"{way}: {name}" for way in figures for name in ("F1", "each seed", "triplets"))]
    rows = []
    for point in points:
        row = [str(point)]
        for seeds in figures.values():
            scores = [each[point]["f1"] for each in seeds]
            row += [f"{statistics.mean(scores):.3f}", " ".join(f"{score:.3f}" for score in scores)]
            row.append(f"{statistics.mean(each[point]['triplets'] for each in seeds):.0f}")
        rows.append(row)
    print(format_table(heads, rows))

    print(json.dumps({"figures": figures, "cores": os.cpu_count()}))


if __name__ == "__main__":
    run_main(main)
