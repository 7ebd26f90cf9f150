"""A data file as token features: one producer of encoded chunks, kept in memory or written to a directory.

A directory holds

    samples.bin    int64 [samples, 4]: where the sample starts in input_ids.bin, its tokens, those of context,
                   line number
    input_ids.bin  int32, all samples one after the other
    examples.bin   int64 [examples, 4]: where the line starts in text.bin, bytes of its context, bytes of
                   its target, line number
    text.bin       context and target of all examples in UTF-8 (the data file may change during a run)
    summary.json   bad lines, what became of the others, combinations of the answers

and in memory it is the same arrays. Imports no torch, because workers import this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_handle.data_preprocess import EncodingSummary, Features, Tokenizer, encode_each
from data_handle.parallel import map_in_workers, worker_count
from data_handle.reader import Example, check_lines, iter_examples
from data_handle.relation_prompts import RelationPrompts
from data_handle.stored_items import EncodedExamples, EncodedFeatures, Items
from task.triplets import Combination, combination_of
from utils.common_utils import log
from utils.jsonl import BadLine, describe_bad_lines

CHUNK_CHARACTERS = 1 << 18
SERIAL_BYTES = 8 << 20  # encoding less than this takes no longer than starting workers
SUMMARY_FILE = "summary.json"
_KINDS: list[type[Items[Any]]] = [EncodedFeatures, EncodedExamples]
_DATA_FILES = tuple(name for kind in _KINDS for name in (kind.index_file, kind.data_file))
FILES = (*_DATA_FILES, SUMMARY_FILE)  # that a directory holds


class TripletDataset:
    """The samples that batches are drawn from, with the tokens of each (int64)."""

    def __init__(self, features: Sequence[Features]) -> None:
        self.features = features
        self.lengths = lengths_of(features)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Features:
        return self.features[index]


def lengths_of(features: Sequence[Features]) -> np.ndarray:
    """Return the tokens of each, int64; of encoded features without making them."""
    if isinstance(features, EncodedFeatures):
        return features.lengths
    return np.array([len(item.input_ids) for item in features], np.int64)


@dataclasses.dataclass(frozen=True)
class EncodedFile:
    """A data file, or consecutive lines of one, ready for use.

    Attributes:
        path: the file.
        features: the samples: examples that fit the limits; of a line that is asked for some relations at a
            time, one for each prompt.
        examples: good lines whose answer can be used, in the product's notation.
        bad_lines: lines that can't be read.
        summary: what became of the others.
        combinations: of the answers of `examples`; what a `Schema` is made of.
    """

    path: str
    features: EncodedFeatures
    examples: EncodedExamples
    bad_lines: list[BadLine]
    summary: EncodingSummary
    combinations: frozenset[Combination]

    @property
    def dataset(self) -> TripletDataset:
        """The samples to draw batches from."""
        return TripletDataset(self.features)

    def report(self) -> list[str]:
        """Return the lines for the log, in Chinese: bad lines first, then what became of the others."""
        hint = self.summary.hint(self.path)
        lines = [*describe_bad_lines(self.bad_lines), f"{self.path}：{self.summary.report()}"]
        return [*lines, hint] if hint else lines

    def check(self, strict: bool) -> None:
        """Refuse a file that holds nothing to learn from or, if `strict`, any bad line.

        Raises:
            UserError: it is such a file.
        """
        good = len(self.examples) + len(self.summary.left_out)  # some are in both
        check_lines(self.path, good, self.bad_lines, strict)
        self.summary.check(self.path)


def encode_file(
    path: Path,
    tokenizer: Tokenizer,
    limits: tuple[int, int],
    workers: int = 1,
    prompts: RelationPrompts | None = None,
) -> Generator[EncodedFile, None, None]:
    """Encode a file part by part, in order: a few parts are all that is held in memory.

    Args:
        path: the data file.
        tokenizer: of the base; with several workers it has to be picklable.
        limits: `max_source_seq_len` and `max_target_seq_len`.
        workers: processes; with 1 this one does it itself.
        prompts: draws the prompts of lines that are asked for some relations at a time.

    Raises:
        UserError: the file is missing, no plain file, or unreadable.
        BrokenProcessPool: a worker was killed.
    """
    if prompts is not None:
        _ = prompts.pool  # read once, not by each worker
    encode = partial(_encode_chunk, str(path), tokenizer, limits, prompts)
    if workers == 1:
        yield from map(encode, _read_chunks(path))
        return
    log(f"正在用 {workers} 个进程为 {path} 分词，结果存入缓存，下次直接读取。")
    with contextlib.closing(map_in_workers(encode, _read_chunks(path), workers)) as chunks:
        yield from chunks


def _read_chunks(path: Path) -> Iterator[list[Example | BadLine]]:
    """Yield the lines of a file in lists of about `CHUNK_CHARACTERS`."""
    chunk: list[Example | BadLine] = []
    characters = 0
    for item in iter_examples(path):
        chunk.append(item)
        characters += 100 if isinstance(item, BadLine) else len(item.context) + len(item.target)
        if characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _encode_chunk(
    path: str,
    tokenizer: Tokenizer,
    limits: tuple[int, int],
    prompts: RelationPrompts | None,
    chunk: list[Example | BadLine],
) -> EncodedFile:
    summary = EncodingSummary(*limits)
    examples = (item for item in chunk if isinstance(item, Example))
    learnt = list(encode_each(tokenizer, examples, summary, prompts))
    triplets = itertools.chain.from_iterable(item.triplets or () for item in learnt)
    samples = [(each, item.example.line_number) for item in learnt for each in item.features]
    return EncodedFile(
        path,
        EncodedFeatures.pack([each for each, _ in samples], [number for _, number in samples]),
        EncodedExamples.pack([item.example for item in learnt]),
        [item for item in chunk if isinstance(item, BadLine)],
        summary,
        frozenset(map(combination_of, triplets)),
    )


# --------------------------------------------------------------------------------------------------- sinks


class _Totals:
    """What the parts of a file have together, beside features and examples."""

    def __init__(self, limits: tuple[int, int]) -> None:
        self.summary = EncodingSummary(*limits)
        self.bad_lines: list[BadLine] = []
        self.combinations: set[Combination] = set()

    def add(self, part: EncodedFile) -> None:
        """Count one part."""
        self.summary.add_all(part.summary)
        self.bad_lines += part.bad_lines
        self.combinations |= part.combinations


def encode_in_memory(
    path: Path, tokenizer: Tokenizer, limits: tuple[int, int], prompts: RelationPrompts | None = None
) -> EncodedFile:
    """Encode a file, which is read once and may be a pipe.

    Args:
        path, tokenizer, limits, prompts: see `encode_file`.

    Raises:
        UserError: the file can't be read.
    """
    totals, features, examples = _Totals(limits), [], []
    for part in encode_file(path, tokenizer, limits, prompts=prompts):
        totals.add(part)
        features.append(part.features)
        examples.append(part.examples)
    return EncodedFile(
        str(path),
        EncodedFeatures.join(features),
        EncodedExamples.join(examples),
        totals.bad_lines,
        totals.summary,
        frozenset(totals.combinations),
    )


def encode_into(
    directory: Path,
    path: Path,
    tokenizer: Tokenizer,
    limits: tuple[int, int],
    prompts: RelationPrompts | None = None,
) -> None:
    """Encode a file into a directory, on all cores if it is large.

    Args:
        directory: exists, and is empty.
        path, tokenizer, limits, prompts: see `encode_file`.

    Raises:
        UserError: the file can't be read, or there is nothing in it to learn from.
        OSError: a file can't be written.
    """
    workers = 1 if path.stat().st_size < SERIAL_BYTES else worker_count()
    try:
        with contextlib.closing(encode_file(path, tokenizer, limits, workers, prompts)) as parts:
            _write(directory, limits, parts)
    except BrokenProcessPool:
        log("分词的工作进程被系统终止了（多半是内存不足），改在主进程中重新分词。")
        _write(directory, limits, encode_file(path, tokenizer, limits, prompts=prompts))
    open_encoded(directory, path).check(strict=False)


def _write(directory: Path, limits: tuple[int, int], parts: Iterable[EncodedFile]) -> None:
    totals = _Totals(limits)
    written = dict.fromkeys(_DATA_FILES, 0)  # numbers or bytes in each
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((directory / name).open("wb")) for name in _DATA_FILES}
        for part in parts:
            totals.add(part)
            both: list[Items[Any]] = [part.features, part.examples]
            for items in both:
                files[items.index_file].write(items.index_from(written[items.data_file]).tobytes())
                files[items.data_file].write(items.data.tobytes())
                written[items.data_file] += len(items.data)
    content = {
        "bad_lines": [(line.line_number, line.reason, line.kind) for line in totals.bad_lines],
        "summary": dataclasses.asdict(totals.summary),
        "combinations": sorted(totals.combinations),
    }
    (directory / SUMMARY_FILE).write_text(json.dumps(content), encoding="utf-8")


def open_encoded(directory: Path, path: Path) -> EncodedFile:
    """Map what `encode_into` wrote.

    Args:
        directory: it.
        path: the data file, as messages shall name it.

    Raises:
        ValueError: something is not what was written; the message says in Chinese what.
        OSError: something is missing.
    """
    try:
        content = json.loads((directory / SUMMARY_FILE).read_text(encoding="utf-8"))
        summary = EncodingSummary.from_dict(content["summary"])
        bad_lines = [
            BadLine(str(path), int(number), str(reason), kind=str(kind))
            for number, reason, kind in content["bad_lines"]
        ]
        combinations = frozenset(Combination(*map(str, names)) for names in content["combinations"])
        features, examples = EncodedFeatures.open(directory), EncodedExamples.open(directory)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{SUMMARY_FILE} 或它旁边的文件不合格式") from error
    if (summary.examples, summary.tokens) != (len(features), features.lengths.sum()):
        raise ValueError(f"{SUMMARY_FILE} 与 {EncodedFeatures.index_file} 对不上")
    if damage := features.find_damage() or examples.find_damage():
        raise ValueError(damage)
    return EncodedFile(str(path), features, examples, bad_lines, summary, combinations)
