"""Results as a knowledge graph: `python -m export.graph results.jsonl --format csv --output triplets.csv`.

Reads what `inference_triplet.py --output` wrote (or training lines), and writes a table, a file or directory
for a graph store, or into a running server.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from export.aliases import Aliases
from export.formats import (
    DEFAULT_BASE_IRI,
    WriteOptions,
    bolt,
    csv_table,
    cypher,
    graphml,
    jsonld,
    ladybug,
    neo4j_csv,
    rdf,
    require,
    xlsx,
)
from export.graph_store import GraphStore
from export.near_names import write_suggestions
from export.triples import ReadSummary, read_sentences
from export.unfinished import check_target, remove, remove_leftovers, unfinished, work_path
from utils.command_line import ChineseArgumentParser, positive_int, probability, summarise
from utils.common_utils import UserError, log, run_main
from utils.progress import Progress


class _Format(NamedTuple):
    """A format: what writes it, in words what it is for, whether it is a directory, the library it needs."""

    write: Callable[[GraphStore, Path, WriteOptions], list[str]]
    what: str
    is_directory: bool = False
    library: str | None = None


FORMATS = {
    "csv": _Format(csv_table.write, "表格，Excel 直接打开"),
    "xlsx": _Format(xlsx.write, "Excel 工作簿", library="openpyxl"),
    "neo4j-csv": _Format(neo4j_csv.write, "neo4j-admin 批量导入用的目录", is_directory=True),
    "cypher": _Format(cypher.write, "Cypher 语句，重复执行不改变图"),
    "rdf": _Format(rdf.write, "RDF，按后缀写 Turtle（.ttl）或 N-Triples（.nt）"),
    "graphml": _Format(graphml.write, "GraphML，用于 Gephi、yEd、networkx"),
    "jsonld": _Format(jsonld.write, "JSON-LD"),
    "ladybug": _Format(
        ladybug.write, "Ladybug 嵌入式图数据库（一个文件，用 Cypher 查询）", library="ladybug"
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the graph in the forms named on the command line; what can't be used is told on stderr.

    Args:
        arguments: the command line without the program's name; `sys.argv` if None.
    """
    parsed = _make_parser().parse_args(arguments)
    options = _check(parsed)
    summary = ReadSummary()
    with contextlib.ExitStack() as stack:
        work = _work_file(parsed, stack)
        aliases = parsed.aliases and Aliases.load(parsed.aliases)
        try:
            store = GraphStore(work, aliases)
            stack.callback(store.close)
            # Before the work, and one for all of it: some servers answer no second client for a while.
            session = stack.enter_context(bolt.connect(_server(parsed))) if parsed.bolt else None
            _read(parsed, store, summary)
            notes = list(_write(parsed, store, options, work, session))
        except sqlite3.Error as error:
            raise UserError(f"写工作文件 {work} 时出错（{error}）：请检查剩余空间和权限。") from error
        for line in (*_report(store, summary, parsed.min_score), *notes):
            log(line)
    return 0


def _make_parser() -> ChineseArgumentParser:
    parser = ChineseArgumentParser(
        prog="python -m export.graph",
        description="把抽取结果写成知识图谱：表格、图数据库的文件，或直接写入服务器。",
    )
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        type=Path,
        help="抽取结果（inference_triplet.py --output 写的 JSONL），也可以是训练数据；可写几个，"
        "- 是标准输入，gzip 压缩的也能读",
    )
    formats = "；".join(f"{name} {form.what}" for name, form in FORMATS.items())
    parser.add_argument("--format", type=_format_name, choices=list(FORMATS), help=f"写成哪种：{formats}")
    parser.add_argument("--output", "-o", type=Path, help="写到哪里（neo4j-csv 是目录，其余是文件）")
    parser.add_argument("--force", action="store_true", help="覆盖已有的输出")
    what = parser.add_argument_group("写什么")
    what.add_argument(
        "--min_score", type=probability, default=0.0, help="只要得分不低于它的三元组（默认 %(default)s）"
    )
    what.add_argument(
        "--typed",
        action="store_true",
        help="类型和谓语用作标签、关系类型或表名；默认标签都是“实体”和“关系”，它们是属性（RDF 总有类型）",
    )
    what.add_argument(
        "--each_mention", action="store_true", help="每处提及一条边；默认同一事实合成一条，列出全部句子"
    )
    what.add_argument("--with_text", action="store_true", help="边上带句子原文（csv、xlsx 总是带）")
    what.add_argument(
        "--keep_formulas", action="store_true", help="csv 里 = + - @ 开头的值保持原样，不防公式"
    )
    what.add_argument(
        "--id_field", default="id", help="句子编号取输入的哪个字段，没有就用“文件名:行号”（默认 %(default)s）"
    )
    what.add_argument(
        "--base_iri", default=DEFAULT_BASE_IRI, help="rdf、jsonld 的 IRI 开头（默认 %(default)s）"
    )
    names = parser.add_argument_group("同一实体的几个名字")
    names.add_argument(
        "--aliases", type=Path, help="别名表 CSV：别名、正名，另可有类型；写出时换成正名，报告换了几处"
    )
    names.add_argument(
        "--suggest_aliases",
        type=Path,
        help="把相近的名字列成 CSV 供人审阅，删去不对的行就可作 --aliases；不会自动合并",
    )
    server = parser.add_argument_group("写入服务器")
    server.add_argument(
        "--bolt", metavar="URL", help="写入运行中的 Neo4j（Bolt 协议），如 bolt://127.0.0.1:7687"
    )
    server.add_argument("--user", help="用户名（默认取环境变量 NEO4J_USERNAME，再默认 neo4j）")
    server.add_argument("--password", help="密码；最好用环境变量 NEO4J_PASSWORD，命令行上的别人看得见")
    server.add_argument("--database", help="服务器上的库名（默认是服务器自己的默认库）")
    server.add_argument(
        "--batch_size", type=positive_int, default=1000, help="一批写多少行（默认 %(default)s）"
    )
    return parser


def _format_name(word: str) -> str:
    return word.replace("_", "-")


def _check(parsed: argparse.Namespace) -> WriteOptions:
    """Find every mistake that shows before the files are read.

    Raises:
        UserError: all that is wrong.
    """
    problems = []
    if not (parsed.format or parsed.bolt or parsed.suggest_aliases):
        problems.append(
            "请用 --format 说明写成哪种格式，或用 --bolt 写入服务器，或用 --suggest_aliases 列出相近的名字。"
        )
    if parsed.format and parsed.output is None:
        problems.append(f"--format {parsed.format} 需要 --output 说明写到哪里。")
    if parsed.output is not None and parsed.output == parsed.suggest_aliases:
        problems.append("--output 和 --suggest_aliases 是同一个文件，请换一个。")
    if parsed.output is not None and not parsed.format:
        problems.append("给了 --output，还要用 --format 说明写成哪种格式。")
    options = WriteOptions(**{name: getattr(parsed, name) for name in WriteOptions.__dataclass_fields__})
    for check in _checks(parsed, options):
        try:
            check()
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(summarise("命令行", problems))
    return options


def _checks(parsed: argparse.Namespace, options: WriteOptions) -> Iterator[Callable[[], object]]:
    """Yield what has to be looked at; each raises a `UserError` if it isn't right."""
    if parsed.format:
        if library := FORMATS[parsed.format].library:
            yield partial(require, library, f"--format {parsed.format}")
        if parsed.format in ("rdf", "jsonld"):
            yield partial(rdf.check_options, parsed.output if parsed.format == "rdf" else None, options)
    if parsed.bolt:
        yield partial(bolt.check_url, parsed.bolt)
        yield partial(require, "neo4j", "--bolt")
    for path in (parsed.output, parsed.suggest_aliases):
        if path is not None:
            yield partial(_check_output, path, parsed)


def _check_output(path: Path, parsed: argparse.Namespace) -> None:
    for other in (*parsed.inputs, parsed.aliases):
        if other is not None and path.exists() and other.exists() and path.samefile(other):
            raise UserError(f"输出 {path} 同时是输入，请换一个文件名。")
    is_directory = path == parsed.output and bool(parsed.format) and FORMATS[parsed.format].is_directory
    check_target(path, parsed.force, is_directory)


def _work_file(parsed: argparse.Namespace, stack: contextlib.ExitStack) -> Path:
    """Return where the work file may stand: beside the output, which has to hold as much, or among temporary
    files; it is gone when the stack ends."""
    target = parsed.output or parsed.suggest_aliases
    if target is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory())) / "graph"
    for output in filter(None, (parsed.output, parsed.suggest_aliases)):
        remove_leftovers(output)
    work = work_path(target)
    remove(work)
    stack.callback(remove, work)
    return work


def _read(parsed: argparse.Namespace, store: GraphStore, summary: ReadSummary) -> None:
    with Progress(unit="行", leave=False) as progress:
        done = 0
        for sentence in read_sentences(
            parsed.inputs, summary, min_score=parsed.min_score, id_field=parsed.id_field
        ):
            store.add(sentence)
            if summary.lines - done >= 1000:
                progress.advance(summary.lines - done)
                done = summary.lines
    store.finish()
    if not summary.lines:
        raise UserError(f"{'、'.join(map(str, parsed.inputs))} 是空的，没有可写的。")
    if summary.bad_lines.count == summary.lines:
        raise UserError("\n".join(["没有一行可用。", *summary.bad_lines.describe("不能用的行")]))


def _write(
    parsed: argparse.Namespace, store: GraphStore, options: WriteOptions, work: Path, session: Any
) -> Iterator[str]:
    """Write all that is wanted, to a server in its session; yield what the user should know."""
    if parsed.format:
        with unfinished(parsed.output) as path:
            if parsed.format == "rdf":
                notes = rdf.write(store, path, options, parsed.output.suffix)
            else:
                notes = FORMATS[parsed.format].write(store, path, options)
        yield f"已写入 {parsed.output}（{parsed.format}）。"
        yield from notes
    if parsed.bolt:
        yield from bolt.write(store, _server(parsed), options, session)
    if parsed.suggest_aliases:
        keys = work.with_name(f"{work.name}.keys")
        try:
            with unfinished(parsed.suggest_aliases) as path:
                count = write_suggestions(store, path, keys)
        finally:
            remove(keys)
        yield (
            f"相近的名字 {count} 对，已写入 {parsed.suggest_aliases}：请逐行审阅，删去不是同一实体的，"
            f"再用 --aliases {parsed.suggest_aliases}。"
        )


def _server(parsed: argparse.Namespace) -> bolt.Server:
    user = parsed.user or os.environ.get("NEO4J_USERNAME") or "neo4j"
    password = parsed.password or os.environ.get("NEO4J_PASSWORD") or ""
    return bolt.Server(parsed.bolt, user, password, parsed.database)


def _report(store: GraphStore, summary: ReadSummary, min_score: float) -> Iterator[str]:
    counts = store.counts
    yield (
        f"读入 {summary.lines} 行：{counts.sentences} 句有三元组可写，"
        f"{summary.without_triplets} 句没有三元组，{summary.failed} 行没有抽取结果（error），"
        f"{summary.bad_lines.count} 行不能用。"
    )
    repeated = counts.mentions - counts.facts
    below = f"，得分低于 {min_score} 而未写的 {summary.below_score} 个" if min_score > 0 else ""
    yield (
        f"三元组 {summary.triplets} 个：实体 {counts.entities} 个，事实 {counts.facts} 条，"
        f"提及 {counts.mentions} 处（其中 {repeated} 处是已有的事实再次出现），"
        f"完全相同的重复 {counts.repeated_mentions} 处{below}。"
    )
    if counts.renamed:
        yield f"按别名表换成正名 {counts.renamed} 处。"
    if counts.self_loops:
        yield f"主语和宾语是同一实体的 {counts.self_loops} 处，照写。"
    yield from summary.bad_lines.describe("不能用的行")
    yield from summary.bad_triplets.describe("不能用的三元组")
    yield from store.reused_ids.describe("句子不同而编号相同（编号后面加上了位置）")
    yield from store.names_of_several_types().describe("名称相同、类型不同的实体（各算各的）")


if __name__ == "__main__":
    run_main(main)
