"""Command line of extraction: sentences in, triplets out as JSON on stdout; all other talk goes to stderr."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

from data_handle.reader import read_jsonl
from export.report import check_report_page, write_report_page
from export.report_data import lines_of
from extraction.adapters import find_default_adapter, find_merged
from extraction.arguments import Command, read_command
from extraction.display import FOR_PEOPLE, Display, print_json
from extraction.document_files import find_documents, read_documents
from extraction.evaluation.evaluate import evaluate
from extraction.evaluation.report import Report, check_report, write_report
from extraction.files import FileJob, FileSummary, ResultFile, ResultStream, check_files
from extraction.records import STANDARD, count_records, read_records, typed_problem
from extraction.result import Extractor
from extraction.shards import SharedFile, parts_folder
from glm_config import ProjectConfig
from utils.common_utils import UserError, log, quiet_libraries, run_main, to_json
from utils.jsonl import describe_bad_lines
from utils.launcher import Launcher, read_launcher
from utils.progress import Progress

DEMO_SENTENCES = (
    "《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。",
    "《活着》是作家余华创作的长篇小说，1993年由作家出版社出版。",
    "《青花瓷》由方文山作词，周杰伦作曲并演唱，收录在专辑《我很忙》中。",
    "白鳍豚属于鲸目，曾经生活在长江中下游。",
    "今天下午的雨下得很大，我们只好改天再去。",
)
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
    command = read_command(sys.argv[1:] if argv is None else argv)
    results = sys.stdout
    if isinstance(results, io.TextIOWrapper):  # JSON is UTF-8 wherever it goes
        results.reconfigure(encoding="utf-8")
    with contextlib.redirect_stdout(sys.stderr):  # libraries may print; only results reach the real stdout
        try:
            if command.input and command.output:
                return extract_file(command, command.input, command.output, results)
            if command.evaluate:
                return evaluate_file(command, command.evaluate, results)
            if command.interactive:
                return converse(command, results)
            sentences = DEMO_SENTENCES if command.text is None else [command.text]
            return extract_texts(command, sentences, results)
        except RuntimeError as error:
            torch = sys.modules.get("torch")  # not loaded yet, perhaps
            if torch is None or not isinstance(error, torch.OutOfMemoryError):
                raise
            raise UserError(
                "显存不足：请调小 --batch_size 或 --max_new_tokens，关闭占用显存的其他程序，"
                "并确认训练配置 load_in_4bit 为 True。"
            ) from error


class Prepared(NamedTuple):
    """A model that only waits to be loaded; what can be wrong with the files beside its weights isn't."""

    batch_size: int
    load: Callable[[], Extractor]


def prepare(command: Command, with_scores: bool, launcher: Launcher | None = None) -> Prepared:
    """Find out what to load: the adapter named, or the default one, or the bare base. The door to torch.

    Raises:
        UserError: the adapter or the schema is missing or damaged.
    """
    logging.basicConfig(format="%(message)s")
    if command.debug:  # libraries may speak, and it is said why batches fail
        logging.getLogger("extraction").setLevel(logging.DEBUG)
    else:
        quiet_libraries()
    from extraction.settings import read_settings  # before torch: a mistake is said at once

    options, config = command.options, ProjectConfig()
    adapter = options.adapter
    if adapter is None and not command.no_adapter and find_merged(options.pre_model) is None:
        adapter = find_default_adapter(Path(config.save_dir))
    if command.context_sentences is not None and options.min_score is None:
        options = replace(options, min_score=0.0)  # the level was found on sentences that stand alone
    settings = read_settings(replace(options, adapter=adapter, with_scores=with_scores))

    from extraction.documents import DocumentExtractor
    from extraction.loading import load_extractor, own_gpu, rows_of

    settings.config.device = options.device or config.device or own_gpu(launcher or Launcher())

    def load() -> Extractor:
        try:
            extractor = load_extractor(settings)
        except OSError as error:  # not to be taken for trouble with an output
            raise UserError(f"加载模型失败：{error}。请检查模型和适配器的文件及权限。") from error
        reach = command.context_sentences
        return extractor if reach is None else DocumentExtractor(extractor, reach)

    return Prepared(rows_of(settings), load)


def load_for_display(command: Command, way: str, results: TextIO) -> tuple[Extractor, Display]:
    """Load the model, and what prints its results: with their scores where a person reads them."""
    scores = command.scores or (results.isatty() and not command.options.free_decoding)
    extractor = prepare(command, scores or way in FOR_PEOPLE).load()
    return extractor, Display(results, way, scores, command.spans, extractor.half_right_score)


def extract_texts(command: Command, sentences: Sequence[str], results: TextIO) -> int:
    """Print the triplets of sentences; return the exit code."""
    extractor, display = load_for_display(command, command.format or "json", results)
    failed = 0
    for sentence in sentences:
        if len(sentences) > 1:
            log(f"句子：{sentence}")
        failed += not display.show(sentence, extractor.extract_one(sentence, display.tell_pieces))
    if failed and len(sentences) > 1:
        log(f"{len(sentences)} 句中有 {failed} 句没有得到结果。")
    return 1 if failed else 0


def converse(command: Command, results: TextIO) -> int:
    """Answer sentences as they are typed; Ctrl-C stops the current generation only."""
    from extraction.console import read_sentences  # prompt_toolkit

    typed = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):  # bytes that are no text are refused sentence by sentence
        sys.stdin.reconfigure(errors="surrogateescape")
    usual = "jsonl" if not typed else "line" if results.isatty() else "json"
    extractor, display = load_for_display(command, command.format or usual, results)
    log("输入一个句子后按回车；help 看说明；exit、quit、退出或 Ctrl-D 结束，Ctrl-C 停止当前的生成。")
    failed = 0
    for sentence in read_sentences():
        if problem := typed_problem(sentence):
            log(f"这一句不能抽取：{problem}。")
            failed += 1
            continue
        try:
            failed += not display.show(sentence, extractor.extract_one(sentence, display.tell_pieces))
        except KeyboardInterrupt:
            log("\n已停止这一句的生成。")
    return 1 if failed and not typed else 0


def extract_file(command: Command, source: Path, target: Path, results: TextIO) -> int:
    """Extract the sentences of a file into another; return the exit code.

    Several processes (of `accelerate launch`, say), or one that takes up what several have left, do parts of
    the file; the first one speaks of the results of all.
    """
    check_files(source, target)
    launcher = read_launcher()
    prepared = prepare(command, command.scores, launcher)
    shared = target != STANDARD and (launcher.world_size > 1 or parts_folder(target).exists())
    if shared and command.documents:
        raise UserError("--documents 不能由几个进程分着做：请只用一个进程，或换一个 --output。")
    extract = extract_parts if shared else extract_alone
    try:
        summary, seconds = extract(command, source, target, results, prepared, launcher)
    except BrokenPipeError:  # of the standard output
        raise
    except OSError as error:
        raise UserError(
            f"写不了输出文件 {target}（{error.strerror}），请检查路径、权限和磁盘空间。"
        ) from error
    if not launcher.is_main:
        return 0  # one exit code is enough, and stops no other process
    if target != STANDARD and not summary.resumed + summary.written:
        target.touch()  # an empty input has an empty result
    for line in summary.describe("标准输出" if target == STANDARD else str(target), *seconds):
        log(line)
    return 1 if summary.failed else 0


def extract_alone(
    command: Command, source: Path, target: Path, results: TextIO, prepared: Prepared, launcher: Launcher
) -> tuple[FileSummary, tuple[float, float]]:
    """Extract a file from its beginning to its end; return the counts, and the seconds as `run_job`."""
    output = ResultStream(results.buffer) if target == STANDARD else ResultFile(target)
    records = read_documents(source) if command.documents else read_records(source, command.text_field)
    job = FileJob(records, output, prepared.batch_size, command.scores, command.spans)
    total = len(find_documents(source)) if command.documents else count_records(source, command.text_field)
    seconds = run_job(job, prepared, total, None if target == STANDARD else target)
    return job.summary, seconds


def extract_parts(
    command: Command, source: Path, target: Path, results: TextIO, prepared: Prepared, launcher: Launcher
) -> tuple[FileSummary, tuple[float, float]]:
    """Extract those parts of a file that no other process does; return the counts of all, and the seconds."""
    shared = SharedFile.open(source, target, command.text_field, launcher.world_size)
    loading, start = 0.0, time.perf_counter()

    def load() -> Extractor:
        nonlocal loading
        begin = time.perf_counter()
        extractor = prepared.load()
        loading = time.perf_counter() - begin
        return extractor

    def make_job(number: int) -> FileJob:
        output = ResultFile(shared.result_path(number))
        return FileJob(shared.cut.records(number), output, prepared.batch_size, command.scores, command.spans)

    try:
        with Progress(sum(part.lines for part in shared.cut.parts), enabled=launcher.is_main) as progress:
            summary = shared.work(make_job, load, progress)
    except KeyboardInterrupt:
        log(f"\n{target} 和 {parts_folder(target)} 里有已完成的结果，重新运行即可继续，进程数可以不同。")
        raise
    if launcher.is_main:
        shared.close()
    return summary, (loading, time.perf_counter() - start - loading)


def run_job(job: FileJob, prepared: Prepared, total: int | None, file: Path | None) -> tuple[float, float]:
    """Extract what an earlier run has not; return the seconds of loading and of extracting."""
    loading = extracting = 0.0
    with contextlib.closing(job):
        try:
            if job.find_rest():
                start = time.perf_counter()
                extractor = prepared.load()
                loading = time.perf_counter() - start
                with Progress(total) as progress:
                    job.finish(extractor, progress)
                extracting = time.perf_counter() - start - loading
        except KeyboardInterrupt:
            if file is not None:
                done = job.summary.resumed + job.summary.written
                log(f"\n{file} 已有 {done} 行结果，重新运行同一命令即可继续。")
            raise
    return loading, extracting


def evaluate_file(command: Command, source: Path, results: TextIO) -> int:
    """Score the extractor on a labelled file; return the exit code."""
    if (path := command.report) is not None:
        if path.exists() and source.exists() and path.samefile(source):
            raise UserError("--report 与 --evaluate 是同一个文件，请换一个 --report。")
        check_report(path)
    if command.html is not None:
        check_report_page(command.html, [source], option="--html")
    examples, bad_lines = read_jsonl(source)
    for line in describe_bad_lines(bad_lines):
        log(line)
    extractor = prepare(command, with_scores=True).load()
    start = time.perf_counter()
    with Progress(len(examples)) as progress:
        contexts = [example.context for example in examples]
        evaluation = evaluate(extractor, contexts, [example.target for example in examples], progress.advance)
    seconds = time.perf_counter() - start
    whole = Report(evaluation, str(source), len(examples), bad_lines, seconds)
    log(evaluation.describe(PRINTED_ERRORS))
    if len(evaluation.report.errors) > PRINTED_ERRORS:
        log(f"……共 {len(evaluation.report.errors)} 句有错，用 --report 文件 保存全部。")
    try:
        if path is not None:
            write_report(path, whole.to_dict())
        if command.html is not None:
            write_report_page(command.html, lines_of(evaluation.results), source.name)
    except OSError as error:
        raise UserError(f"写不了报告 {path}（{error.strerror}），请检查路径和权限。") from error
    finally:  # the result has cost too much to be lost with the report
        print_json(to_json(whole.to_dict(REPORTED_ERRORS), indent=2), results)
    failed = len(bad_lines) + len(evaluation.failures) + len(evaluation.unusable)
    if failed:
        log(f"{failed} 行没有得到评估（坏行、生成失败或标准答案无法读取）。")
    return 1 if failed else 0


def command() -> NoReturn:
    """Run the script as an installed command."""
    run_main(main)


if __name__ == "__main__":
    command()
