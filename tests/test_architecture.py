"""The rules of the house, by `tools.architecture`, and what must not stand anywhere in the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tools import architecture
from tools.architecture import File, read_file

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def files() -> list[File]:
    return architecture.read_files()


@pytest.mark.parametrize("title", architecture.RULES)
def test_the_house_keeps_its_rules(files: list[File], title: str) -> None:
    assert architecture.RULES[title](files) == []


def test_floors() -> None:
    def upward(path: str, source: str) -> list[str]:
        house = [read_file("", f"{name}/__init__.py") for floor in architecture.FLOORS[:-1] for name in floor]
        house += [read_file("", "train.py"), read_file("", "tiny_base/model.py")]
        return [
            line.rpartition(" ")[2] for line in architecture.find_upward([*house, read_file(source, path)])
        ]

    assert upward("utils/new.py", "from bases.chatglm import ChatGLMModel") == ["bases"]
    assert upward("data_handle/new.py", "import extraction.evaluation.metrics") == ["extraction"]
    assert upward("bases/new.py", "def run():\n    from glm_config import ProjectConfig") == ["glm_config"]
    assert upward("training/new.py", "from glm_config import ProjectConfig") == []
    assert upward("training/new.py", "import export") == ["export"]  # beside each other
    assert upward("task/new.py", "import utils.table\nfrom .names import city\nimport json") == []
    assert upward("training/new.py", "import train") == ["train"]
    assert upward("utils/new.py", "import tiny_base.model") == ["tiny_base.model"]
    assert upward("benchmarks/new.py", "from training import log") == []
    assert upward("benchmarks/new.py", "import train") == ["train"]


def test_circles() -> None:
    def circles(**sources: str) -> list[str]:
        return architecture.find_circles(
            [read_file(source, f"task/{name}.py") for name, source in sources.items()]
        )

    assert circles(a="from task import b", b="def f():\n    import task.c", c="from .a import name") == [
        "task.a ↔ task.b ↔ task.c"
    ]
    assert circles(a="from task import b", b="import json") == []
    assert circles(a="from task import b", b="if TYPE_CHECKING:\n    import task.a") == []


def test_sizes_and_deferred_imports() -> None:
    long = read_file("def f():\n" + "    pass\n" * 70 + "x = 0\n" * 380, "task/long.py")
    assert architecture.find_long_files([long]) == ["task/long.py：451 行"]
    assert architecture.find_long_functions([long]) == ["task/long.py 的 f：71 行"]
    door = read_file(
        "def main():\n    import training.run\n    import json\n    import bitsandbytes.nn", "train.py"
    )
    assert architecture.find_deferred([door]) == ["train.py:3 在 main 里导入 json"]


def test_the_picture_shows_every_room_and_no_arrow_that_another_implies(files: list[File]) -> None:
    picture = architecture.draw(files)
    for room in {file.room for file in files} - set(architecture.OUTSIDE):
        assert f"        {room}\n" in picture
    assert "train --> training" in picture and "train --> utils" not in picture
    assert "总" not in picture and "房屋合计" in architecture.figures(files)


def test_every_file_says_its_subject_in_the_first_line(files: list[File]) -> None:
    tests = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")]
    for path in [*(file.path for file in files), *tests]:
        docstring = ast.get_docstring(ast.parse((ROOT / path).read_text("utf-8")))
        assert docstring and docstring.splitlines()[0].strip(), f"{path} has no docstring"


def test_no_code_from_the_hub_is_executed(files: list[File]) -> None:
    for file in files:
        for node in ast.walk(ast.parse((ROOT / file.path).read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, file.path


def test_importing_a_package_loads_nothing_heavy_and_writes_nothing(tmp_path: Path) -> None:
    code = "import glm_config, utils.command_line, test_training, train, inference_triplet, serve, sys; "
    code += "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"], cwd=tmp_path
    )
    assert result.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_every_imported_package_is_a_requirement(files: list[File]) -> None:
    def names_in(path: str) -> set[str]:
        lines = (ROOT / path).read_text("utf-8").splitlines()
        words = [line.split("#")[0].split("==")[0].strip() for line in lines]
        return {word.lower().replace("-", "_") for word in words if word and not word.startswith("-")}

    used = {each.module.split(".")[0] for file in files for each in file.imports}
    outside = used - {file.room for file in files} - {"__future__", *sys.stdlib_module_names}
    for_development = {"httpx2", "pytest", "matplotlib", "playwright"}
    assert for_development <= names_in("requirements-dev.txt")
    optional = names_in("requirements-data.txt") | names_in("requirements-serve.txt")
    optional |= {name.partition("[")[0] for name in names_in("requirements-ray.txt")} | {
        "pyarrow"
    }  # Ray's own
    assert outside <= names_in("requirements.txt") | optional | for_development
