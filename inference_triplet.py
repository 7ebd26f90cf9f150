"""Command line of extraction: sentences in, triplets out as JSON on stdout; all other talk goes to stderr."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from extraction.arguments import build_parser, refuse_contradictions
from utils.common_utils import UserError, log, quiet_libraries, run_main, to_json
from utils.device import compute_dtype, limit_primitive_cache

if TYPE_CHECKING:
    import torch

    from extraction.decoding.grammar import Constraint
    from extraction.extractor import Extraction, TripletExtractor
    from extraction.files import FileSummary, Record
    from extraction.shards import Shards
    from glm_config import ProjectConfig
    from utils.jsonl import BadLine

DEMO_SENTENCES = (
    "《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。",
    "《活着》是作家余华创作的长篇小说，1993年由作家出版社出版。",
    "《青花瓷》由方文山作词，周杰伦作曲并演唱，收录在专辑《我很忙》中。",
    "白鳍豚属于鲸目，曾经生活在长江中下游。",
    "今天下午的雨下得很大，我们只好改天再去。",
)
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
WINDOW_BATCHES = 8  # batches of a file's lines worked on together; rows that finish make room for others
PRINTED_ERRORS = 10  # in the table on stderr
REPORTED_ERRORS = 20  # in the JSON on stdout; --report has all


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments; those of the process if not given.

    Returns:
        The exit code: 0 if every sentence got its result, else 1.

    Raises:
        UserError: what was asked for can't be done.
    """
    args = parse_arguments(sys.argv[1:] if argv is None else argv)
    results = sys.stdout
    if isinstance(results, io.TextIOWrapper):  # JSON is UTF-8 wherever it goes
        results.reconfigure(encoding="utf-8")
    with contextlib.redirect_stdout(sys.stderr):  # libraries may print; only results reach the real stdout
        try:
            adapter_file = args.adapter / "adapter_config.json" if args.adapter else None
            for path in (args.input, args.output, args.evaluate, args.report, args.schema, adapter_file):
                check_path(path)
            if args.input:
                return extract_file(args)
            if args.evaluate:
                return evaluate_file(args, results)
            if args.interactive:
                return converse(args, results)
            return extract_texts(args, DEMO_SENTENCES if args.text is None else [args.text], results)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported yet
                raise
            raise UserError(
                "显存不足：请调小 --batch_size 或 --max_new_tokens，关闭占用显存的其他程序，"
                "并确认训练配置 load_in_4bit 为 True。"
            ) from error


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line and refuse combinations that make no sense.

    Raises:
        UserError: it can't be understood, or contradicts itself.
    """
    args = build_parser().parse_args(list(argv))
    refuse_contradictions(args)
    if args.text is not None and (problem := typed_problem(args.text)):
        raise UserError(f"--text 不能抽取：{problem}。")
    return args


def check_path(path: Path | None) -> None:
    """Make sure that the system can say whether there is something at a path of the command line.

    Raises:
        UserError: it can't: the name is too long, or a directory above it is closed to the user.
    """
    try:
        if path is not None:
            path.exists()
    except OSError as error:
        name = str(path)
        shown = name if len(name) <= 60 else name[:60] + "…"
        raise UserError(f"路径 {shown} 不能用（{error.strerror}），请检查路径和权限。") from error


def text_problem(text: Any, name: str = "text") -> str | None:
    """Say in Chinese what is wrong with a sentence, the value of a field; None if nothing is."""
    from utils.jsonl import text_problem as field_problem

    return field_problem({name: text}, name)


def typed_problem(text: str) -> str | None:
    """Say in Chinese what is wrong with a sentence from the command line or the keyboard."""
    from utils.jsonl import decode_line

    try:  # bytes that were no UTF-8 stand in it as surrogates
        decode_line(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text_problem(text)
    except ValueError as error:
        return str(error)
    return text_problem(text)


def read_config(args: argparse.Namespace) -> tuple[ProjectConfig, Path | None]:
    """Return the configuration to run with, and the adapter's directory unless the bare base is wanted.

    An adapter brings the configuration of its training. Only the device is this machine's own.

    Raises:
        UserError: the adapter is missing or damaged, or its files contradict each other.
    """
    from bases.adapter import CONFIG_FILE, SCHEMA_FILE, load_adapter_meta, read_adapter_json
    from glm_config import ProjectConfig
    from task.schema import Schema

    config, directory = ProjectConfig(), None
    device = args.device or config.device
    if not args.no_adapter:
        directory = args.adapter or Path(config.save_dir) / "model_best"
        meta = load_adapter_meta(directory)
        config = ProjectConfig.from_dict(read_adapter_json(directory, CONFIG_FILE))
        Schema.load(directory / SCHEMA_FILE)
        for name in ("max_source_seq_len", "max_target_seq_len"):
            if getattr(config, name) != getattr(meta, name):
                raise UserError(
                    f"适配器 {directory} 的 {name} 前后不一致：{CONFIG_FILE} 里是 {getattr(config, name)}，"
                    f"训练时是 {getattr(meta, name)}，请恢复 {CONFIG_FILE}。"
                )
    config.device = device
    if args.pre_model is not None:
        config.pre_model = args.pre_model
    config.eval_batch_size = args.batch_size or config.eval_batch_size
    config.max_target_seq_len = args.max_new_tokens or config.max_target_seq_len
    return config, directory


def read_constraint(args: argparse.Namespace, directory: Path | None) -> Constraint | None:
    """Return what answers may hold; None for free decoding.

    Raises:
        UserError: the schema's file is missing or damaged, or holds nothing.
    """
    if args.free_decoding:
        return None
    from bases.adapter import SCHEMA_FILE
    from extraction.decoding.grammar import Constraint
    from task.schema import Schema

    path = args.schema or (directory / SCHEMA_FILE if directory else None)
    if args.open_schema or path is None:
        return Constraint(None, args.free_values)
    schema = Schema.load(path)
    if args.schema and not schema.combinations:
        raise UserError(f"模式文件 {path} 里一个关系也没有，请补上，或改用 --open-schema。")
    return Constraint(schema, args.free_values)


def load_extractor(
    args: argparse.Namespace, config: ProjectConfig, directory: Path | None
) -> TripletExtractor:
    """Load the base model, and onto it the adapter if there is one.

    Raises:
        UserError: one of them is missing or damaged, or they do not belong together.
    """
    logging.basicConfig(format="%(message)s")
    if args.debug:  # libraries may speak, and it is said why batches fail
        logging.getLogger("extraction").setLevel(logging.DEBUG)
    else:
        quiet_libraries()
    limit_primitive_cache()
    constraint = read_constraint(args, directory)
    from bases.chatglm import CheckpointError, load_base_model
    from extraction.extractor import TripletExtractor
    from utils.device import check_device

    check_device(config.device)
    log(f"加载模型 {config.pre_model} …")
    dtype = choose_dtype(config)
    try:
        model, tokenizer = load_base_model(
            config.pre_model,
            load_in_4bit=config.load_in_4bit,
            dtype=dtype,
            device=config.device,
        )
    except CheckpointError as error:
        raise UserError(str(error)) from error
    extractor = TripletExtractor(
        model,
        tokenizer,
        max_source_seq_len=config.max_source_seq_len,
        max_new_tokens=config.max_target_seq_len,
        batch_size=config.eval_batch_size,
        autocast_dtype=dtype if dtype.itemsize == 2 else None,
        constraint=constraint,
        with_scores=args.scores or (args.evaluate is not None and constraint is not None),
        min_score=args.min_score or 0.0,
    )
    if directory is not None:
        from bases.adapter import load_adapter

        extractor.model = load_adapter(model, directory)
        if not extractor.adapter_changes_logits():
            log(f"警告：适配器 {directory} 没有改变模型的输出（LoRA 权重为零？），结果与基座模型相同。")
    return extractor


def choose_dtype(config: ProjectConfig) -> torch.dtype:
    """Return the precision to compute in: as in training, where the device has it."""
    import torch

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return compute_dtype(device, fp16=config.fp16, bf16=config.bf16)


def extract_texts(args: argparse.Namespace, sentences: Sequence[str], results: TextIO) -> int:
    """Print the triplets of sentences, one JSON list each; return the exit code."""
    extractor = load_extractor(args, *read_config(args))
    failed = 0
    for sentence in sentences:
        if len(sentences) > 1:
            log(f"句子：{sentence}")
        failed += not show(extractor.extract_one(sentence), args, results)
    if failed and len(sentences) > 1:
        log(f"{len(sentences)} 句中有 {failed} 句没有得到结果。")
    return 1 if failed else 0


def show(extraction: Extraction, args: argparse.Namespace, results: TextIO) -> bool:
    """Print one result, or say why there is none; return whether there is one."""
    from extraction.parsing import AnswerStatus

    if extraction.source_truncated:
        log("注意：句子太长，超出输入长度（max_source_seq_len）的部分没有参与抽取。")
    if extraction.problem is not None:
        log(
            f"没有结果：{extraction.problem}。"
            + (f"模型的回答：{extraction.raw!r}" if extraction.raw else "")
        )
        return False
    if extraction.truncated:
        log("注意：回答到长度上限（--max_new_tokens）还没有结束，后面的三元组可能缺失。")
    elif extraction.status is AnswerStatus.REPAIRED:
        log("注意：回答不是完整的 JSON，已修复，只保留其中完整的三元组。")
    print_json(extraction.to_list(args.scores, args.spans), results)
    return True


def print_json(value: Any, results: TextIO) -> None:
    """Print a result as indented JSON."""
    print(to_json(value, indent=2), file=results, flush=True)


def converse(args: argparse.Namespace, results: TextIO) -> int:
    """Answer sentences as they are typed; Ctrl-C stops the current generation only."""
    from extraction.console import read_sentences

    if isinstance(sys.stdin, io.TextIOWrapper):  # bytes that are no text are refused sentence by sentence
        sys.stdin.reconfigure(errors="surrogateescape")
    extractor = load_extractor(args, *read_config(args))
    log("输入一个句子后按回车；exit、quit、退出或 Ctrl-D 结束，Ctrl-C 停止当前的生成。")
    failed = 0
    for sentence in read_sentences():
        if problem := typed_problem(sentence):
            log(f"这一句不能抽取：{problem}。")
            failed += 1
            continue
        try:
            failed += not show(extractor.extract_one(sentence), args, results)
        except KeyboardInterrupt:
            log("\n已停止这一句的生成。")
    return 1 if failed and not sys.stdin.isatty() else 0


def read_records(path: Path, text_field: str | None = None) -> Iterator[Record]:
    """Read an input file: JSON objects, or one sentence a line; blank lines don't count.

    Args:
        path: the file.
        text_field: the field of the objects with the sentence, `text` by default; results have it as `text`.

    JSON is told by the file's name, else by its first line.

    Raises:
        UserError: the file can't be read.
    """
    from extraction.files import Record
    from utils.jsonl import (
        BOM,
        MAX_LINE_BYTES,
        BadLine,
        decode_line,
        iter_lines_in,
        iter_objects_in,
        open_data,
    )

    try:
        with open_data(path) as file:  # once: a pipe can't be opened again
            is_json = text_field is not None or path.suffix.lower() in JSON_SUFFIXES
            blank, first = 0, b""  # blank lines passed over, and what stands behind them
            if not is_json:
                first = file.readline(MAX_LINE_BYTES + 1)
                while 0 < len(first) <= MAX_LINE_BYTES and not first.removeprefix(BOM).strip():
                    blank, first = blank + 1, file.readline(MAX_LINE_BYTES + 1)
                is_json = _is_json_object(first)
            lines = _Joined(first, file)
            if is_json:
                yield from _json_records(
                    iter_objects_in(lines, path, line_number=blank), text_field or "text"
                )
                return
            for item in iter_lines_in(lines, path, line_number=blank):
                if isinstance(item, BadLine):
                    yield Record({"line": item.line_number, "text": ""}, item.reason)
                    continue
                number, raw = item
                raw = raw.rstrip(b"\r\n")
                try:
                    sentence = decode_line(raw)
                except ValueError as error:
                    yield Record({"line": number, "text": raw.decode("utf-8", "replace")}, str(error))
                    continue
                if sentence.strip():
                    yield Record({"text": sentence}, text_problem(sentence))
    except OSError as error:
        raise UserError(f"读不了输入文件 {path}（{error.strerror}），请检查路径和权限。") from error


def _json_records(items: Iterable[tuple[int, dict[str, Any]] | BadLine], name: str) -> Iterator[Record]:
    """Make records of JSON objects with the sentence in a field of that name."""
    from extraction.files import Record
    from utils.jsonl import BadLine

    for item in items:
        if isinstance(item, BadLine):
            yield Record({"line": item.line_number, "text": item.content}, item.reason)
        else:
            fields = item[1]
            problem = text_problem(fields[name], name) if name in fields else f"缺少字段 {name}"
            yield Record({**fields, "text": fields.get(name, "")}, problem)


class _Joined:
    """A line that was read of a file already, and the rest of the file."""

    def __init__(self, line: bytes, rest: BinaryIO) -> None:
        self._line = io.BytesIO(line)
        self._rest = rest

    def readline(self, size: int = -1, /) -> bytes:
        return self._line.readline(size) or self._rest.readline(size)


def _is_json_object(line: bytes) -> bool:
    """Tell whether a line, or the beginning of one that is too long, is a JSON object."""
    from utils.jsonl import BOM, MAX_LINE_BYTES

    if len(line) > MAX_LINE_BYTES:
        return line.removeprefix(BOM).startswith(b"{")
    try:
        return isinstance(json.loads(line.decode("utf-8-sig", "replace")), dict)
    except (ValueError, RecursionError):
        return False


def extract_file(args: argparse.Namespace) -> int:
    """Extract the sentences of a file into another; return the exit code.

    Under `accelerate launch`, each process works on a share of the lines; the first one joins the results.
    """
    from extraction.files import check_output
    from extraction.shards import Shards

    if args.input.is_fifo() and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(f"--input {args.input} 是管道，只能读一次：多进程抽取请先存成文件。")
    if args.output.exists() and args.input.exists() and args.output.samefile(args.input):
        raise UserError("--output 与 --input 是同一个文件，请换一个 --output。")
    check_output(args.output)
    config, directory = read_config(args)
    shards = Shards.of_this_process(args.output)
    if args.device is None and shards.count > 1 and config.device is None:
        config.device = shards.device()
    start = time.perf_counter()
    try:
        summary = write_shard(args, config, directory, shards)
        summary = shards.join(summary)
    except OSError as error:
        raise UserError(
            f"写不了输出文件 {args.output}（{error.strerror}），请检查路径、权限和磁盘空间。"
        ) from error
    if shards.rank == 0:
        total = summary.resumed + summary.written
        if not total:
            args.output.touch()  # an empty input has an empty result
        log(f"共 {total} 行（其中 {summary.resumed} 行是上次完成的），结果在 {args.output}。")
        if summary.resumed:
            log("上次完成的行没有重新抽取；要换用别的选项，或重试带 error 字段的行，请另用一个 --output。")
        if summary.written:
            log(f"本次平均 {summary.written / (time.perf_counter() - start):.2f} 句/秒（含加载模型）。")
        if summary.failed:
            log(f"{summary.failed} 行没有得到结果，原因见输出中的 error 字段。")
    return 1 if summary.failed and shards.rank == 0 else 0  # one is enough, and stops no other process


def write_shard(
    args: argparse.Namespace, config: ProjectConfig, directory: Path | None, shards: Shards
) -> FileSummary:
    """Extract this process's lines of the input into its own file."""
    from extraction.files import FileSummary, write_results
    from utils.progress import Progress

    extractor: TripletExtractor | None = None
    shown = 0  # lines of the current window that progress has counted

    def extract(sentences: list[str]) -> Iterator[tuple[int, Extraction]]:
        nonlocal extractor, shown  # loaded when first needed: a job that is done already needs none
        if extractor is None:
            try:
                extractor = load_extractor(args, config, directory)
            except OSError as error:  # not to be taken for trouble with the output
                raise UserError(f"加载模型失败：{error}。请检查模型和适配器的文件及权限。") from error
        for result in extractor.stream(sentences):
            yield result
            progress.advance(1)
            shown += 1

    def render(extraction: Extraction) -> list[dict[str, Any]]:
        return extraction.to_list(args.scores, args.spans)

    summary, progress = FileSummary(), Progress()
    window = WINDOW_BATCHES * config.eval_batch_size
    records = shards.mine(read_records(args.input, args.text_field))
    try:
        for count in write_results(records, shards.path, extract, window, summary, render):
            progress.advance(count - shown)  # lines without a sentence, or done in an earlier run
            shown = 0
    except KeyboardInterrupt:
        log(f"\n{shards.path} 已有 {summary.resumed + summary.written} 行结果，重新运行同一命令即可继续。")
        raise
    finally:
        progress.close()
    return summary


def evaluate_file(args: argparse.Namespace, results: TextIO) -> int:
    """Score the extractor on a labelled file; return the exit code."""
    from data_handle.reader import read_jsonl
    from extraction.evaluation.evaluate import evaluate
    from extraction.files import check_output
    from utils.jsonl import describe_bad_lines
    from utils.progress import Progress

    if args.report is not None:
        if args.report.exists() and args.evaluate.exists() and args.report.samefile(args.evaluate):
            raise UserError("--report 与 --evaluate 是同一个文件，请换一个 --report。")
        check_output(args.report, "报告", "--report")
    examples, bad_lines = read_jsonl(args.evaluate)
    for line in describe_bad_lines(bad_lines):
        log(line)
    extractor = load_extractor(args, *read_config(args))
    progress = Progress(len(examples))
    start = time.perf_counter()
    evaluation = evaluate(
        extractor,
        [example.context for example in examples],
        [example.target for example in examples],
        progress.advance,
    )
    seconds = round(time.perf_counter() - start, 3)
    progress.close()

    def report(max_errors: int | None) -> dict[str, Any]:
        return {
            "file": str(args.evaluate),
            "lines": len(examples) + len(bad_lines),
            "bad_lines": [str(line) for line in bad_lines[:max_errors]],
            "seconds": seconds,
            **evaluation.to_dict(max_errors),
        }

    log(evaluation.describe(PRINTED_ERRORS))
    if len(evaluation.report.errors) > PRINTED_ERRORS:
        log(f"……共 {len(evaluation.report.errors)} 句有错，用 --report 文件 保存全部。")
    try:
        if args.report is not None:
            text = to_json(report(None), indent=2)
            args.report.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"写不了报告 {args.report}（{error.strerror}），请检查路径和权限。") from error
    finally:  # the result has cost too much to be lost with the report
        print_json(report(REPORTED_ERRORS), results)
    failed = len(bad_lines) + len(evaluation.failures) + len(evaluation.unusable)
    if failed:
        log(f"{failed} 行没有得到评估（坏行、生成失败或标准答案无法读取）。")
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
