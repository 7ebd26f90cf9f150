"""The page's files as the server finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

import web
from serving import page


def test_files_of_both_folders_are_found() -> None:
    index = page.find("index.html")
    assert index is not None and index.media_type == "text/html; charset=utf-8"
    style = page.find("style.css")
    assert style is not None and style.path.parent == web.FOLDER


@pytest.mark.parametrize("name", ["__init__.py", "../__init__.py", "", "..", "nothing.js", "/etc/passwd"])
def test_nothing_else_is_found(name: str) -> None:
    assert page.find(name) is None


def test_no_two_files_have_one_name() -> None:
    folders = (web.FOLDER, Path(page.__file__).parent)
    names = [path.name for folder in folders for path in folder.iterdir() if path.suffix in (".js", ".css")]
    assert len(names) == len(set(names))


def test_no_inline_script_or_style_which_the_policy_would_refuse() -> None:
    for folder in (web.FOLDER, Path(page.__file__).parent):
        for path in folder.iterdir():
            if path.suffix in (".js", ".html"):
                text = path.read_text("utf-8")
                assert "innerHTML" not in text and "insertAdjacentHTML" not in text, path.name
                assert "<style" not in text and " style=" not in text and "onclick=" not in text, path.name
