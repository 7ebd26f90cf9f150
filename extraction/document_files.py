"""Files of documents into records: a text or Markdown file is one document, a folder holds many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_handle.converters.decoding import decode
from extraction.records import Record, sentence_problem
from utils.common_utils import UserError, is_encodable

SUFFIXES = (".txt", ".md", ".markdown")
MAX_BYTES = 1 << 20  # of a document: its results are one line, with its text


def find_documents(path: Path) -> list[Path]:
    """Return the files of documents at a path: itself, or those in a folder and the folders in it.

    Raises:
        UserError: there are none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"找不到 {path}：--documents 的 --input 是一个文档（.txt、.md），或放文档的文件夹。")
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise UserError(f"文件夹 {path} 里没有文档（.txt、.md）。")
    return found


def read_documents(path: Path) -> Iterator[Record]:
    """Read the documents at a path; a record has the file's name, within the folder, as `document`.

    Raises:
        UserError: there are none, or one can't be read.
    """
    for file in find_documents(path):
        name = file.name if file == path else file.relative_to(path).as_posix()
        try:
            content = file.read_bytes() if file.stat().st_size <= MAX_BYTES else None
        except OSError as error:
            raise UserError(f"读不了文档 {file}（{error.strerror}），请检查权限。") from error
        if content is None:
            yield Record({"document": name, "text": ""}, f"文档超过 {MAX_BYTES:,} 字节，请分成几个")
            continue
        try:
            text, _ = decode(content)
        except ValueError as error:
            yield Record({"document": name, "text": ""}, str(error))
            continue
        problem = sentence_problem(text) if is_encodable(text) else "里面有读不出的字节，请另存为 UTF-8"
        yield Record({"document": name, "text": text}, problem)
