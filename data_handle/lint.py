"""The data linter: what in a set of JSONL files would teach a model something wrong, or nothing."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from data_handle.data_preprocess import FittedTarget, Tokenizer, fit_target
from data_handle.reader import Example, read_jsonl
from task.answers import CHANGES, NO_JSON, read_answer
from task.prompt import split_context
from task.triplets import KEYS, Combination, Triplet, combination_of, is_triplet_target, parse_target

# Kinds of findings: title, and whether it is a problem (exit code 1) or advice, only worth a look.
KINDS = {
    "bad_line": ("读不了的行", True),
    "prompt_format": ("context 不是本项目的提示词格式", True),
    "many_too_long": ("很多样本会被截短", True),
    "bad_target": ("答案不是合法的 JSON，或不是能用的三元组", True),
    "empty_value": ("三元组的字段为空", True),
    "not_in_sentence": ("主体或客体不在句子里", True),
    "repeated_triplet": ("同一答案里重复的三元组", True),
    "swapped": ("主体与客体的类型颠倒", True),
    "undeclared": ("schema 里没有的类型组合", True),
    "duplicate": ("重复的行", True),
    "conflict": ("同样的 context，不同的答案", True),
    "leak": ("同一句子出现在不同文件里", True),
    "only_here": ("训练集里没有的关系与类型，约束解码写不出", True),
    "no_empty_list": ("没有答案为 [] 的样本", True),
    "source_too_long": ("句子会被截短", False),
    "target_too_long": ("答案会被截短", False),
    "rewritten": ("答案的写法会先改成约定的写法", False),
    "key_order": ("字段顺序与约定不同", False),
    "other_answer": ("像是该有三元组的答案，却是别的", False),
    "rare_types": ("同一关系下少见的类型组合", False),
    "swapped_values": ("主体与客体的值可能颠倒", False),
}
_RARE_SHARE = 0.05
_RARE_MIN_TOTAL = 20
_MIN_EVIDENCE = 2
_MANY_TOO_LONG = 0.05


@dataclass(frozen=True)
class Finding:
    """One thing found: `where` is "file:line", or the file where it concerns the whole of it."""

    kind: str
    where: str
    detail: str


@dataclass(frozen=True)
class Line:
    """A good line, taken apart. `triplets` is None if the answer is none of triplets, or can't be read."""

    path: str
    example: Example
    sentence: str
    triplets: list[Triplet] | None
    source_tokens: int
    target_tokens: int

    @property
    def where(self) -> str:
        return f"{self.path}:{self.example.line_number}"


@dataclass(frozen=True)
class Lengths:
    """Token lengths of one side of a file, special tokens included, against their limit."""

    mean: float
    p95: int
    longest: int
    limit: int
    over: int


@dataclass
class FileStatistics:
    """The figures of one file."""

    path: str
    examples: int
    triplet_examples: int
    empty_examples: int
    bad_lines: int
    triplets: int
    source: Lengths
    target: Lengths


@dataclass
class LintReport:
    """Everything the linter found; `types` counts each relation over all files."""

    files: list[FileStatistics] = field(default_factory=list)
    types: Counter[Combination] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """True if nothing found is a problem."""
        return not any(KINDS[finding.kind][1] for finding in self.findings)


def lint_files(
    paths: Sequence[str | Path],
    tokenizer: Tokenizer,
    *,
    max_source_seq_len: int,
    max_target_seq_len: int,
    declared: Set[Combination] | None = None,
) -> LintReport:
    """Check data files, each by itself and against each other.

    Args:
        paths: the files; a sentence in two of them is a leak.
        tokenizer: what lengths are measured with.
        max_source_seq_len, max_target_seq_len: the limits in tokens, special tokens included.
        declared: the relations that may occur; without it, the majority among the data decides.

    Raises:
        UserError: a file can't be read, or holds not one good line.
    """
    report = LintReport()
    lines: list[Line] = []
    for path in paths:
        examples, bad_lines = read_jsonl(path)
        for bad_line in bad_lines:
            where = f"{bad_line.path}:{bad_line.line_number}"
            report.findings.append(Finding("bad_line", where, bad_line.reason))
        of_file = []
        for example in examples:
            line, findings = _check_line(
                str(path), example, tokenizer, max_source_seq_len, max_target_seq_len
            )
            of_file.append(line)
            report.findings += findings
        statistics = _statistics(str(path), of_file, len(bad_lines), max_source_seq_len, max_target_seq_len)
        report.files.append(statistics)
        if statistics.triplet_examples and not statistics.empty_examples:
            detail = "模型学不到“没有关系”时该怎么回答，请加入一些答案为 [] 的句子"
            report.findings.append(Finding("no_empty_list", str(path), detail))
        report.findings += _check_limits(statistics)
        lines += of_file

    report.types = Counter(combination_of(triplet) for line in lines for triplet in line.triplets or ())
    report.findings += _repetitions(lines)
    report.findings += _check_types(lines, report.types, declared)
    report.findings += _only_in_later_files(lines)
    report.findings += _check_swapped_values(lines)
    return report


def _normalised(text: str) -> str:
    """Fold what the tokenizer doesn't tell apart: full-width forms, runs of blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _check_line(
    path: str, example: Example, tokenizer: Tokenizer, max_source_seq_len: int, max_target_seq_len: int
) -> tuple[Line, list[Finding]]:
    """Take a line apart and check what can be checked without the others."""
    findings: list[tuple[str, str]] = []
    head, sentence, _ = split_context(example.context)
    if not head:
        findings.append(("prompt_format", "推理时的提示词会与它不同，见 README 的数据格式"))

    source_tokens = len(tokenizer.prompt_ids(example.context))
    if source_tokens > max_source_seq_len:
        findings.append(("source_too_long", f"{source_tokens} 个 token，上限 {max_source_seq_len}"))
    answer = fit_target(tokenizer, example.target, max_target_seq_len)
    if answer.tokens > max_target_seq_len:
        findings.append(("target_too_long", _target_loss(answer, max_target_seq_len)))

    triplets, of_answer = _check_answer(example.target, head, sentence)
    findings += of_answer
    line = Line(path, example, sentence, triplets, source_tokens, answer.tokens)
    return line, [Finding(kind, line.where, detail) for kind, detail in findings]


def _check_answer(
    target: str, head: str, sentence: str
) -> tuple[list[Triplet] | None, list[tuple[str, str]]]:
    """Return the triplets of an answer, None if it has none or they can't be used, and what was found."""
    triplets, why_not = None, None
    try:
        triplets = parse_target(target) if is_triplet_target(target) else None
    except ValueError as error:
        why_not = str(error)
    answer = read_answer(target, head, sentence)
    findings: list[tuple[str, str]] = []
    if triplets is None:
        problem = answer.problem or (why_not if answer.triplets is None else None) or _broken_list(target)
        if problem:
            return None, [("bad_target", (_syntax_error(target) if problem == NO_JSON else None) or problem)]
        if answer.triplets is None:
            return None, [("other_answer", "训练时按文字处理")] if answer.is_other else []
        triplets = list(answer.triplets)
    elif answer.problem and all(value.strip() for triplet in triplets for value in triplet):
        return None, [("bad_target", answer.problem)]
    if rewritten := [CHANGES[kind] for kind in answer.changes if kind != "notation"]:
        findings.append(("rewritten", "、".join(rewritten)))
    if order := _other_order(target):
        findings.append(("key_order", f"{'、'.join(order)}，应为 {'、'.join(KEYS)}"))
    findings += _check_triplets(sentence, triplets)
    return (None if answer.problem else triplets), findings


def _other_order(target: str) -> tuple[str, ...] | None:
    """Return the fields of the first triplet of a plain list that has them in another order."""
    try:
        items = json.loads(target[target.index("[") : target.rindex("]") + 1])
    except ValueError:
        return None
    return next((tuple(item) for item in items if set(item) == set(KEYS) and tuple(item) != KEYS), None)


def _broken_list(target: str) -> str | None:
    """Say what is wrong with a list or object of another kind that is not whole."""
    return _syntax_error(target) if target.lstrip().startswith(("[", "{")) else None


def _syntax_error(target: str) -> str | None:
    """Say in Chinese where an answer, but for a fence around it, is no JSON; None if it is."""
    body = target.strip()
    if body.startswith("```"):
        body = body.removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        return f"JSON 有语法错误，第 {error.pos + 1} 个字符处"
    except (RecursionError, ValueError):
        return "JSON 嵌套过深"
    return None


def _target_loss(answer: FittedTarget, limit: int) -> str:
    if answer.text_cut:
        loss = "文字会被截断"
    elif answer.input_ids is None:
        loss = "一个三元组也放不下，整条不会用于训练"
    else:
        loss = f"会去掉末尾 {answer.items_dropped} 个三元组"
    return f"{answer.tokens} 个 token，上限 {limit}，{loss}"


def _check_triplets(sentence: str, triplets: Sequence[Triplet]) -> Iterator[tuple[str, str]]:
    normalised = _normalised(sentence)
    values = [(name, value) for t in triplets for name, value in (("主体", t.subject), ("客体", t.object))]
    for name, value in dict.fromkeys(values):
        if _normalised(value) not in normalised:
            yield "not_in_sentence", f"{name}“{value}”"
    for triplet, count in Counter(triplets).items():
        if count > 1:
            yield "repeated_triplet", f"{_show(triplet)} 出现 {count} 次"
        empty = [name for name, value in triplet._asdict().items() if not value.strip()]
        if empty:
            yield "empty_value", f"{_show(triplet)}：{'、'.join(empty)}"


def _repetitions(lines: Sequence[Line]) -> Iterator[Finding]:
    """Find repeated lines and contradictions, and sentences that more than one file has."""
    by_context: dict[str, Line] = {}
    by_sentence: dict[str, Line] = {}
    for line in lines:
        earlier = by_context.setdefault(line.example.context, line)
        if earlier is not line and earlier.path == line.path:
            same = earlier.example.target == line.example.target
            yield Finding("duplicate" if same else "conflict", line.where, f"与 {earlier.where} 相同")
        first = by_sentence.setdefault(_normalised(line.sentence), line)
        if first.path != line.path:
            yield Finding("leak", line.where, f"与 {first.where} 是同一个句子")


def _check_types(
    lines: Sequence[Line], counts: Counter[Combination], declared: Set[Combination] | None
) -> Iterator[Finding]:
    """Find types that are swapped, undeclared or rare, against the declared relations or the majority."""
    totals: Counter[str] = Counter()
    for types, count in counts.items():
        totals[types.predicate] += count
    for line in lines:
        for types in dict.fromkeys(map(combination_of, line.triplets or ())):
            reverse = Combination(types.predicate, types.object_type, types.subject_type)
            text = f"{types.predicate}（{types.subject_type} → {types.object_type}）"
            if declared is not None:
                if types in declared:
                    continue
                swapped = reverse in declared
            else:
                swapped = counts[reverse] > counts[types]
            total = totals[types.predicate]
            if swapped:
                detail = f"{text}，应为 {reverse.subject_type} → {reverse.object_type}"
                yield Finding("swapped", line.where, detail)
            elif declared is not None:
                yield Finding("undeclared", line.where, text)
            elif total >= _RARE_MIN_TOTAL and counts[types] < total * _RARE_SHARE:
                yield Finding("rare_types", line.where, f"{text}，{total} 次里只有 {counts[types]} 次")


def _check_limits(statistics: FileStatistics) -> Iterator[Finding]:
    """Find limits that cut much of a file."""
    sides = (("max_source_seq_len", statistics.source), ("max_target_seq_len", statistics.target))
    for name, lengths in sides:
        share = lengths.over / statistics.examples
        if share > _MANY_TOO_LONG and statistics.examples >= _RARE_MIN_TOTAL:
            detail = f"{lengths.over} 条（{share:.0%}）超过 {name}={lengths.limit}，最长 {lengths.longest}"
            yield Finding("many_too_long", statistics.path, f"{detail}，请调大它")


def _only_in_later_files(lines: Sequence[Line]) -> Iterator[Finding]:
    """Find relations that the first file, which is taken to be the training data, lacks."""
    in_train = {
        combination_of(triplet)
        for line in lines
        if line.path == lines[0].path
        for triplet in line.triplets or ()
    }
    for line in lines if in_train else ():
        for types in dict.fromkeys(map(combination_of, line.triplets or ())):
            if types not in in_train:
                text = f"{types.predicate}（{types.subject_type} → {types.object_type}）"
                yield Finding("only_here", line.where, f"{text}，{lines[0].path} 里没有")


def _check_swapped_values(lines: Sequence[Line]) -> Iterator[Finding]:
    """Find triplets one value of which other triplets only know by the type of its counterpart."""
    known: defaultdict[str, Counter[str]] = defaultdict(Counter)
    triplets = [(line, triplet) for line in lines for triplet in line.triplets or ()]
    for _, triplet in triplets:
        known[triplet.subject][triplet.subject_type] += 1
        known[triplet.object][triplet.object_type] += 1

    def is_other(value: str, stated: str, other: str) -> bool:
        return known[value][stated] == 1 and known[value][other] >= _MIN_EVIDENCE

    for line, triplet in triplets:
        subject_type, object_type = triplet.subject_type, triplet.object_type
        if triplet.subject != triplet.object and (
            is_other(triplet.subject, subject_type, object_type)
            or is_other(triplet.object, object_type, subject_type)
        ):
            yield Finding("swapped_values", line.where, f"{_show(triplet)}：同样的值在别处是另一种类型")


def _show(triplet: Triplet) -> str:
    return f"（{triplet.subject}，{triplet.predicate}，{triplet.object}）"


def _statistics(
    path: str, lines: Sequence[Line], bad_lines: int, max_source_seq_len: int, max_target_seq_len: int
) -> FileStatistics:
    answers = [line.triplets for line in lines if line.triplets is not None]
    return FileStatistics(
        path,
        examples=len(lines),
        triplet_examples=len(answers),
        empty_examples=answers.count([]),
        bad_lines=bad_lines,
        triplets=sum(map(len, answers)),
        source=_lengths([line.source_tokens for line in lines], max_source_seq_len),
        target=_lengths([line.target_tokens for line in lines], max_target_seq_len),
    )


def _lengths(tokens: list[int], limit: int) -> Lengths:
    ordered = sorted(tokens)
    return Lengths(
        mean=round(sum(ordered) / len(ordered), 1),
        p95=ordered[math.ceil(0.95 * len(ordered)) - 1],
        longest=ordered[-1],
        limit=limit,
        over=sum(count > limit for count in ordered),
    )
