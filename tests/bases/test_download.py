"""Downloads from a real server that plays both hubs: resumed, verified, whole or absent, never code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bases import CheckpointError, hubs
from bases.download import build_parser, download, main
from bases.hub_cache import resolve_model_dir
from bases.hubs import HuggingFace, ModelScope
from bases.published_files import choose_files
from tests.helpers.hub_server import HubServer
from utils.common_utils import UserError

ID = "owner/model.v1"
WEIGHTS = bytes(range(256)) * 12_000  # 3 MB
FILES = {
    "config.json": b'{"model_type": "chatglm"}',
    "tokenizer_config.json": b"{}",
    "ice_text.model": b"pieces" * 100,
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"the same again",
    "modeling_chatglm.py": b"raise SystemExit('executed')",
    "assets/config.json": b"in a folder",
    "LICENSE": b"terms",
    "run.sh": b"rm -r /",
}
WANTED = {"config.json", "tokenizer_config.json", "ice_text.model", "model.safetensors", "LICENSE"}


def play_modelscope(server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELSCOPE_DOMAIN", server.address)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hubs, "RETRY_SECONDS", 0.001)


def play_huggingface(server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    server = HubServer(dict(FILES))
    play_modelscope(server, monkeypatch, tmp_path)
    yield server
    server.close()


@pytest.fixture
def huggingface(server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HuggingFace:
    """The hub's library as `HF_ENDPOINT`, `HF_HOME` and an open network would have it, in this process."""
    play_huggingface(server, monkeypatch, tmp_path)
    return HuggingFace()


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_only_what_is_used_is_chosen() -> None:
    assert set(choose_files(FILES)) == WANTED
    without = [name for name in FILES if name != "model.safetensors"]
    assert set(choose_files(without)) == WANTED - {"model.safetensors"} | {"pytorch_model.bin"}
    odd = [
        "../config.json",
        "a\\config.json",
        "config.json.py",
        "tokenizer.py",
        "model-1-of-2.safetensors.exe",
        "LICENSE.py",
    ]
    assert choose_files(odd) == []


# ---- ModelScope


def test_modelscope_to_a_directory(server: HubServer, tmp_path: Path) -> None:
    assert download(ID, ModelScope(), tmp_path / "out") == tmp_path / "out"
    assert contents(tmp_path / "out") == {name: FILES[name] for name in WANTED}
    assert server.redirects == len(WANTED)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_cut_connection_goes_on_where_it_broke(
    server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cut["model.safetensors"] = [1_000_000, 500_000]
    download(ID, ModelScope(), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == WEIGHTS
    assert server.ranges == ["bytes=1000000-", "bytes=1500000-"]
    assert server.sent["model.safetensors"] == len(WEIGHTS)
    assert "下载 model.safetensors 时连接断了（IncompleteRead），第 1 次重试" in capsys.readouterr().err


def test_a_later_run_goes_on(server: HubServer, tmp_path: Path) -> None:
    server.cut["model.safetensors"] = [1_000_000, 0, 0, 0, 0]
    with pytest.raises(
        UserError, match=r"ModelScope（http://127.*）下载 owner/model.v1 没有成功.*会接着下载"
    ):
        download(ID, ModelScope(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    before = server.sent.copy()
    download(ID, ModelScope(), tmp_path / "out")
    assert server.sent["model.safetensors"] == len(WEIGHTS)
    assert server.sent["ice_text.model"] == before["ice_text.model"]  # whole already, by its hash
    assert contents(tmp_path / "out") == {name: FILES[name] for name in WANTED}


def test_a_wrong_hash_is_found_and_nothing_stays(server: HubServer, tmp_path: Path) -> None:
    server.corrupt.add("model.safetensors")
    with pytest.raises(UserError, match=r"model.safetensors 下载之后与 ModelScope 给出的哈希不符，已删除"):
        download(ID, ModelScope(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("model.safetensors*"))
    server.corrupt.clear()
    (tmp_path / ".out.download" / "model.safetensors.part").write_bytes(b"x" * (len(WEIGHTS) + 5))
    (tmp_path / ".out.download" / "ice_text.model").write_bytes(b"y" * len(FILES["ice_text.model"]))
    download(ID, ModelScope(), tmp_path / "out")
    assert contents(tmp_path / "out") == {name: FILES[name] for name in WANTED}


def test_a_server_that_sends_more_or_nonsense(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = server.files["model.safetensors"]
    hub = ModelScope()
    files = hub.list_files(ID, None)
    server.files["model.safetensors"] = listed + b"more" * 1000
    monkeypatch.setattr(hub, "list_files", lambda *args: files)
    download(ID, hub, tmp_path / "out")  # what is behind the listed size is not taken
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == listed
    monkeypatch.setattr(
        hubs, "parse_small_json", lambda text: {"Data": {"Files": [{"Path": 3, "Type": "blob", "Size": "x"}]}}
    )
    with pytest.raises(UserError, match="的回答看不懂"):
        download(ID, ModelScope(), tmp_path / "other")


@pytest.mark.parametrize(
    ("status", "message"), [(404, "上没有 owner/model.v1"), (403, "不给看 owner/model.v1"), (500, "没有成功")]
)
def test_refusals_are_told(server: HubServer, tmp_path: Path, status: int, message: str) -> None:
    server.status = status
    with pytest.raises(UserError, match=message):
        download(ID, ModelScope(), tmp_path / "out")


def test_what_is_in_the_cache_is_found_by_its_name(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckpointError, match=r"找不到模型“owner/model.v1”.*bases.download"):
        resolve_model_dir(ID)
    assert server.requests == []  # nothing is asked for unasked
    monkeypatch.setattr(sys, "argv", ["download", ID, "--hub", "modelscope"])
    with pytest.raises(SystemExit) as left:
        main()
    place = tmp_path / "cache" / "models" / "owner" / "model___v1"  # as the SDK spells it
    assert (left.value.code, capsys.readouterr().out) == (0, f"{place}\n")
    assert resolve_model_dir(ID) == place
    sent = server.sent["model.safetensors"]
    download(ID, ModelScope(), None)  # all there: looked through, not brought again
    assert server.sent["model.safetensors"] == sent
    older = tmp_path / "cache" / "owner" / "old"  # of older versions of the SDK
    older.mkdir(parents=True)
    (older / "config.json").write_text("{}")
    assert resolve_model_dir("owner/old") == older


# ---- Hugging Face


def test_huggingface_to_a_directory(server: HubServer, huggingface: HuggingFace, tmp_path: Path) -> None:
    server.cut["model.safetensors"] = [1_000_000]
    download(ID, huggingface, tmp_path / "out")
    assert contents(tmp_path / "out") == {name: FILES[name] for name in WANTED}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json"])
def test_huggingface_with_a_wrong_hash(
    server: HubServer, huggingface: HuggingFace, tmp_path: Path, name: str
) -> None:
    server.corrupt.add(name)
    for output in (tmp_path / "out", None):
        with pytest.raises(UserError, match=rf"{name} 下载之后与 Hugging Face 给出的哈希不符"):
            download(ID, huggingface, output)
    assert not list(tmp_path.rglob("config.json")) or name == "model.safetensors"
    server.corrupt.clear()
    download(ID, huggingface, tmp_path / "out")
    assert contents(tmp_path / "out") == {name: FILES[name] for name in WANTED}


def test_the_command_by_a_mirror_and_the_cache(server: HubServer, root: Path, tmp_path: Path) -> None:
    """With `HF_ENDPOINT`, in a process of its own: to the cache, found there without the network."""
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "bases.download", ID],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    place = Path(done.stdout.strip())
    assert place.is_relative_to(tmp_path / "home") and contents(place) == {n: FILES[n] for n in WANTED}
    code = f"from bases.hub_cache import resolve_model_dir; print(resolve_model_dir({ID!r}))"
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=offline, capture_output=True, text=True
    )
    assert found.stdout.strip() == str(place), found.stderr


# ---- the command


def test_what_the_command_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("")
    for words, message in (
        (["chatglm"], "不是模型的编号，应写成 所有者/名字"),
        (["../../etc/passwd"], "不是模型的编号"),
        (["a/.."], "不是模型的编号"),
        ([ID, "--output", str(tmp_path / "taken")], "已存在且不是空目录"),
        ([ID], "HF_HUB_OFFLINE 禁止了联网"),
    ):
        monkeypatch.setattr(sys, "argv", ["download", *words])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        assert (left.value.code, captured.out) == (2, "") and message in captured.err
    assert build_parser().parse_args([ID]).hub == "huggingface"


def test_a_model_without_weights(server: HubServer, tmp_path: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin"):
        del server.files[name]
    with pytest.raises(UserError, match="里没有可用的权重"):
        download(ID, ModelScope(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
