"""Ask a graph that `export.graph` wrote: `python -m export.query graph.lbug "MATCH (a)-[r]->(b) RETURN …"`.

The answer goes to stdout, one JSON object a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from export.formats import require
from export.formats.ladybug import check_name
from utils.command_line import ChineseArgumentParser
from utils.common_utils import UserError, run_main, to_json


def query(path: Path, statement: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of the answer to a Cypher query; the graph is opened for reading only.

    Raises:
        UserError: there is no such graph, the library is missing, or it refuses the query.
    """
    if not path.is_file():
        raise UserError(
            f"没有图文件 {path}：请先用 python -m export.graph … --format ladybug --output {path}。"
        )
    ladybug = require("ladybug", "查询图文件")
    check_name(path)
    try:
        database = ladybug.Database(str(path), read_only=True)
    except RuntimeError as error:
        raise UserError(f"{path} 不是 ladybug 的图文件，或由别的版本写成：{error}") from error
    try:
        with ladybug.Connection(database) as connection:
            result = connection.execute(statement)
            names = result.get_column_names()
            while result.has_next():
                yield dict(zip(names, result.get_next(), strict=True))
    except RuntimeError as error:
        raise UserError(f"查询没有成功：{error}") from error
    finally:
        database.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the answer to the query on the command line.

    Args:
        arguments: the command line without the program's name; `sys.argv` if None.
    """
    parser = ChineseArgumentParser(
        prog="python -m export.query", description="用 Cypher 查询 --format ladybug 写成的图文件。"
    )
    parser.add_argument("graph", metavar="GRAPH", type=Path, help="图文件")
    parser.add_argument(
        "statement", metavar="CYPHER", help="查询语句，例如 MATCH (a)-[r]->(b) RETURN a.name, b.name"
    )
    options = parser.parse_args(arguments)
    for row in query(options.graph, options.statement):
        print(to_json(row, default=str))
    return 0


if __name__ == "__main__":
    run_main(main)
