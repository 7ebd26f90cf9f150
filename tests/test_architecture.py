"""The one-way rule of imports, and a few things that must not stand anywhere in the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("train", "inference_triplet", "test_training", "glm_config")
# The floors of the house, from the ground: a file imports its own floor or a lower one. (Training, serving
# and export stand beside each other. The knobs need nothing but utils, and nothing of the model or the data
# needs them.)
FLOORS = (
    {"utils"},
    {"task"},
    {"bases"},
    {"data_handle"},
    {"glm_config"},
    {"extraction"},
    {"training", "serving", "export"},
)
PACKAGES = tuple(name for floor in FLOORS for name in sorted(floor) if (ROOT / name).is_dir())
WORKSHOP = "tiny_base"  # stands outside the house and may look in anywhere
# Commands of a package (`python -m …`) may load what scripts load, inside their function `main` only.
ALLOWED_IN_MAIN = {*PACKAGES, "glm_config"}


def allowed_for(package: str) -> set[str]:
    """What a package may import of the project: the floors below its own, and itself."""
    level = next(number for number, floor in enumerate(FLOORS) if package in floor)
    return {name for floor in FLOORS[:level] for name in floor} | {package}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported_packages(tree: ast.AST) -> list[tuple[str, ast.AST]]:
    """Top-level names of all absolute imports below a node."""
    found: list[tuple[str, ast.AST]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name.split(".")[0], node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append(((node.module or "").split(".")[0], node))
    return found


def forbidden_imports(package: str, source: str) -> list[str]:
    """Imports in a file of `package` that point the wrong way."""
    tree = ast.parse(source)
    inside_main = {
        id(node)
        for function in tree.body
        if isinstance(function, ast.FunctionDef) and function.name == "main"
        for node in ast.walk(function)
    }
    project = {*PACKAGES, *SCRIPTS}
    wrong = []
    for name, node in imported_packages(tree):
        allowed = allowed_for(package) | (ALLOWED_IN_MAIN if id(node) in inside_main else set())
        if name in project and name not in allowed:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_one_way(package: str) -> None:
    files = python_files(package)
    assert files, f"{package}/ has no Python files"
    wrong = {
        str(path.relative_to(ROOT)): forbidden_imports(package, path.read_text("utf-8")) for path in files
    }
    assert {path: names for path, names in wrong.items() if names} == {}


def test_the_rule_finds_what_it_forbids() -> None:
    assert forbidden_imports("utils", "from bases.chatglm import ChatGLMModel") == ["bases"]
    assert forbidden_imports("data_handle", "import extraction.evaluation.metrics") == ["extraction"]
    assert forbidden_imports("bases", "def run():\n    from glm_config import ProjectConfig") == [
        "glm_config"
    ]
    assert forbidden_imports("training", "from glm_config import ProjectConfig") == []
    assert forbidden_imports("task", "import utils.table\nfrom .names import city\nimport json") == []
    assert (
        forbidden_imports("data_handle", "def main():\n    from bases.chatglm import ChatGLMTokenizer") == []
    )
    assert forbidden_imports("data_handle", "def main():\n    import train") == ["train"]


def test_nobody_imports_a_script() -> None:
    for path in [*python_files(*PACKAGES, WORKSHOP), *ROOT.glob("*.py")]:
        names = {name for name, _ in imported_packages(ast.parse(path.read_text("utf-8")))}
        assert not names & {"train", "inference_triplet", "test_training"}, path


def test_every_file_says_its_subject_in_the_first_line() -> None:
    for path in [*python_files(*PACKAGES, WORKSHOP, "tests"), *ROOT.glob("*.py")]:
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        assert docstring and docstring.splitlines()[0].strip(), f"{path.relative_to(ROOT)} has no docstring"


def test_no_code_from_the_hub_is_executed() -> None:
    for path in [*python_files(*PACKAGES, WORKSHOP), *ROOT.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path


def test_importing_a_package_loads_nothing_heavy_and_writes_nothing(tmp_path: Path) -> None:
    code = "import glm_config, utils.command_line, test_training, train, inference_triplet, sys; "
    code += "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"], cwd=tmp_path
    )
    assert result.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_every_imported_package_is_a_requirement() -> None:
    def names_in(path: str) -> set[str]:
        lines = (ROOT / path).read_text("utf-8").splitlines()
        words = [line.split("#")[0].split("==")[0].strip() for line in lines]
        return {word.lower().replace("-", "_") for word in words if word and not word.startswith("-")}

    used = {
        name
        for path in [*python_files(*PACKAGES, WORKSHOP), *ROOT.glob("*.py")]
        for name, _ in imported_packages(ast.parse(path.read_text("utf-8")))
    }
    outside = used - {*PACKAGES, *SCRIPTS, WORKSHOP, "__future__", *sys.stdlib_module_names}
    for_development = {"pytest", "matplotlib"}
    assert for_development <= names_in("requirements-dev.txt")
    optional = names_in("requirements-data.txt")
    assert outside <= names_in("requirements.txt") | optional | for_development
