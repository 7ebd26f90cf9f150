"""From files in foreign formats to training files: read, check, split, write, account for every line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from data_handle.conversion.checking import DEFAULT_TYPE, Checked, Sample, check_sentences
from data_handle.conversion.negatives import read_negatives
from data_handle.conversion.split import split_samples
from data_handle.converters import RECORD_CONVERTERS, Converter, FileContent, read_file
from data_handle.converters.answers import Types
from data_handle.converters.fields import read_fact
from data_handle.converters.labelled import Fact, Problem, Settings, Span, excerpt
from data_handle.converters.plain_sentences import read_sentences
from data_handle.converters.source import open_source
from data_handle.converters.table import read_types_file, read_types_workbook
from data_handle.sentences import sentence_key
from task.prompt import INSTRUCTION, build_prompt
from task.triplets import format_target
from utils.command_line import summarise
from utils.common_utils import UserError, log, to_json
from utils.directories import is_special, temporary_beside

_EXAMPLES = 3
_LONG_SENTENCE = 250  # characters, more than `max_source_seq_len` takes as a rule


@dataclass
class Conversion:
    """What is to be converted, and how.

    Args:
        inputs: files or folders.
        output: the training file to write.
        dev: the dev file to write, if any.
        dev_ratio: its share of the sentences.
        seed: of the split and of the choice of negatives.
        types: a table of predicates with their types.
        instruction: of prompts that bring none of their own.
        negatives: a file of sentences without triplets.
        negatives_count: how many of them at most.
        exclude: files whose sentences are left out, a dev set say.
        report: a file for all that can't be used, one JSON object a line.
        overwrite: replace existing files.
        settings: how the inputs are to be read.
        converters: the formats of JSON records to look for.
    """

    inputs: list[Path]
    output: Path
    dev: Path | None = None
    dev_ratio: float = 0.1
    seed: int = 42
    types: Path | None = None
    instruction: str = INSTRUCTION
    negatives: Path | None = None
    negatives_count: int | None = None
    exclude: Sequence[Path] = ()
    report: Path | None = None
    overwrite: bool = False
    settings: Settings = field(default_factory=Settings)
    converters: Sequence[Converter] = RECORD_CONVERTERS


@dataclass
class Outcome:
    """What a conversion wrote, and what it could not use."""

    train: list[Sample]
    dev: list[Sample]
    problems: list[Problem]


def convert(conversion: Conversion) -> Outcome:
    """Convert files; what is written appears whole or not at all. What became of each file is told on stderr.

    Raises:
        UserError: a file can't be read or written, exists already, or not one sentence can be used.
    """
    _check_paths(conversion)
    types = _read_types(conversion.types)
    contents = [read_file(path, conversion.settings, conversion.converters) for path in conversion.inputs]
    checked = check_sentences([sentence for content in contents for sentence in content.sentences], types)
    samples, problems = (
        checked.samples,
        [p for content in contents for p in content.problems] + checked.problems,
    )
    samples, excluded = _leave_out(samples, conversion.exclude)
    problems += excluded
    for content in contents:
        _log_file(content, _lost_units(content, problems))
    log_problems(problems)
    _log_notes(checked)
    if not samples:
        raise UserError("没有一个句子可用，没有写任何文件：原因见上面的报告。")
    if not any(sample.triplets for sample in samples):
        raise UserError("所有句子都没有三元组，没有写任何文件：请检查标注里有没有关系。")
    if conversion.negatives is not None:
        found, unusable = read_negatives(
            conversion.negatives, samples, conversion.negatives_count, conversion.seed
        )
        log(f"{conversion.negatives}：加入 {len(found)} 个没有三元组的句子，{len(unusable)} 个没有采用。")
        log_problems(unusable)
        samples, problems = samples + found, problems + unusable
    train: list[Sample] = samples
    dev: list[Sample] = []
    if conversion.dev is not None:
        train, dev = split_samples(samples, conversion.dev_ratio, conversion.seed)
    _write(conversion, train, dev, problems)
    return Outcome(train, dev, problems)


def _check_paths(conversion: Conversion) -> None:
    """Refuse, before anything is read, what can't be written or would be lost by it."""
    outputs = [conversion.output, conversion.dev, conversion.report]
    others = [conversion.types, conversion.negatives]
    check_outputs(outputs, [*conversion.inputs, *conversion.exclude, *others], conversion.overwrite)


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None], overwrite: bool) -> None:
    """Refuse to write where nothing can be written, over an input, or unasked over anything.

    Raises:
        UserError: that would happen; all of it.
    """
    paths = [path for path in outputs if path is not None]
    sources = [path for path in inputs if path is not None and path.exists()]
    problems = []
    if len({path.absolute() for path in paths}) < len(paths):
        problems.append("几个输出写的是同一个文件，请给出不同的文件名。")
    for path in paths:
        if path.is_dir():
            problems.append(f"输出 {path} 是目录，请给出文件名。")
        elif is_special(path):
            problems.append(f"输出 {path} 是设备或管道，不能替换，请给出文件名。")
        elif not path.parent.is_dir():
            problems.append(f"写不了 {path}：目录 {path.parent} 不存在，请先建好。")
        elif path.exists() and any(path.samefile(source) for source in sources):
            problems.append(f"输入和输出是同一个文件 {path}，请换一个输出文件名。")
        elif path.exists() and any(path.parent.samefile(source) for source in sources if source.is_dir()):
            problems.append(f"输出 {path} 是输入的文件夹里的一个文件，请换一个输出文件名。")
        elif path.exists() and not overwrite:
            problems.append(f"输出文件 {path} 已经存在，要覆盖请加 --overwrite。")
    if problems:
        raise UserError(summarise("输出", problems))


def _leave_out(samples: list[Sample], paths: Sequence[Path]) -> tuple[list[Sample], list[Problem]]:
    """Take out samples whose sentences stand in files; punctuation and digits make no difference."""
    known = {sentence_key(text) for path in paths for _, text in read_sentences(path)}
    problems = [
        Problem(sample.where, "句子在 --exclude 的文件里（标点、数字不算区别）", excerpt(sample.text))
        for sample in samples
        if sentence_key(sample.text) in known
    ]
    return [sample for sample in samples if sentence_key(sample.text) not in known], problems


def _read_types(path: Path | None) -> dict[str, Types]:
    if path is None:
        return {}
    source = open_source(path)
    if source.form == "table":
        return read_types_file(path, source.text)
    if source.form == "workbook":
        return read_types_workbook(path)
    found = {}
    for _, value in source.records:  # a schema, as DuIE has it
        fact = (
            read_fact({"subject": "", "object": "", **value}) if isinstance(value, dict) else Fact("", "", "")
        )
        if fact.predicate and fact.subject_type and fact.object_type:
            found[fact.predicate] = Types(fact.subject_type, fact.object_type)
    if not found:
        raise UserError(f"类型表 {path} 应当是 CSV：关系、主语类型、宾语类型三列。")
    return found


def _lost_units(content: FileContent, problems: Sequence[Problem]) -> int:
    """Return how many lines (items, tasks, rows) of a file are lost as a whole."""
    prefix = str(content.path)
    places = {
        problem.where
        for problem in problems
        if problem.whole and problem.where.startswith(prefix) and problem.where[len(prefix) :][:1] in ":/ 「"
    }
    return min(len(places), content.units)


def _log_file(content: FileContent, lost: int) -> None:
    log(
        f"{content.path}：认作 {content.description}；"
        f"读入 {content.units} {content.unit}，采用 {content.units - lost} {content.unit}，"
        f"没有采用 {lost} {content.unit}。"
    )


def log_problems(problems: Sequence[Problem]) -> None:
    """Tell each reason with its count and a few examples."""
    by_reason: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_reason[problem.reason].append(problem)
    for reason, found in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        log(f"  没有采用，{reason}：{len(found)} 处")
        for problem in found[:_EXAMPLES]:
            log(f"    {problem.where}" + (f"：{problem.detail}" if problem.detail else ""))
        if len(found) > _EXAMPLES:
            log(f"    ……还有 {len(found) - _EXAMPLES} 处（--report 写出全部）")


def _log_notes(checked: Checked) -> None:
    """Tell what was put right, and what was assumed."""
    for note, count in checked.notes.items():
        log(f"  注意：{note}：{count} 处，例如 {checked.examples[note][0]}")
    if checked.merged:
        log(f"  注意：{checked.merged} 处与前面是同一个句子，三元组已合在一起。")
    without_types = +checked.without_types
    if without_types:
        names = "、".join(f"{name} {count}" for name, count in without_types.most_common(5))
        log(
            f"  注意：{without_types.total()} 个三元组缺主语或宾语的类型，以“{DEFAULT_TYPE}”代替（{names}）；"
            "要指定请用 --types 给出类型表。"
        )
    broken = [sample for sample in checked.samples if "\n" in sample.text]
    if broken:
        log(
            f"  注意：{len(broken)} 个句子里有换行，例如 {broken[0].where}；抽取时一行算一句，"
            "最好也按行标注。"
        )
    long = [sample for sample in checked.samples if len(sample.text) > _LONG_SENTENCE]
    if long:
        log(
            f"  注意：{len(long)} 个句子超过 {_LONG_SENTENCE} 字，训练时可能被截短，例如 {long[0].where}；"
            "可以先切成句子再标注，或调大 max_source_seq_len。"
        )


def _write(
    conversion: Conversion, train: Sequence[Sample], dev: Sequence[Sample], problems: Sequence[Problem]
) -> None:
    """Write all files beside their places, then put them there."""
    texts = {conversion.output: _lines(train, conversion.instruction)}
    if conversion.dev is not None:
        texts[conversion.dev] = _lines(dev, conversion.instruction)
    if conversion.report is not None:
        texts[conversion.report] = "".join(to_json(problem._asdict()) + "\n" for problem in problems)
    write_whole(texts)
    for path, samples in ((conversion.output, train), (conversion.dev, dev)):
        if path is not None:
            triplets = sum(len(sample.triplets) for sample in samples)
            predicates = {triplet.predicate for sample in samples for triplet in sample.triplets}
            empty = sum(not sample.triplets for sample in samples)
            log(
                f"已写入 {path}：{len(samples)} 个句子，{triplets} 个三元组，{len(predicates)} 种关系，"
                f"其中 {empty} 个句子没有三元组。"
            )


def write_whole(texts: dict[Path, str]) -> None:
    """Write files so that each appears whole, and none if one of them can't be written.

    Raises:
        UserError: one can't be written.
    """
    unfinished: dict[Path, Path] = {}
    path = next(iter(texts))
    try:
        for path, text in texts.items():
            unfinished[path] = temporary_beside(path)
            unfinished[path].write_text(text, encoding="utf-8", newline="\n")
        for path, temporary in unfinished.items():
            temporary.replace(path)
    except OSError as error:
        raise UserError(f"写 {path} 时出错（{error.strerror}）：请检查权限和剩余空间。") from error
    finally:
        for temporary in unfinished.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _lines(samples: Sequence[Sample], instruction: str) -> str:
    return "".join(f"{_line(sample, instruction)}\n" for sample in samples)


def _line(sample: Sample, instruction: str) -> str:
    """Return a training line; places that the source told stand in a field of their own, for checking."""
    line: dict[str, object] = {
        "context": build_prompt(sample.text, sample.instruction or instruction),
        "target": format_target(sample.triplets),
    }
    if any(span for pair in sample.spans for span in pair):
        line["spans"] = [
            {"object_span": _as_list(object_span), "subject_span": _as_list(subject_span)}
            for object_span, subject_span in sample.spans
        ]
    return to_json(line)


def _as_list(span: Span | None) -> list[int] | None:
    return None if span is None else list(span)
