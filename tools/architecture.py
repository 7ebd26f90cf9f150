"""The house as its imports draw it: floors, circles, long files and functions, imports inside functions.

Usage: python -m tools.architecture [--picture]

Without an option the figures are printed, and what breaks a rule; `--picture` prints the rooms and who
imports whom, as the Mermaid graph of docs/architecture.md. The exit code is 1 if a rule is broken.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from utils.command_line import ChineseArgumentParser
from utils.common_utils import run_main
from utils.table import format_table

ROOT = Path(__file__).resolve().parent.parent
# The floors of the house, from the ground: a file imports its own floor or a lower one. (Training, serving
# and export stand beside each other, and don't know each other. The knobs need nothing but utils, and nothing
# of the model or the data needs them.)
FLOORS: tuple[tuple[str, ...], ...] = (
    ("utils",),
    ("task", "web"),
    ("bases",),
    ("data_handle",),
    ("glm_config",),
    ("extraction",),
    ("training", "serving", "export"),
    ("train", "inference_triplet", "extract_ray", "test_training", "serve"),
)
SCRIPTS = FLOORS[-1]
OUTSIDE = ("tiny_base", "data", "benchmarks", "tools")  # workshops: they may look in anywhere
MAX_FILE, MAX_FUNCTION = 450, 70  # lines
# Tables of words and phrases, not code: long by nature.
LONG_FILES = {"tiny_base/corpus/phrases_works.py"}
LONG_FUNCTIONS = {"forward"}  # a model's forward pass reads best in one piece
# Imports inside functions, by file. Doors: a command answers --help and typing errors before torch is loaded,
# then makes one import; and what doors themselves need of utils stays free of torch.
DOORS: dict[str, set[str]] = {
    "train.py": {"training"},
    "inference_triplet.py": {"extraction"},
    "serve.py": {"serving", "training"},
    "export/hub.py": {"export"},
    "export/merge.py": {"export"},
    "extract_ray.py": {"extraction"},
    "extraction/cluster.py": {"extraction", "torch"},  # needed on the machines that have the model only
    "export/quantized.py": {"export"},
    "export/request.py": {"export"},
    "data_handle/lint_report.py": {"bases"},
    "benchmarks/bench_data.py": {
        "bases",
        "data_handle",
        "benchmarks",
        "torch",
    },  # measures what loading takes
    "utils/common_utils.py": {"torch", "numpy"},
}
# Libraries that not everybody has or needs: of one option, of some systems, or kept off the network first.
OPTIONAL = {
    "bitsandbytes",
    "fcntl",
    "matplotlib",
    "openpyxl",
    "packaging",
    "pyarrow",
    "playwright.sync_api",
    "pytest",
    "ray",
    "resource",
    "torch.utils.tensorboard",
}


class Import(NamedTuple):
    """One import statement's module, as it is written (absolute), and the function that it stands in."""

    module: str
    line: int
    function: str | None


@dataclass
class File:
    """A Python file of the project."""

    path: str
    lines: int
    imports: list[Import] = field(default_factory=list)
    functions: list[tuple[str, int]] = field(default_factory=list)  # name, lines

    @property
    def module(self) -> str:
        """The name under which it is imported."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def room(self) -> str:
        """The folder or script that it belongs to."""
        return self.module.split(".")[0]


def read_files(root: Path = ROOT) -> list[File]:
    """Read all Python files of the product and of the workshops, tests left out."""
    rooms = [*(room for floor in FLOORS for room in floor), *OUTSIDE]
    paths = [path for room in rooms for path in sorted((root / room).rglob("*.py"))]
    paths += [root / f"{room}.py" for room in rooms if (root / f"{room}.py").is_file()]
    return [read_file(path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()) for path in paths]


def read_file(source: str, path: str) -> File:
    """Take one file apart."""
    tree = ast.parse(source)
    file = File(path, len(source.splitlines()))
    package = path.removesuffix(".py").split("/")[:-1]
    for node, function in _walk(tree, None):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            file.functions.append((node.name, (node.end_lineno or node.lineno) - node.lineno + 1))
        elif isinstance(node, ast.Import):
            file.imports += [Import(alias.name, node.lineno, function) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            # `from package import module` names a module, `from module import name` does not.
            file.imports += [Import(f"{module}.{alias.name}", node.lineno, function) for alias in node.names]
    return file


def _walk(node: ast.AST, function: str | None) -> Iterator[tuple[ast.AST, str | None]]:
    """Yield nodes with the outermost function around each; what only type checkers read is left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child, function
        inside = function
        if function is None and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = child.name
        yield from _walk(child, inside)


def floor_of(room: str) -> int | None:
    """Return the number of a room's floor; None for what stands outside the house."""
    return next((number for number, floor in enumerate(FLOORS) if room in floor), None)


def imported_files(file: File, modules: dict[str, File]) -> Iterator[tuple[File, Import]]:
    """Yield the files of the project that a file imports."""
    for each in file.imports:
        name = each.module
        while name and name not in modules:
            name = name.rpartition(".")[0]
        if name:
            yield modules[name], each


def find_upward(files: list[File]) -> list[str]:
    """Find imports that lead to a higher floor, or to another room of the same one."""
    modules, wrong = {file.module: file for file in files}, []
    for file in files:
        own = floor_of(file.room)
        for target, each in imported_files(file, modules):
            theirs = floor_of(target.room)
            if target.room == file.room or (own is None and target.room not in SCRIPTS):
                continue
            if own is None or theirs is None or theirs >= own:
                wrong.append(f"{file.path}:{each.line} 引用了 {target.module}")
    return wrong


def find_circles(files: list[File]) -> list[str]:
    """Find files that import each other, directly or by way of others, inside functions too."""
    modules = {file.module: file for file in files}
    edges = {
        file.module: {target.module for target, _ in imported_files(file, modules)} - {file.module}
        for file in files
    }
    reachable: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        waiting = list(edges[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += edges[module]
        reachable[start] = seen
    circles = {
        tuple(sorted(other for other in reachable[module] if module in reachable[other]))
        for module in edges
        if module in reachable[module]
    }
    return [" ↔ ".join(circle) for circle in sorted(circles)]


def find_long_files(files: list[File]) -> list[str]:
    """Find files with too many lines."""
    return [
        f"{file.path}：{file.lines} 行"
        for file in files
        if file.lines > MAX_FILE and file.path not in LONG_FILES
    ]


def find_long_functions(files: list[File]) -> list[str]:
    """Find functions with too many lines."""
    return [
        f"{file.path} 的 {name}：{lines} 行"
        for file in files
        for name, lines in file.functions
        if lines > MAX_FUNCTION and name not in LONG_FUNCTIONS
    ]


def find_deferred(files: list[File]) -> list[str]:
    """Find imports inside functions that are neither a door nor an optional library."""
    return [
        f"{file.path}:{line} 在 {function} 里导入 {module}"
        for file in files
        for line, function, module in sorted(_deferred(file) - _allowed(file))
    ]


def _deferred(file: File) -> set[tuple[int, str, str]]:
    """Return (line, function, first name of the module) of the imports inside functions."""
    return {(each.line, each.function, each.module) for each in file.imports if each.function}


def _allowed(file: File) -> set[tuple[int, str, str]]:
    names = DOORS.get(file.path, set()) | OPTIONAL
    return {each for each in _deferred(file) if any(f"{each[2]}.".startswith(f"{name}.") for name in names)}


RULES = {
    "向上或横向的引用": find_upward,
    "循环引用": find_circles,
    f"超过 {MAX_FILE} 行的文件": find_long_files,
    f"超过 {MAX_FUNCTION} 行的函数": find_long_functions,
    "函数里的导入": find_deferred,
}


def draw(files: list[File]) -> str:
    """Return the house as a Mermaid graph: a box a floor, an arrow from each room to those that it imports.

    An arrow that another way through the rooms implies is left out.
    """
    modules = {file.module: file for file in files}
    uses: dict[str, set[str]] = {file.room: set() for file in files if floor_of(file.room) is not None}
    for file in files:
        for target, _ in imported_files(file, modules):
            if file.room in uses and target.room != file.room:
                uses[file.room].add(target.room)
    lines = ["graph TD"]
    for number in range(len(FLOORS) - 1, -1, -1):
        rooms = [room for room in FLOORS[number] if room in uses]
        lines += [f"    subgraph floor{number}[ ]", *(f"        {room}" for room in rooms), "    end"]
    for room, targets in uses.items():
        implied = {further for target in targets for further in _reach(target, uses)}
        lines += [f"    {room} --> {target}" for target in sorted(targets - implied)]
    return "\n".join(lines)


def _reach(room: str, uses: dict[str, set[str]]) -> set[str]:
    """Return the rooms that one imports, directly or not."""
    found: set[str] = set()
    waiting = list(uses[room])
    while waiting:
        next_room = waiting.pop()
        if next_room not in found:
            found.add(next_room)
            waiting += uses[next_room]
    return found


_TOTALS: tuple[Any, ...] = (sum, sum, max, max, sum)


def figures(files: list[File]) -> str:
    """Return a table of the rooms: files, lines, the longest file and function."""
    rows: list[list[Any]] = []
    for room in [*(room for floor in FLOORS for room in floor), *OUTSIDE]:
        own = [file for file in files if file.room == room]
        if own:
            functions = [lines for file in own for _, lines in file.functions]
            deferred = sum(len({line for line, *_ in _deferred(file)}) for file in own)
            lengths = [file.lines for file in own]
            rows.append([room, len(own), sum(lengths), max(lengths), max(functions, default=0), deferred])
    columns = list(zip(*(row[1:] for row in rows if row[0] not in OUTSIDE), strict=True))
    totals = [how(column) for how, column in zip(_TOTALS, columns, strict=True)]
    rows.append(["房屋合计", *totals])
    headings = ["房间", "文件", "行", "最长文件", "最长函数", "函数里的导入"]
    return format_table(headings, rows)


def main() -> int:
    """Print figures and broken rules, or the picture."""
    parser = ChineseArgumentParser(
        prog="python -m tools.architecture",
        description="从导入语句看项目的结构：楼层、循环、过长的文件和函数。",
    )
    parser.add_argument("--picture", action="store_true", help="输出 docs/architecture.md 里的图（Mermaid）")
    options = parser.parse_args()
    files = read_files()
    if options.picture:
        print(draw(files))
        return 0
    print(figures(files))
    broken = 0
    for title, rule in RULES.items():
        found = rule(files)
        broken += len(found)
        print(f"\n{title}：{len(found) or '没有'}", *(f"\n  {line}" for line in found), sep="")
    doors = {f"{file.path} → {module.split('.')[0]}" for file in files for *_, module in _allowed(file)}
    print("\n允许的函数内导入（命令的门、可选的库）：", *sorted(doors), sep="\n  ")
    return 1 if broken else 0


if __name__ == "__main__":
    run_main(main)
