"""The page at `/`: its files, and the headers that they are sent with.

The server answers `/` with `find("index.html")` and `/page/NAME` with `find(NAME)`; files of this folder and
of `web` have one space of names. Nothing else of the disk can be reached that way.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from web import FOLDER as SHARED

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# No script, style, picture or connection but the server's own; no inline script or style.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class PageFile(NamedTuple):
    """A file of the page: where it is, and its media type."""

    path: Path
    media_type: str


def find(name: str) -> PageFile | None:
    """Return the file of that name; None if the page has none."""
    return _files().get(name)


def _files() -> dict[str, PageFile]:
    folders = (Path(__file__).resolve().parent, SHARED)
    return {
        path.name: PageFile(path, _MEDIA_TYPES[path.suffix])
        for folder in folders
        for path in folder.iterdir()
        if path.suffix in _MEDIA_TYPES
    }
