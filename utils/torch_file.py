"""A file of `torch.save` looked through before torch reads it: what it would build, and that it is no trap.

torch's weights-only loading executes nothing, but takes a few hundred bytes at their word: they can ask for
gigabytes (`bytearray`, compressed archives, tensors of stride 0 over one number). Here its pickle runs with
inert stand-ins instead: a tensor becomes a note of its type and shape, checked against its storage's bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import stat
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MAX_PICKLE_BYTES = 16 * 2**20
MAX_ENTRIES = 100_000  # of an archive
_LEGACY_PICKLES = 4  # magic number, protocol, facts of the system, and the object itself
_OPCODES = {
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "INT", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "LIST"),
    *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"),
    *("BINPERSID", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "MEMOIZE"),
}
_ITEM_BYTES = {
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    **dict.fromkeys(("Float", "Int"), 4),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Char", "Byte", "Bool", "Untyped"), 1),
}


class TensorNote(NamedTuple):
    """What a tensor of a file is.

    Attributes:
        kind: "Half", "BFloat16", "Float", "Double", "Long" …, as torch names its storages.
        shape: of the tensor.
    """

    kind: str
    shape: tuple[int, ...]


class _Storage(NamedTuple):
    kind: str
    numel: int


def look_through(path: Path) -> Any:
    """Return what a file holds, each tensor as a `TensorNote`, without reading any of their numbers.

    Raises:
        OSError: it is no regular file, or can't be read.
        ValueError: it is damaged, holds anything but tensors and plain values, or asks for more memory than
            it has bytes.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} 不是普通文件")
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return _look_through_archive(path)
        file.seek(0)
        head = file.read(MAX_PICKLE_BYTES)
    reader = _Reader(None, path.stat().st_size)
    content, position = None, 0
    for _ in range(_LEGACY_PICKLES):
        end = _check_opcodes(head[position:])
        content = reader.load(head[position : position + end])
        position += end
    return content


def _look_through_archive(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            folder = names[0].partition("/")[0] + "/" if names else ""
            if len(entries) > MAX_ENTRIES or len(set(names)) != len(names):
                raise ValueError("压缩包里的文件太多，或有重名的")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("压缩过的文件（torch.save 从不压缩）")
            if any(entry.file_size != entry.compress_size for entry in entries):
                raise ValueError("压缩包的目录已损坏")
            sizes = {entry.filename: entry.file_size for entry in entries}
            if sizes.get(f"{folder}data.pkl", MAX_PICKLE_BYTES + 1) > MAX_PICKLE_BYTES:
                raise ValueError("没有 data.pkl，或它太大")
            content = archive.read(f"{folder}data.pkl")
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise ValueError(f"不是完整的压缩包：{error}") from error
    prefix = f"{folder}data/"
    storages = {name.removeprefix(prefix): size for name, size in sizes.items() if name.startswith(prefix)}
    end = _check_opcodes(content)
    return _Reader(storages, 0).load(content[:end])


def _check_opcodes(content: bytes) -> int:
    """Return where the first pickle of some bytes ends; only opcodes that plain data is made of may occur.

    Raises:
        ValueError: others do, or a place in the memo that would make room for gigabytes.
    """
    try:
        for opcode, argument, position in pickletools.genops(content):
            if opcode.name not in _OPCODES:
                raise ValueError(f"不允许的内容 {opcode.name}")
            if opcode.name in ("BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
                raise ValueError("已损坏")
            if opcode.name == "STOP":
                return (position or 0) + 1
    except (UnicodeError, IndexError, KeyError, OverflowError) as error:
        raise ValueError("已损坏") from error
    raise ValueError("没有写完")


class _Reader:
    """Runs pickles with stand-ins for the few things that tensors are made of.

    Args:
        storages: bytes of each storage by its key; None for files older than torch 1.6, whose storages all
            come behind the pickles.
        file_bytes: of such a file.
    """

    def __init__(self, storages: dict[str, int] | None, file_bytes: int) -> None:
        self._storages = storages
        self._left = file_bytes  # for storages that have not been met
        self._met: dict[str, int] = {}
        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            ("torch.storage", "UntypedStorage"): "Untyped",
            **{("torch", f"{kind}Storage"): kind for kind in _ITEM_BYTES},
        }

    def load(self, content: bytes) -> Any:
        """Return what a pickle (whose opcodes have been checked) stands for.

        Raises:
            ValueError: it is damaged, or names what is not known.
        """
        unpickler = _Unpickler(io.BytesIO(content), self._find, self._storage)
        try:
            return unpickler.load()
        except ValueError:
            raise
        except Exception as error:  # whatever nonsense makes of the stand-ins
            raise ValueError(f"已损坏（{type(error).__name__}）") from error

    def _find(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise ValueError(f"含有张量以外的内容 {module}.{name}")
        return self._known[module, name]

    def _storage(self, identity: Any) -> _Storage:
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
            raise ValueError("已损坏")
        _, kind, key, _, numel = identity[:5]
        if kind not in _ITEM_BYTES or not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise ValueError("已损坏")
        need = numel * _ITEM_BYTES[kind]
        if self._storages is None:
            self._left -= max(0, need - self._met.get(key, 0))
            self._met[key] = max(need, self._met.get(key, 0))
        if (self._left < 0) if self._storages is None else (need > self._storages.get(key, -1)):
            raise ValueError("声明的大小超过了文件本身")
        return _Storage(kind, numel)


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, file: io.BytesIO, find: Callable[[str, str], Any], storage: Callable[[Any], _Storage]
    ) -> None:
        super().__init__(file, encoding="latin1")
        self._find, self._storage = find, storage

    def find_class(self, module: str, name: str) -> Any:
        return self._find(module, name)

    def persistent_load(self, identity: Any) -> _Storage:
        return self._storage(identity)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorNote:
    """Note a tensor; as many bytes as it will take when copied have to be in its storage."""
    numbers = [offset, *size, *stride]
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise ValueError("已损坏")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("已损坏")
    numel = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if numel and (numel > storage.numel or last >= storage.numel):
        raise ValueError("有张量比它的数据还大")
    return TensorNote(storage.kind, tuple(size))


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    return data
