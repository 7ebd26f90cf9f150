"""A hub that lies: answers without end, names and commits that lead elsewhere; and what was there before."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bases.download import download
from bases.hubs import HuggingFace, ModelScope
from bases.published_files import choose_files
from tests.bases.test_download import FILES, ID, WANTED, play_huggingface, play_modelscope
from tests.helpers import hub_server
from tests.helpers.hub_server import HubServer
from utils.common_utils import UserError


class Liar(hub_server._Handler):
    """Answers as `lie` says, and as an honest hub where that says nothing."""

    lie: Callable[[Liar], bool]

    def do_GET(self) -> None:  # noqa: N802
        if not type(self).lie(self):
            super().do_GET()

    def endless(self, status: int = 200, headers: dict[str, str] | None = None) -> bool:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        try:
            while self.command != "HEAD":
                self.wfile.write(b" " * 2**20)
        except OSError:  # nobody listens any more
            self.close_connection = True
        return True


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Any], HubServer]]:
    servers = []

    def start(lie: Callable[[Liar], bool]) -> HubServer:
        with monkeypatch.context() as patch:
            patch.setattr(hub_server, "_Handler", type("It", (Liar,), {"lie": lie}))
            server = HubServer({name: FILES[name] for name in WANTED})
        servers.append(server)
        play_modelscope(server, monkeypatch, tmp_path)
        play_huggingface(server, monkeypatch, tmp_path)
        return server

    yield start
    for server in servers:
        server.close()


def is_for(handler: Liar, part: str) -> bool:
    return part in handler.path


@pytest.mark.parametrize("part", ["/tree/", "/api/models/owner/model.v1", "/repo/files"])
def test_lists_without_end(liar: Callable[[Any], HubServer], tmp_path: Path, part: str) -> None:
    liar(lambda handler: is_for(handler, part) and handler.endless())
    hub = ModelScope() if part == "/repo/files" else HuggingFace()
    with pytest.raises(UserError, match=r"没有成功|看不懂"):
        download(ID, hub, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_list_that_unpacks_to_gigabytes(liar: Callable[[Any], HubServer], tmp_path: Path) -> None:
    def packed(handler: Liar) -> bool:
        if not is_for(handler, "/api/models/"):
            return False
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        handler._answer(200, gzip.compress(bytes(2**22)), headers)
        return True

    liar(packed)
    with pytest.raises(UserError, match="没有成功"):
        download(ID, HuggingFace(), tmp_path / "out")


def test_a_file_without_end(liar: Callable[[Any], HubServer], tmp_path: Path) -> None:
    def endless(handler: Liar) -> bool:
        return handler.command == "GET" and is_for(handler, "/elsewhere/model.s") and handler.endless()

    liar(endless)
    with pytest.raises(UserError, match=r"超过了网站所说的 3,072,000 字节"):
        download(ID, HuggingFace(), tmp_path / "out")
    part = sum(path.stat().st_size for path in (tmp_path / ".out.download").rglob("*") if path.is_file())
    assert part < 2**25  # the disk is not filled
    with pytest.raises(UserError, match="与 ModelScope 给出的哈希不符"):  # reads as much as it was told of
        download(ID, ModelScope(), tmp_path / "other")


def test_refusals_without_end(liar: Callable[[Any], HubServer], tmp_path: Path) -> None:
    liar(lambda handler: is_for(handler, "/resolve/") and handler.endless(403))
    with pytest.raises(UserError, match=r"不给看|没有成功"):
        download(ID, HuggingFace(), tmp_path / "out")


@pytest.mark.parametrize("place", ["file:///etc/hostname", "gopher://127.0.0.1/x"])
def test_redirects_to_other_schemes(liar: Callable[[Any], HubServer], tmp_path: Path, place: str) -> None:
    def elsewhere(handler: Liar) -> bool:
        if not (is_for(handler, "/resolve/") or is_for(handler, "FilePath")):
            return False
        handler._answer(302, b"", {"Location": place})
        return True

    liar(elsewhere)
    for hub in (HuggingFace(), ModelScope()):
        with pytest.raises(UserError, match="没有成功"):
            download(ID, hub, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("commit", ["../../../victim", "", None, "abc", "A" * 40, "0" * 400])
def test_a_commit_that_is_a_path(liar: Callable[[Any], HubServer], tmp_path: Path, commit: object) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "config.json").write_text("mine")

    def lie(handler: Liar) -> bool:
        if not handler.path.startswith("/api/models/owner/model.v1") or is_for(handler, "/tree/"):
            return False
        handler._json({"id": ID, "sha": commit, "siblings": []})
        return True

    liar(lie)
    with pytest.raises(UserError, match=r"看不懂|没有成功"):
        download(ID, HuggingFace(), None)
    assert (victim / "config.json").read_text() == "mine"


@pytest.mark.parametrize("field", ["path", "size", "oid", "lfs", "type"])
@pytest.mark.parametrize("value", [None, -1, 2**70, "x", [], {}, {"oid": 1, "size": "x", "pointerSize": 1}])
def test_lists_that_lie(liar: Callable[[Any], HubServer], tmp_path: Path, field: str, value: object) -> None:
    def lie(handler: Liar) -> bool:
        if is_for(handler, "/tree/"):
            handler._json([entry | {field: value} for entry in handler._tree()])
        elif is_for(handler, "/repo/files"):
            name = {"path": "Path", "size": "Size", "oid": "Sha256"}.get(field, "Type")
            handler._json({"Data": {"Files": [each | {name: value} for each in handler._modelscope_list()]}})
        else:
            return False
        return True

    liar(lie)
    for number, hub in enumerate((HuggingFace(), ModelScope())):
        with contextlib.suppress(UserError):  # and nothing else
            download(ID, hub, tmp_path / str(number))


def test_names_that_are_no_names() -> None:
    names = [
        "LICENSE\0",
        "LICENSE\x1b[2J",
        "LICENSE\n",
        "LICENSE" + "x" * 300,
        "LICENSE/../x",
        "NOTICE 甲",
    ]
    assert choose_files(names) == []


def test_what_others_have_at_the_place_of_work_stays(
    liar: Callable[[Any], HubServer], tmp_path: Path
) -> None:
    liar(lambda handler: False)
    home = tmp_path / "home"
    home.mkdir()
    (home / "diary.txt").write_text("mine")
    (tmp_path / ".a.download").symlink_to(home)
    (tmp_path / ".b.download").mkdir()
    (tmp_path / ".b.download" / "diary.txt").write_text("mine")
    for name in "ab":
        with pytest.raises(UserError, match="不是本命令下载的东西"):
            download(ID, ModelScope(), tmp_path / name)
    assert (home / "diary.txt").exists() and (tmp_path / ".b.download" / "diary.txt").exists()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".c.download").mkdir()
    for link in ("model.safetensors.part", "config.json"):  # neither written through nor deleted through
        (tmp_path / ".c.download" / link).symlink_to(victim)
    download(ID, ModelScope(), tmp_path / "c")
    assert victim.read_text() == "mine"
    assert json.loads((tmp_path / "c" / "config.json").read_text()) == {"model_type": "chatglm"}


def test_a_hub_that_gives_no_hashes(
    liar: Callable[[Any], HubServer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lie(handler: Liar) -> bool:
        if not is_for(handler, "/repo/files"):
            return False
        files = [each | {"Sha256": None} for each in handler._modelscope_list()]
        handler._json({"Data": {"Files": files}})
        return True

    liar(lie)
    download(ID, ModelScope(), tmp_path / "out")
    assert "没有给出" in capsys.readouterr().err
