"""Hostile variants of the files that the product reads: by structure where a file has one, else by bytes.

Each function changes one file in place, with the random generator that it is given, and returns what it did
in a few words.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Mutation = Callable[[random.Random, Path], str]


class Made:
    """Unpickles as the result of a call, as far as the reader lets it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def deep(depth: int) -> str:
    """Return nested JSON lists, as text."""
    return "[" * depth + "]" * depth


HOSTILE_TEXT = (
    '"\\u001b[2J\\u001b]0;owned\\u0007"', '"\\ud800"', '"\\u202e"', '"\\u0000"', '""', '" "',
    f'"{"长" * 5000}"',
    '"../../etc/passwd"', '"/dev/zero"', '"kernels-community/x"', '"eager|a/b"',
)  # fmt: skip
HOSTILE_NUMBERS = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1", "0", "0.5", "30000000", "1000000000000", "9" * 400,
    "9" * 5000, "true", "null", "-0.0", "1e-320",
)  # fmt: skip
HOSTILE_JSON = (*HOSTILE_TEXT, *HOSTILE_NUMBERS, "[]", "{}", '{"a": 1}', '[["x"]]', deep(990), deep(100_000))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [found for key, child in inner for found in places(child, (*path, key))]


def mutate_json(rng: random.Random, file: Path) -> str:
    """Put something hostile in the place of a part of a JSON file; or remove, repeat or rename the part."""
    value = json.loads(file.read_text(encoding="utf-8"))
    path = rng.choice(places(value)[:2000])
    what, marker = rng.choice(["replace"] * 5 + ["remove", "repeat", "rename", "add"]), "\x00HERE\x00"
    hostile = rng.choice(HOSTILE_JSON)
    holder: Any = value
    for key in path[:-1]:
        holder = holder[key]
    if not path:
        text = hostile
    elif what == "remove":
        del holder[path[-1]]
        text = json.dumps(value)
    elif what == "rename" and isinstance(holder, dict):
        holder[json.loads(rng.choice(HOSTILE_TEXT))] = holder.pop(path[-1])
        text = json.dumps(value)
    elif what == "add" and isinstance(holder, dict):
        names = ["auto_map", "attn_implementation", "_attn_implementation", "num_labels", "torch_dtype", "x"]
        holder[rng.choice([*names, "num_image_tokens", "quantization_config", "__class__"])] = marker
        text = json.dumps(value).replace(json.dumps(marker), hostile)
    elif what == "repeat" and isinstance(holder, dict):
        text = json.dumps(value)
        key = json.dumps(path[-1])
        text = text.replace(f"{key}:", f"{key}: {hostile}, {key}:", 1)
    else:
        holder[path[-1]] = marker
        text = json.dumps(value).replace(json.dumps(marker), hostile)
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return f"{what} {path} {hostile[:40]}"


def mutate_bytes(rng: random.Random, file: Path) -> str:
    """Flip, cut, repeat, blank or insert bytes."""
    content = bytearray(file.read_bytes())
    what = rng.choice(["flip", "cut", "repeat", "blank", "insert", "head"])
    at = rng.randrange(len(content)) if content else 0
    length = min(rng.choice([1, 4, 64, 4096]), max(len(content) - at, 1))
    if what == "flip" and content:
        content[at] ^= 1 << rng.randrange(8)
    elif what == "cut":
        del content[at:]
    elif what == "repeat":
        content[at:at] = content[at : at + length]
    elif what == "blank":
        content[at : at + length] = bytes(length)
    elif what == "insert":
        content[at:at] = rng.randbytes(length)
    else:  # where formats keep lengths
        content[: min(8, len(content))] = struct.pack("<Q", rng.choice([0, 1, 2**31, 2**40, 2**63]))
    file.write_bytes(content)
    return f"{what} at {at}, {length} bytes"


def mutate_place(rng: random.Random, file: Path) -> str:
    """Put something that is no plain file of sensible size where the file was, or nothing at all."""
    what = rng.choice(["missing", "empty", "fifo", "zero", "outside", "directory", "sparse", "dangling"])
    file.unlink()
    if what == "empty":
        file.touch()
    elif what == "fifo":
        os.mkfifo(file)
    elif what == "zero":
        file.symlink_to("/dev/zero")
    elif what == "outside":
        file.symlink_to("/etc/passwd")
    elif what == "dangling":
        file.symlink_to(file.parent / "nowhere")
    elif what == "directory":
        file.mkdir()
    elif what == "sparse":
        with file.open("wb") as large:
            large.truncate(5 * 2**30)
    return what


def mutate_safetensors(rng: random.Random, file: Path) -> str:
    """Change the header: names, types, shapes, offsets; or numbers to NaN and infinity."""
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    what = rng.choice(["dtype", "shape", "offsets", "name", "extra", "drop", "nan", "base", "json"])
    if what == "dtype":
        entry["dtype"] = rng.choice(["F64", "F32", "I8", "BOOL", "C64", "F4", "F8_E4M3", "I64", "U8", "X"])
    elif what == "shape":
        entry["shape"] = rng.choice(
            [[], [0], [20_000_000, 0], [2**40, 2**40], [-1], entry["shape"][::-1], [1e9]]
        )
    elif what == "offsets":
        entry["data_offsets"] = rng.choice([[0, 0], [0, 2**62], [8, 4], [0, len(data)], [-8, 8]])
    elif what == "name":
        header[rng.choice(["x\x1b[2J", "", "é", name + ".default", "a" * 100_000])] = header.pop(name)
    elif what == "base":  # a weight of the base model in an adapter's file
        header["base_model.model.transformer.final_layernorm.weight"] = header.pop(name)
    elif what == "extra":
        header[f"extra{rng.random()}"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    elif what == "drop":
        del header[name]
    elif what == "nan" and entry["dtype"] in ("F32", "F16"):
        start = entry["data_offsets"][0]
        number = struct.pack(
            "<f" if entry["dtype"] == "F32" else "<e", rng.choice([float("nan"), float("inf")])
        )
        data[start : start + len(number)] = number
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    if what == "json":
        text = rng.choice([deep(100_000), "{}", "[]", "null", '{"a": 1}', " " * 1000]).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    return f"{what} of {name}"


def mutate_pickle(rng: random.Random, file: Path) -> str:
    """Save other objects: strange tensors, objects that call, bombs."""
    if b"bytearray" in file.read_bytes():
        raise ValueError("a bomb already; the generator itself is not to read it")
    state = torch.load(file, map_location="cpu", weights_only=True)
    name = rng.choice([key for key in state if isinstance(state[key], torch.Tensor)] or list(state))
    tensor = state[name] if isinstance(state[name], torch.Tensor) else torch.ones(3)
    odd: dict[str, Any] = {
        "expanded": torch.zeros(1).expand(2**36), "nan": torch.full_like(tensor.float(), float("nan")),
        "bytearray": Made(bytearray, 2**30), "bytearrays": [Made(bytearray, 2**30) for _ in range(40)],
        "meta": torch.empty(4, device="meta"), "sparse": torch.ones(4).to_sparse(),
        "int": torch.ones(4).int(),
        "complex": torch.ones(4).to(torch.complex64), "call": Made(os.getcwd), "list": [1, [2, {3: 4}]],
        "none": None, "text": "x\x1b[2J", "strided": torch.ones(4, 4).t()[::2], "empty": torch.ones(0),
    }  # fmt: skip
    what = rng.choice([*odd, "int key", "drop", "not a dict", "deflated", "rename"])
    if what in odd:
        state[name] = odd[what]
    elif what == "int key":
        state[7] = state.pop(name)
    elif what == "rename":
        state[rng.choice(["module." + str(name), "x\x1b]0;y\x07", ""])] = state.pop(name)
    elif what == "drop":
        del state[name]
    torch.save([state] if what == "not a dict" else state, file)
    if what == "deflated":
        packed = file.with_suffix(".zip")
        with zipfile.ZipFile(file) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
            for entry in old.infolist():
                content = old.read(entry)
                if entry.filename.endswith("data.pkl"):
                    content = pickle.dumps("0" * 300_000_000)
                new.writestr(entry.filename, content)
        packed.replace(file)
    return f"{what} for {name}"


def mutate_sentencepiece(rng: random.Random, file: Path) -> str:
    """Change the tokenizer's model by its parts: normaliser's table, pieces, trainer's settings."""
    from transformers.utils import sentencepiece_model_pb2_new as protobuf

    model = protobuf.ModelProto()
    model.ParseFromString(file.read_bytes())
    what = rng.choice(
        ["table", "random table", "long piece", "many", "few", "piece", "type", "score", "twice"]
    )
    piece = model.pieces[rng.randrange(len(model.pieces))]
    if what == "table":
        model.normalizer_spec.precompiled_charsmap = struct.pack("<I", 1024) + b"\xff" * 1024 + b"\x00"
    elif what == "random table":
        size = rng.choice([4, 1024, 4096])
        model.normalizer_spec.precompiled_charsmap = struct.pack("<I", size) + rng.randbytes(size) + b"a\x00"
    elif what == "long piece":
        piece.piece = "长" * rng.choice([400, 100_000, 5_000_000])
    elif what == "many":
        for number in range(rng.choice([100, 300_000])):
            model.pieces.add(piece=f"新{number}", score=-1.0)
    elif what == "few":
        del model.pieces[rng.randrange(1, 50) :]
    elif what == "piece":
        piece.piece = rng.choice(["", "\x1b[2J", "<eop>", "[gMASK]", "\x00", "▁▁▁"])
    elif what == "type":
        piece.type = rng.choice([1, 2, 3, 4, 5, 6])
    elif what == "score":
        piece.score = rng.choice([float("nan"), float("inf"), 1e30, -1e30])
    else:
        piece.piece = model.pieces[0].piece
    file.write_bytes(model.SerializeToString())
    return what


def mutate_lines(rng: random.Random, file: Path) -> str:
    """Change lines of a JSONL or text file: hostile values, bytes, encodings, sizes."""
    lines = file.read_bytes().split(b"\n")
    at = rng.randrange(len(lines))
    what = rng.choice(["json", "bytes", "long", "key", "encoding", "ends", "nul", "bom", "array"])
    if what == "json":
        record = json.loads(lines[0])
        name = rng.choice(list(record))
        text = json.dumps(record | {name: "HERE"}).replace('"HERE"', rng.choice(HOSTILE_JSON))
        lines[at] = text.encode("utf-8", "surrogatepass")
    elif what == "bytes":
        lines[at] = rng.randbytes(200).replace(b"\n", b"")
    elif what == "long":
        lines[at] = b'{"context": "' + b"a" * 3_000_000
    elif what == "key":
        lines[at] = lines[0].replace(b'"target"', b'"target": 1, "target"', 1)
    elif what == "nul":
        lines[at] = lines[at][:20] + b"\x00" + lines[at][20:]
    content = b"\n".join(lines)
    if what == "encoding":
        content = content.decode("utf-8").encode(rng.choice(["utf-16", "gb18030", "utf-32"]))
    elif what == "ends":
        content = content.replace(b"\n", rng.choice([b"\r", b"\r\n", b"\x85", b"\n\n"]))
    elif what == "bom":
        content = b"\xef\xbb\xbf" * rng.choice([1, 2]) + content
    elif what == "array":
        content = b"[" + content.strip().replace(b"\n", b",") + b"]"
    file.write_bytes(content)
    return f"{what} in line {at + 1}"


def with_manifest_of_its_own(directory: Path) -> None:
    """Write the manifest anew, as who forges a directory would."""
    files = {}
    for file in sorted(directory.rglob("*")):
        if file.is_file() and not file.is_symlink() and file.name != "manifest.json":
            if file.stat().st_size > 2**30:
                return
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            files[file.relative_to(directory).as_posix()] = {"size": file.stat().st_size, "sha256": digest}
    (directory / "manifest.json").write_text(json.dumps({"files": files}), encoding="utf-8")


def copy_of(original: Path, target: Path) -> Path:
    """Return a fresh copy of a file or directory."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    if original.is_dir():
        return shutil.copytree(original, target)
    return Path(shutil.copy(original, target))
