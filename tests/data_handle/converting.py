"""Running the converter in a test: content in, lines and talk out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from data_handle.convert import main
from task.prompt import split_context
from task.triplets import Triplet, parse_target

FILM = "《雾港来信》是沈知远执导的电影，由顾小满主演。"
DIRECTED = Triplet("导演", "人物", "影视作品", "沈知远", "雾港来信")
PLAYED = Triplet("主演", "人物", "影视作品", "顾小满", "雾港来信")
RAIN = "昨夜下了一场大雨，河水涨了。"
DOCCANO = {
    "id": 1,
    "text": FILM,
    "entities": [
        {"id": 1, "label": "影视作品", "start_offset": 1, "end_offset": 5},
        {"id": 2, "label": "人物", "start_offset": 7, "end_offset": 10},
    ],
    "relations": [{"id": 1, "from_id": 1, "to_id": 2, "type": "导演"}],
    "Comments": [],
}


class Converted(NamedTuple):
    """What a conversion wrote: each sentence with its triplets, the raw lines, and the talk."""

    sentences: dict[str, list[Triplet]]
    lines: list[dict[str, Any]]
    talk: str


def untyped(*triplets: Triplet) -> list[Triplet]:
    """The triplets with the stand-in for types."""
    return [triplet._replace(object_type="实体", subject_type="实体") for triplet in triplets]


def as_json(*triplets: Triplet) -> str:
    return json.dumps([triplet._asdict() for triplet in triplets], ensure_ascii=False)


def found(triplet: Triplet, text: str, score: float | None = 0.9, spans: bool = True) -> dict[str, Any]:
    """A triplet as an extraction writes it."""
    item: dict[str, Any] = triplet._asdict()
    if score is not None:
        item["score"] = score
    if spans:
        for name in ("object", "subject"):
            start = text.index(item[name])
            item[f"{name}_span"] = [start, start + len(item[name])]
    return item


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


class Runner:
    """Converts what it is given in a folder of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.output = folder / "train.jsonl"

    def write(self, name: str, content: str | bytes | object) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        if not isinstance(content, (str, bytes)):
            content = json.dumps(content, ensure_ascii=False, indent=1)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def __call__(self, content: str | bytes | object, *options: str, name: str = "labels.dat") -> Converted:
        return self.convert(self.write(name, content), *options)

    def convert(self, *arguments: object) -> Converted:
        words = [str(argument) for argument in arguments]
        assert main([*words, "-o", str(self.output), "--overwrite"]) == 0
        captured = self._capsys.readouterr()
        assert captured.out == ""
        lines = [json.loads(line) for line in self.output.read_text("utf-8").splitlines()]
        sentences = {split_context(line["context"])[1]: parse_target(line["target"]) for line in lines}
        return Converted(sentences, lines, captured.err)
