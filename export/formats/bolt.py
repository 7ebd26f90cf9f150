"""A running server that speaks Bolt (Neo4j and others): the statements of `cypher`, with parameters."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from export.formats import WriteOptions, require
from export.formats.cypher import CONSTRAINT, INDEX, Statement, statements
from export.graph_store import GraphStore
from utils.common_utils import UserError, log
from utils.progress import Progress

_SCHEMES = ("bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc")


class Server(NamedTuple):
    """Where the server is and who comes; the password is shown nowhere."""

    url: str
    user: str
    password: str
    database: str | None = None

    def __repr__(self) -> str:
        return f"Server({self.url!r}, {self.user!r}, '***', {self.database!r})"


def check_url(url: str) -> None:
    """Make sure that an address is one for Bolt and holds no password.

    Raises:
        UserError: it isn't; the message doesn't repeat what may be a password.
    """
    try:
        parts = urlsplit(url)
        host, has_password = parts.hostname, parts.password is not None or parts.username is not None
        _ = parts.port
    except ValueError:
        host, has_password, parts = None, "@" in url, urlsplit("")
    if has_password:
        raise UserError("--bolt 的地址里不要写用户名和密码：请用环境变量 NEO4J_USERNAME、NEO4J_PASSWORD。")
    if parts.scheme not in _SCHEMES or not host:
        raise UserError(f"--bolt 的地址应当像 bolt://127.0.0.1:7687，现在是 {url!r}。")


def write(store: GraphStore, server: Server, options: WriteOptions, session: Any = None) -> list[str]:
    """Add the graph to what the server has, a transaction for each batch.

    Args:
        store: the graph.
        server: where it goes.
        options: what the user chose.
        session: of `connect`, if there is one already.

    Returns:
        What the user should know, in Chinese: what the server says was created.

    Raises:
        UserError: the server can't be reached, refuses the user, or a statement.
    """
    created: Counter[str] = Counter()
    with contextlib.nullcontext(session) if session is not None else connect(server) as session:
        _make_index(session)
        edges = store.counts.mentions if options.each_mention else store.counts.facts
        with Progress(store.counts.entities + edges, unit="个") as progress:
            for statement in statements(store, options, options.batch_size):
                created.update(session.execute_write(_run, statement))
                progress.advance(len(statement.rows))
    return [f"服务器新建 {created['nodes_created']} 个节点、{created['relationships_created']} 条边。"]


@contextlib.contextmanager
def connect(server: Server) -> Iterator[Any]:
    """Give a session with a server that lets the user in; what goes wrong is told in one sentence.

    Raises:
        UserError: see `write`.
    """
    neo4j = require("neo4j", "--bolt")
    errors = neo4j.exceptions
    try:
        with neo4j.GraphDatabase.driver(server.url, auth=(server.user, server.password)) as driver:
            driver.verify_connectivity()
            with driver.session(database=server.database) as session:
                yield session
    except errors.AuthError as error:
        raise UserError(
            f"{server.url} 不接受用户 {server.user} 或其密码：请检查 NEO4J_USERNAME、NEO4J_PASSWORD。"
        ) from error
    except (errors.ServiceUnavailable, errors.SessionExpired) as error:
        raise UserError(f"连不上 {server.url}：请检查地址，以及服务是否在运行。") from error
    except (errors.Neo4jError, errors.DriverError) as error:
        message = getattr(error, "message", None) or str(error)
        raise UserError(
            f"{server.url} 没有接受写入：{message}。已写入的批次留在库中，改正后重跑即可补全，不会重复。"
        ) from error


def _run(transaction: Any, statement: Statement) -> dict[str, int]:
    counters = transaction.run(statement.text, rows=statement.rows).consume().counters
    return {name: getattr(counters, name) for name in ("nodes_created", "relationships_created")}


def _make_index(session: Any) -> None:
    """See to it that entities are found by their id: without, every batch reads all of them."""
    neo4j = require("neo4j", "--bolt")
    for statement in (CONSTRAINT, INDEX):
        try:
            session.run(statement).consume()
            return
        except neo4j.exceptions.Neo4jError:
            continue
    log("注意：没有建成 id 的约束或索引（也许已经有了）；若写得越来越慢，请在库里为“实体”的 id 建索引。")
