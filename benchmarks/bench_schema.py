"""F1 on relations that were never trained, asked by name; and what naming relations costs the trained ones.

Usage: python -m benchmarks.bench_schema [--train FILE --dev FILE --held_out 作曲,毕业院校,… --output DIR]
       [--pre_model DIR] [--learning_rate 8e-4] [-- options for train.py, such as --relations_per_prompt 4]

All training lines that hold a relation of --held_out are put aside. Two adapters are trained on the rest,
with the demo's settings but for fewer epochs: as usual, and with --schema_prompt (about as many optimiser
steps). The lines put aside, and those of dev that hold such a relation, are asked for these relations; all of
dev for the others. What is done already in --output is not done again. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.bench_quality import lora_modules
from data_handle.reader import Example, read_jsonl
from extraction.decoding.grammar import Constraint
from extraction.evaluation.mistakes import Scored, bootstrap, total
from extraction.loading import ExtractorOptions, load_extractor
from task.answers import read_answer
from task.prompt import build_prompt, split_context
from task.schema import Schema
from task.triplets import Triplet, combination_of
from utils.command_line import ChineseArgumentParser
from utils.common_utils import PROJECT, UserError, log, run_main, to_json
from utils.directories import write_file
from utils.table import format_table

HELD_OUT = "作曲,毕业院校,总部地点,海拔,母亲"
EPOCHS = {"plain": 3, "schema_prompt": 2}  # about as many steps: a line has several prompts then
RECIPE = (
    "--lora_rank 32 --lora_alpha 64 --lora_dropout 0 --eval_steps 0 --eval_samples 0 --best_metric "
    "dev_loss --eval_batch_size 32"
)


class Line(NamedTuple):
    """A labelled line."""

    sentence: str
    triplets: frozenset[Triplet]

    def of(self, predicates: Iterable[str], *, others: bool = False) -> Line:
        """Return it with the triplets of some relations only; of the others, if `others`."""
        names = set(predicates)
        return Line(
            self.sentence, frozenset(each for each in self.triplets if (each.predicate in names) != others)
        )


def main() -> int:
    """Run the benchmark."""
    parser = ChineseArgumentParser(description=(__doc__ or "").splitlines()[0])
    data = PROJECT / "data"
    parser.add_argument(
        "--train", type=Path, default=data / "mixed_train_dataset.jsonl", help="labelled lines"
    )
    parser.add_argument("--dev", type=Path, default=data / "mixed_dev_dataset.jsonl", help="labelled lines")
    parser.add_argument("--held_out", default=HELD_OUT, help="relations to put aside, with commas")
    parser.add_argument("--pre_model", default=str(PROJECT / "models" / "chatglm-tiny"), help="the base")
    parser.add_argument("--output", type=Path, default=Path("output/schema"), help="where everything goes")
    parser.add_argument("--epochs", type=int, help="of both, instead of the usual ones")
    parser.add_argument("--learning_rate", default="2e-3", help="of both; 8e-4 for Gemma 3 270M")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="after --: options for train.py")
    args = parser.parse_args()
    held_out = args.held_out.split(",")
    examples, dev = read_jsonl(args.train)[0], _labelled(read_jsonl(args.dev)[0])
    aside = [line for line in _labelled(examples) if line.of(held_out).triplets]
    if missing := [name for name in held_out if not any(line.of([name]).triplets for line in aside)]:
        raise UserError(f"{args.train} 里没有关系 {'、'.join(missing)}，请检查 --held_out。")
    reduced = args.output / "train.jsonl"
    put_aside = {line.sentence for line in aside}
    kept = [each for each in examples if split_context(each.context)[1] not in put_aside]
    write_file(reduced, "".join(to_json({"context": e.context, "target": e.target}) + "\n" for e in kept))
    both = [*dev, *aside]
    unseen = Schema(frozenset(combination_of(t) for line in both for t in line.of(held_out).triplets))
    of_dev = [each for line in dev if (each := line.of(held_out)).triplets]
    questions = {
        "unseen, alone": ([line.of(held_out) for line in aside], unseen, False),
        "unseen, alone, dev": (of_dev, unseen, False),
        "unseen, among all, dev": (of_dev, unseen, True),
        "trained": ([line.of(held_out, others=True) for line in dev], Schema(frozenset()), True),
    }
    results: dict[str, Any] = {"held_out": held_out, "trained_lines": len(kept)}
    for kind in EPOCHS:
        adapter, seconds = train(args, kind, reduced)
        results[kind] = {"train_cpu_seconds": seconds, **ask(adapter, questions)}
    write_file(args.output / "results.json", to_json(results, indent=2) + "\n")
    header = ["adapter", "relations", "lines", "triplets", "P", "R", "F1", "95 %", "CPU s"]
    print(format_table(header, [row for kind in EPOCHS for row in rows(kind, results[kind])]))
    print(json.dumps(results, ensure_ascii=False))
    return 0


def _labelled(examples: Sequence[Example]) -> list[Line]:
    """Return the lines that are of triplets."""
    lines = []
    for example in examples:
        head, sentence, _ = split_context(example.context)
        triplets = read_answer(example.target, head, sentence).triplets
        if triplets is not None:
            lines.append(Line(sentence, frozenset(triplets)))
    return lines


def train(args: argparse.Namespace, kind: str, data: Path) -> tuple[Path, float]:
    """Train an adapter, or take that of an earlier call; return it, and the seconds of CPU."""
    folder = args.output / kind
    note = folder / "seconds.json"
    if not note.exists():
        command = [sys.executable, str(PROJECT / "train.py"), "--pre_model", args.pre_model, *RECIPE.split()]
        command += ["--lora_target_modules", *lora_modules(Path(args.pre_model))]
        command += ["--train_path", str(data), "--dev_path", str(args.dev), "--save_dir", str(folder / "run")]
        command += ["--overwrite_output_dir", "--epochs", str(args.epochs or EPOCHS[kind])]
        command += ["--learning_rate", args.learning_rate]
        command += ["--schema_prompt"] if kind == "schema_prompt" else []
        rest = [word for word in args.rest if word != "--"]
        started = _cpu_of_children()
        subprocess.run([*command, *(rest if kind == "schema_prompt" else [])], check=True)
        write_file(note, json.dumps(round(_cpu_of_children() - started, 1)))
    return folder / "run" / "model_best", json.loads(note.read_text(encoding="utf-8"))


def _cpu_of_children() -> float:
    import resource  # not on Windows

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ask(adapter: Path, questions: dict[str, tuple[list[Line], Schema, bool]]) -> dict[str, Any]:
    """Let an adapter answer, by the extractor itself: the command would refuse relations never trained."""
    extractor = load_extractor(ExtractorOptions(adapter, min_score=0.0))
    own = extractor.schema
    assert own is not None
    found: dict[str, Any] = {}
    for name, (lines, schema, with_own) in questions.items():
        extractor.constraint = Constraint(own.joined(schema) if with_own else schema)
        wanted = {each.predicate for each in (schema if schema.combinations else own).combinations}
        started = time.process_time()
        answers = extractor.extract(
            [line.sentence for line in lines], [build_prompt(line.sentence) for line in lines]
        )
        seconds = time.process_time() - started
        scored = [
            Scored(line.sentence, line.triplets, Line("", frozenset(answer.triplets)).of(wanted).triplets)
            for line, answer in zip(lines, answers, strict=True)
        ]
        log(f"{adapter}，{name}：F1 {total(scored).f1:.3f}")
        per = {
            predicate: total([_only(each, predicate) for each in scored]).to_dict()
            for predicate in sorted(wanted)
        }
        found[name] = {
            "lines": len(lines),
            **total(scored).to_dict(),
            "interval": bootstrap(scored),
            "cpu_seconds": round(seconds, 1),
            "per_predicate": per,
        }
    del extractor
    gc.collect()
    return found


def _only(scored: Scored, predicate: str) -> Scored:
    return Scored(
        scored.sentence,
        frozenset(each for each in scored.expected if each.predicate == predicate),
        frozenset(each for each in scored.predicted if each.predicate == predicate),
    )


def rows(kind: str, result: dict[str, Any]) -> list[list[str]]:
    """Return what an adapter got, a row for each question."""
    table = []
    for name, found in result.items():
        if isinstance(found, dict):
            figures = [f"{found[key]:.3f}" for key in ("precision", "recall", "f1")]
            low, high = found["interval"]
            counts = [str(found["lines"]), str(found["expected"])]
            table.append([kind, name, *counts, *figures, f"{low:.3f}-{high:.3f}", str(found["cpu_seconds"])])
    return table


if __name__ == "__main__":
    run_main(main)
