"""The documentation: short, whole in two languages, and right in its links, names, commands and defaults."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from glm_config import ProjectConfig
from tools import architecture

ROOT = Path(__file__).resolve().parent.parent
ENGLISH_DOCS = ROOT / "docs" / "en"
CHINESE = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if ENGLISH_DOCS not in page.parents),
]
BESIDE_THE_DATA = [ROOT / "data" / "README.md", ROOT / "models" / "chatglm-tiny" / "README.md"]
OTHERS_OPTIONS = (  # of other programs that pages name
    "multi_gpu num_processes num_machines config_file machine_rank main_process_ip nproc_per_node local_dir "
    "extra_index_url logdir require_hashes nnodes max_restarts rdzv_backend rdzv_id rdzv_endpoint no_python "
    "target gpus served_model_name structured_outputs_config model_path grammar_backend outfile outtype"
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def english_of(page: Path) -> Path:
    """Where the English mirror of a Chinese page stands."""
    if page.parent == ROOT:
        return ROOT / "README_EN.md"
    return ENGLISH_DOCS / page.relative_to(ROOT / "docs")


ENGLISH = [english_of(page) for page in CHINESE]
PAGES = [*CHINESE, *ENGLISH]


@functools.cache
def text_of(page: Path) -> str:
    return page.read_text("utf-8")


@functools.cache
def prose_of(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", text_of(page))


def levels(page: Path) -> list[str]:
    """The levels of a page's headings, in order."""
    return re.findall(r"^(#+) ", prose_of(page), re.MULTILINE)


def commands(page: Path) -> list[str]:
    """The commands of a page's shell blocks, without comments and layout."""
    blocks = [body for language, body in FENCE.findall(text_of(page)) if language == "bash"]
    lines = [re.sub(r"(^|\s)#.*", "", line) for body in blocks for line in body.splitlines()]
    return [" ".join(line.split()) for line in lines if line.strip()]


def anchors(page: Path) -> set[str]:
    """What links may name behind a `#`, as GitHub makes it of headings."""
    titles = re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- \ufe0f]", "", title.lower()).replace(" ", "-") for title in titles}


@functools.cache
def known_options() -> set[str]:
    """The options of all commands, without dashes: knobs, and what is declared in any source."""
    sources = [path for path in ROOT.rglob("*.py") if not {".venv", "tests"} & set(path.parts)]
    declared = {name for path in sources for name in re.findall(r'"--(\w[\w-]*)"', text_of(path))}
    return {name.replace("-", "_") for name in declared} | {
        *ProjectConfig().to_dict(),
        *OTHERS_OPTIONS.split(),
    }


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if link.startswith(("http://", "https://")):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def missing_names(page: Path) -> list[str]:
    """Modules, scripts, options, make targets, files and tests that a page names and that aren't there."""
    text = text_of(page)
    missing = []
    for module in re.findall(r"python -m ([a-z_]+(?:\.[a-z_0-9]+)*)", text):
        path = ROOT / module.replace(".", "/")
        ours = (ROOT / module.split(".")[0]).is_dir()
        if ours and not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()):
            missing.append(module)
    for script in re.findall(r"python ([a-z_]+\.py)", text):
        missing += [script] if not (ROOT / script).is_file() else []
    for target in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE):
        missing += [target] if not re.search(rf"^{target}:", text_of(ROOT / "Makefile"), re.MULTILINE) else []
    for file, test in re.findall(r"([\w/]+\.py)::(\w+)", text):
        path = ROOT / "tests" / file.removeprefix("tests/")
        if not path.is_file() or not re.search(rf"^def {test}\(", text_of(path), re.MULTILINE):
            missing.append(f"{file}::{test}")
    for file in re.findall(
        r"(?<![\w/.])((?:[a-z_]+/)+[\w-]+\.(?:py|md|jsonl|yaml))(?![\w/])", prose_of(page)
    ):
        places = (ROOT / file, ROOT / "tests" / file, page.parent / file)
        missing += [file] if not any(place.exists() for place in places) else []
    options = re.findall(r"(?<![\w-])--(\w[\w-]*)", text)
    missing += [f"--{name}" for name in options if name.replace("-", "_") not in known_options()]
    return missing


def test_the_readme_is_short() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 200


@pytest.mark.parametrize(
    ("pages", "longest"), [([*CHINESE, *BESIDE_THE_DATA], 400), (ENGLISH, 800)], ids=["chinese", "english"]
)
def test_lines_and_paragraphs_are_short(pages: list[Path], longest: int) -> None:
    for page in pages:
        assert [line for line in prose_of(page).splitlines() if len(line) > 300] == [], page
        paragraphs = re.split(r"\n\s*\n|\n(?=[-#|]|\d+\. )", prose_of(page))
        assert [paragraph for paragraph in paragraphs if len(paragraph) > longest] == [], page


def test_english_pages_have_the_same_sections_and_commands() -> None:
    for page in CHINESE:
        assert levels(english_of(page)) == levels(page), page
        assert commands(english_of(page)) == commands(page), page
    assert set(ENGLISH_DOCS.rglob("*.md")) == set(ENGLISH[1:])


def test_links_lead_somewhere() -> None:
    broken = {str(page): broken_links(page) for page in [*PAGES, *BESIDE_THE_DATA]}
    assert {page: links for page, links in broken.items() if links} == {}


def test_what_is_named_exists() -> None:
    missing = {str(page): missing_names(page) for page in [*PAGES, *BESIDE_THE_DATA]}
    assert {page: names for page, names in missing.items() if names} == {}


def test_what_the_checks_find(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A b\n[x](nothing.md) [y](#a-b) [z](#c)\n`make nothing` `python -m utils.nothing --no_such`\n"
        "`python nothing.py` `utils/nothing.py` `training/test_kills.py::test_nothing`\n"
        "```bash\nls  -l # all\n```\n",
        encoding="utf-8",
    )
    assert broken_links(page) == ["nothing.md", "#c"]
    assert set(missing_names(page)) == {
        "utils.nothing",
        "--no_such",
        "nothing.py",
        "nothing",
        "utils/nothing.py",
        "training/test_kills.py::test_nothing",
    }
    assert (levels(page), commands(page)) == (["#"], ["ls -l"])


@pytest.mark.parametrize("folder", [ROOT / "docs", ENGLISH_DOCS], ids=["chinese", "english"])
def test_every_knob_is_explained_with_its_default(folder: Path) -> None:
    def shown(value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, list):
            return " ".join(value)
        return "none" if value is None else str(value)

    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", text_of(folder / "configuration.md"), re.MULTILINE)
    assert dict(rows) == {name: shown(value) for name, value in ProjectConfig().to_dict().items()}


@pytest.mark.parametrize("folder", [ROOT / "docs", ENGLISH_DOCS], ids=["chinese", "english"])
def test_the_index_of_decisions_is_whole(folder: Path) -> None:
    listed = re.findall(r"\]\(([\w-]+\.md)\)", text_of(folder / "decisions" / "README.md"))
    pages = {page.name for page in (folder / "decisions").glob("*.md")}
    assert sorted(listed) == sorted(pages - {"README.md"})


@pytest.mark.parametrize("folder", [ROOT / "docs", ENGLISH_DOCS], ids=["chinese", "english"])
def test_the_picture_is_drawn_from_the_imports(folder: Path) -> None:
    blocks = FENCE.findall(text_of(folder / "architecture.md"))
    drawn = [body.strip() for language, body in blocks if language == "mermaid"]
    assert drawn == [architecture.draw(architecture.read_files()).strip()], (
        "python -m tools.architecture --picture"
    )
