"""The shared scripts become one inline script."""

from __future__ import annotations

from pathlib import Path

import pytest

import web


def test_modules_become_one_script(tmp_path: Path) -> None:
    (tmp_path / "main.js").write_text('import {a as b, c} from "./part.js";\nb(c);\n', "utf-8")
    (tmp_path / "part.js").write_text("export function a() {}\nexport const c = 1;\n", "utf-8")
    assert web.bundle(tmp_path / "main.js") == (
        "'use strict';\nconst modules = {};\n"
        'modules["part.js"] = (() => {\nfunction a() {}\nconst c = 1;\nreturn {a, c};\n})();\n'
        'modules["main.js"] = (() => {\nconst {a: b, c} = modules["part.js"];\nb(c);\nreturn {};\n})();'
    )


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ('import * as x from "./part.js";\n', "another form"),
        ("export {x};\n", "another form"),
        ('import {x} from "./main.js";\n', "main.js → main.js|imports itself"),
    ],
)
def test_other_forms_are_refused(tmp_path: Path, source: str, complaint: str) -> None:
    (tmp_path / "main.js").write_text(source, "utf-8")
    with pytest.raises(ValueError, match=complaint):
        web.bundle(tmp_path / "main.js")
