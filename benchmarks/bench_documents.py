"""What reading sentences with their neighbours gains on documents: precision, recall and time.

Usage: python -m benchmarks.bench_documents --adapter output/demo

The documents (benchmarks/documents.jsonl) were written for this: most name their subject a sentence or two
before what is said of it. They are read one by one, and five at a time as one longer document: as a whole,
each sentence alone, and each with one or two neighbours on both sides. A triplet counts as found by its
subject, predicate and object. The last line is a JSON object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from extraction.documents import DocumentExtractor
from extraction.loading import ExtractorOptions, load_extractor
from extraction.result import Extractor
from utils.command_line import ChineseArgumentParser, positive_int
from utils.common_utils import run_main
from utils.table import format_table

DOCUMENTS = Path(__file__).resolve().parent / "documents.jsonl"
_JOINED = 5
_FACT = ("subject", "predicate", "object")


def read_documents(joined: int) -> list[tuple[str, set[tuple[str, ...]]]]:
    """Return the documents, so many at a time as one, each with its facts."""
    records = [json.loads(line) for line in DOCUMENTS.read_text(encoding="utf-8").splitlines()]
    return [
        (
            "\n\n".join(record["text"] for record in records[start : start + joined]),
            {
                tuple(fact[key] for key in _FACT)
                for record in records[start : start + joined]
                for fact in record["triplets"]
            },
        )
        for start in range(0, len(records), joined)
    ]


def measure(extractor: Extractor, documents: Sequence[tuple[str, set[tuple[str, ...]]]]) -> dict[str, float]:
    """Return precision, recall, F1, and the CPU seconds of all documents."""
    start = time.process_time()
    found = dict(extractor.stream([text for text, _ in documents]))
    seconds = time.process_time() - start
    right = predicted = expected = 0
    for index, (_, facts) in enumerate(documents):
        given = {tuple(getattr(triplet, key) for key in _FACT) for triplet in found[index].triplets}
        right, predicted = right + len(given & facts), predicted + len(given)
        expected += len(facts)
    return {
        "precision": right / max(predicted, 1),
        "recall": right / expected,
        "f1": 2 * right / (predicted + expected),
        "cpu_seconds": seconds,
    }


def main() -> int:
    """Run the benchmark."""
    parser = ChineseArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adapter", type=Path, default=Path("output/demo"), help="默认是 make demo 得到的")
    parser.add_argument("--pre_model", help="基座模型；默认是训练时的那个")
    parser.add_argument("--batch_size", type=positive_int, default=16)
    options = parser.parse_args()
    extractor = load_extractor(
        ExtractorOptions(
            adapter=options.adapter,
            pre_model=options.pre_model,
            batch_size=options.batch_size,
            with_scores=True,
            min_score=0.0,  # as the command reads documents
        )
    )
    ways: dict[str, Extractor] = {
        "as a whole": extractor,
        **{f"context {reach}": DocumentExtractor(extractor, reach) for reach in (0, 1, 2)},
    }
    rows, figures = [], {}
    for size in (1, _JOINED):
        documents = read_documents(size)
        for name, way in ways.items():
            one = figures[f"{name}, {size} at a time"] = measure(way, documents)
            rows.append([str(len(documents)), name, *(f"{value:.3f}" for value in one.values())])
    print(format_table(["documents", "read", "P", "R", "F1", "CPU seconds"], rows))
    result: dict[str, Any] = {"figures": figures}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    run_main(main)
