"""What the service's page and the report share: scripts and styles, plain files without a build step.

They stand below `serving` and `export`, which are beside each other and may not know each other. Each .js
file is an ES module that imports others as "./name.js"; the page loads them as they are, and `bundle` puts
them into one inline script for the report. Rules that keep both ways open: imports stand at the top, name
what they take (`import {a, b as c} from "./x.js";`), and don't go round in a circle; exports stand before a
declaration (`export function`, `export const`, `export class`); no `await` outside functions.
"""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w.-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?:async )?(?:function\*?|const|let|class) (\w+)", re.MULTILINE)


def read_text(name: str) -> str:
    """Return a shared file."""
    return (FOLDER / name).read_text("utf-8")


def bundle(entry: Path) -> str:
    """Return a module and all that it imports, of its own folder or the shared one, as one script.

    Each module becomes a function that is called once, so that names of different modules don't meet.

    Raises:
        ValueError: a file breaks the rules above.
    """
    parts: dict[str, str] = {}
    _add(entry, parts, ())
    return "\n".join(["'use strict';", "const modules = {};", *parts.values()])


def _add(path: Path, parts: dict[str, str], above: tuple[str, ...]) -> None:
    if path.name in above:
        raise ValueError(f"{path.name} imports itself: {' → '.join((*above, path.name))}")
    source = path.read_text("utf-8")
    for _, name in _IMPORT.findall(source):
        if name not in parts:
            beside = path.parent / name
            _add(beside if beside.exists() else FOLDER / name, parts, (*above, path.name))
    exported = _EXPORT.findall(source)
    body = _IMPORT.sub(lambda match: _taken(match[1], match[2]), source)
    body = _EXPORT.sub(lambda match: match[0].removeprefix("export "), body)
    if re.search(r"^(import|export)\b", body, re.MULTILINE):
        raise ValueError(f"{path.name} has an import or export of another form")
    parts[path.name] = f'modules["{path.name}"] = (() => {{\n{body}return {{{", ".join(exported)}}};\n}})();'


def _taken(names: str, module: str) -> str:
    return f'const {{{names.replace(" as ", ": ")}}} = modules["{module}"];\n'
