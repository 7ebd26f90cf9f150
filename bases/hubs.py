"""Hugging Face and ModelScope: which files a model has there; each fetched, resumed, and verified.

Hugging Face goes through its own library, mirrors included (`HF_ENDPOINT`). ModelScope's HTTP API is used as
its SDK (modelscope/hub/api.py and file_download.py) does: a list with sizes and SHA-256, GET with `Range`.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import get_session

from bases.hub_cache import modelscope_place
from utils.common_utils import UserError, log
from utils.directories import file_digest
from utils.small_json import parse_small_json

CHUNK = 2**20
TRIES = 5  # of one file, as long as the connection breaks
RETRY_SECONDS = 1.0  # before the first retry
LIST_BYTES = 16 * 2**20  # of a list of files, or of any other answer but a file
MAX_FILES = 100_000  # in a list that comes in pages
TIMEOUT = 60.0  # seconds without a byte
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
Advance = Callable[[int], None]  # takes bytes that have arrived


class RemoteFile(NamedTuple):
    """A file of a model on a hub; `sha256` or git's `blob` name says what it holds, if the hub tells."""

    name: str
    size: int
    sha256: str = ""
    blob: str = ""

    def matches(self, path: Path) -> bool:
        """Tell whether a file on the disk is this one, byte by byte."""
        if path.stat().st_size != self.size:
            return False
        if self.sha256:
            return file_digest(path) == self.sha256.lower()
        return not self.blob or _blob_name(path) == self.blob


def _blob_name(path: Path) -> str:
    """Return git's name for a file's content: SHA-1 of a header and the bytes."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check_id(model_id: str) -> None:
    """Make sure that a model's name is one that hubs have.

    Raises:
        UserError: it isn't.
    """
    if not _ID.fullmatch(model_id) or ".." in model_id:
        raise UserError(f"{model_id[:100]!r} 不是模型的编号，应写成 所有者/名字，例如 THUDM/chatglm-6b。")


class Hub(ABC):
    """A place that models are downloaded from."""

    name: ClassVar[str]

    @abstractmethod
    def cache_of(self, model_id: str) -> Path:
        """Return the folder of the hub's cache that a model belongs into, once its files are listed."""

    @abstractmethod
    def list_files(self, model_id: str, revision: str | None) -> list[RemoteFile]:
        """Return the files of a model, those in folders included.

        Raises:
            UserError: there is no such model, it may not be had, or the hub can't be reached.
        """

    @abstractmethod
    def fetch(self, model_id: str, file: RemoteFile, directory: Path | None, advance: Advance) -> Path:
        """Bring a file into a directory, going on where an earlier try broke off; return where it is.

        Args:
            model_id: owner and name.
            file: one of `list_files`.
            directory: None for the hub library's own cache.
            advance: is told of the bytes that have arrived.

        Raises:
            UserError: it can't be had.
            OSError: the disk is full or not writable.
        """


class HuggingFace(Hub):
    """Hugging Face's hub, or the mirror that `HF_ENDPOINT` names, by its own library."""

    name = "Hugging Face"

    def __init__(self) -> None:
        self._revision: str | None = None
        self._commit: str | None = None

    def cache_of(self, model_id: str) -> Path:
        folder = repo_folder_name(repo_id=model_id, repo_type="model")
        return Path(constants.HF_HUB_CACHE) / folder / "snapshots" / str(self._commit)

    def list_files(self, model_id: str, revision: str | None) -> list[RemoteFile]:
        try:
            _bound_answers(everything=True)
            api = HfApi()
            self._revision = revision
            self._commit = api.model_info(model_id, revision=revision).sha
            tree = api.list_repo_tree(model_id, recursive=True, revision=self._commit)
            files = [entry for entry in islice(tree, MAX_FILES) if isinstance(entry, RepoFile)]
        except (HFValidationError, OSError, HfHubHTTPError, OfflineModeIsEnabled) as error:
            raise _refused(self.name, constants.ENDPOINT, model_id, error) from error
        except Exception as error:  # of the HTTP library, which huggingface_hub does not wrap
            raise _refused(self.name, constants.ENDPOINT, model_id, error) from error
        try:
            if not isinstance(self._commit, str) or not _COMMIT.fullmatch(self._commit):
                raise ValueError(self._commit)
            return [
                _checked(file.path, file.lfs.size, sha256=file.lfs.sha256)
                if file.lfs is not None
                else _checked(file.path, file.size, blob=file.blob_id)
                for file in files
            ]
        except ValueError as error:
            raise _not_understood(self.name, constants.ENDPOINT, model_id) from error

    def fetch(self, model_id: str, file: RemoteFile, directory: Path | None, advance: Advance) -> Path:
        try:
            _bound_answers(everything=False)
            path = hf_hub_download(
                model_id,
                file.name,
                revision=self._revision if directory is None else self._commit,  # a cache notes the branch
                local_dir=directory,
                tqdm_class=_bar_that_tells(advance, file.size),
            )
        except UserError:
            raise
        except OSError as error:
            if isinstance(error, HfHubHTTPError) or error.errno is None:
                raise _refused(self.name, constants.ENDPOINT, model_id, error) from error
            raise
        except Exception as error:
            raise _refused(self.name, constants.ENDPOINT, model_id, error) from error
        return Path(path)


def _bound_answers(everything: bool) -> None:
    """Have the library read no more than `LIST_BYTES` of an answer: of each, or of refusals only."""
    client = get_session()
    hooks = client.event_hooks
    others = [hook for hook in hooks["response"] if hook not in (_bound, _bound_refusal)]
    client.event_hooks = hooks | {"response": [*others, _bound if everything else _bound_refusal]}
    client.headers["Accept-Encoding"] = "identity"  # what is packed can unpack to anything


def _bound(response: Any) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ValueError("回答是压缩的")
    response.stream = _Bounded(response.stream)


def _bound_refusal(response: Any) -> None:
    if response.is_error:
        _bound(response)


class _Bounded(httpx2.SyncByteStream):
    """A stream of bytes that is refused when it goes on and on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._stream:
            size += len(chunk)
            if size > LIST_BYTES:
                raise ValueError("回答没有尽头")
            yield chunk

    def close(self) -> None:
        self._stream.close()


def _bar_that_tells(advance: Advance, size: int) -> Any:
    """Return what `hf_hub_download` takes for a progress bar: it passes on what arrives, and refuses what is
    behind the size of the file."""
    left = size

    class Bar:
        def __init__(self, *args: Any, initial: int = 0, **options: Any) -> None:
            self.update(initial)

        def update(self, count: float | None = 1) -> None:
            nonlocal left
            advance(int(count or 0))
            left -= int(count or 0)
            if left < 0:
                raise UserError(
                    f"下载的文件超过了网站所说的 {size:,} 字节，没有读下去；请重新运行同一命令，"
                    "如果还是这样，换一个镜像。"
                )

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            return

        def _ignore(self, *args: Any, **options: Any) -> None:
            return

        update_transfer = set_postfix_str = set_transfer_postfix_str = close = refresh = _ignore
        set_description = set_description_str = _ignore

    return Bar


class ModelScope(Hub):
    """ModelScope, or the site that `MODELSCOPE_DOMAIN` names."""

    name = "ModelScope"

    def __init__(self) -> None:
        domain = os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
        self.endpoint = (domain if "://" in domain else f"https://{domain}").rstrip("/")
        self._revision = "master"

    def cache_of(self, model_id: str) -> Path:
        return modelscope_place(model_id)

    def list_files(self, model_id: str, revision: str | None) -> list[RemoteFile]:
        self._revision = revision or "master"
        url = self._url(model_id, "repo/files", Recursive="true")
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                content = response.read(LIST_BYTES + 1)
            if len(content) > LIST_BYTES:
                raise ValueError("too long")
            files = parse_small_json(content.decode())["Data"]["Files"]
            return [_described(entry) for entry in files if entry["Type"] != "tree"]
        except (OSError, http.client.HTTPException) as error:
            raise _refused(self.name, self.endpoint, model_id, error) from error
        except (ValueError, TypeError, KeyError) as error:
            raise _not_understood(self.name, self.endpoint, model_id) from error

    def fetch(self, model_id: str, file: RemoteFile, directory: Path | None, advance: Advance) -> Path:
        directory = directory or modelscope_place(model_id)
        part = directory / f"{file.name}.part"
        if part.is_symlink():  # which the bytes would be written through
            part.unlink()
        url = self._url(model_id, "repo", FilePath=file.name)
        if part.exists() and part.stat().st_size <= file.size:
            advance(part.stat().st_size)
        for attempt in range(1, TRIES + 1):
            try:
                _go_on(url, part, file.size, advance)
                break
            except urllib.error.HTTPError as error:
                raise _refused(self.name, self.endpoint, model_id, error) from error
            except (http.client.HTTPException, urllib.error.URLError, ConnectionError, TimeoutError) as error:
                if attempt == TRIES:
                    raise _refused(self.name, self.endpoint, model_id, error) from error
                log(f"下载 {file.name} 时连接断了（{type(error).__name__}），第 {attempt} 次重试 …")
                time.sleep(min(2 ** (attempt - 1), 10) * RETRY_SECONDS)
        return part.replace(directory / file.name)

    def _url(self, model_id: str, path: str, **query: str) -> str:
        words = urllib.parse.urlencode({"Revision": self._revision, **query})
        return f"{self.endpoint}/api/v1/models/{model_id}/{path}?{words}"


def _described(entry: dict[str, Any]) -> RemoteFile:
    """Read what ModelScope's list says of a file.

    Raises:
        ValueError: it is not what such a list says.
    """
    return _checked(entry["Path"], entry["Size"], sha256=entry.get("Sha256") or "")


def _checked(name: Any, size: Any, sha256: Any = "", blob: Any = "") -> RemoteFile:
    """Return what a hub says of a file.

    Raises:
        ValueError: it says what can't be.
    """
    if not isinstance(name, str) or type(size) is not int or not 0 <= size < 2**60:
        raise ValueError(name)
    if not isinstance(sha256, str) or not isinstance(blob, str):
        raise ValueError(name)
    return RemoteFile(name, size, sha256=sha256, blob=blob)


def _go_on(url: str, part: Path, size: int, advance: Advance) -> None:
    """Append to a file what it lacks; no more than `size` bytes are ever written.

    Raises:
        OSError, http.client.HTTPException: the connection broke, or the server refuses.
    """
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        part.unlink()
        have = 0
    if have == size:
        part.touch()
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if have and response.status != http.HTTPStatus.PARTIAL_CONTENT:  # the server begins anew
            advance(-have)
            have = 0
        with part.open("ab" if have else "wb") as target:
            while have < size and (chunk := response.read(min(CHUNK, size - have))):
                target.write(chunk)
                have += len(chunk)
                advance(len(chunk))
    if have < size:
        raise http.client.IncompleteRead(b"", size - have)


def _not_understood(hub: str, endpoint: str, model_id: str) -> UserError:
    return UserError(f"{hub}（{endpoint}）对 {model_id} 的回答看不懂，请稍后再试。")


def _refused(hub: str, endpoint: str, model_id: str, error: Exception) -> UserError:
    """Say why a hub did not give what was asked for."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "code", None)
    if status in (401, 403):
        return UserError(f"{hub}（{endpoint}）不给看 {model_id}：要先在网站上申请，或登录（hf auth login）。")
    if status == 404:
        return UserError(f"{hub}（{endpoint}）上没有 {model_id}，请检查名字的拼写和 --revision。")
    if isinstance(error, OfflineModeIsEnabled):
        return UserError("环境变量 HF_HUB_OFFLINE 禁止了联网，去掉它再下载。")
    detail = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return UserError(
        f"从 {hub}（{endpoint}）下载 {model_id} 没有成功（{detail}）：请检查网络后重新运行同一命令，"
        "会接着下载；Hugging Face 连不上时可以用 --hub modelscope，或用环境变量 HF_ENDPOINT 指定镜像。"
    )


HUBS: dict[str, type[Hub]] = {"huggingface": HuggingFace, "modelscope": ModelScope}
