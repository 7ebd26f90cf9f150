"""Label files that are traps: bombs in workbooks, folders with pipes, sizes that no file has."""

from __future__ import annotations

import io
import os
import random
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import openpyxl
import pytest

from data_handle.convert import main
from data_handle.converters import workbook, workbook_parts
from data_handle.converters.workbook import read_sheets
from tests.data_handle.converting import Runner
from utils import jsonl
from utils.common_utils import UserError

SHEET = "xl/worksheets/sheet1.xml"
STRINGS = "xl/sharedStrings.xml"
HEAD = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
TAIL = b"</sheetData></worksheet>"
TITLES = ("句子", "主语", "关系", "宾语")
ROW = ("《长河》由张三执导。", "长河", "导演", "张三")
Change = Callable[[str, bytes], bytes | None]


def make_book(
    path: Path, change: Change = lambda name, part: part, more: Iterable[tuple[str, bytes, int]] = ()
) -> Path:
    """Write a workbook, each part changed, or left out; then parts that repeat some bytes so often."""
    book, good = openpyxl.Workbook(), io.BytesIO()
    for row in (TITLES, ROW):
        book.active.append(row)
    book.save(good)
    with (
        zipfile.ZipFile(good) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z,
    ):
        for name in source.namelist():
            if (part := change(name, source.read(name))) is not None:
                z.writestr(name, part)
        for name, unit, count in more:
            with z.open(name, "w", force_zip64=True) as file:
                for _ in range(count // 1000):
                    file.write(unit * 1000)
    return path


def with_sheet(rows: bytes) -> Change:
    return lambda name, part: HEAD + rows + TAIL if name == SHEET else part


def without(*names: str) -> Change:
    return lambda name, part: None if name in names else part


def test_the_book_as_it_is(tmp_path: Path) -> None:
    assert read_sheets(make_book(tmp_path / "a.xlsx")) == [("Sheet", [(1, list(TITLES)), (2, list(ROW))])]


@pytest.mark.parametrize("name", [SHEET, STRINGS, "xl/styles.xml", "xl/workbook.xml", "docProps/core.xml"])
def test_a_part_that_unpacks_to_much_more(tmp_path: Path, name: str) -> None:
    path = make_book(tmp_path / "a.xlsx", without(name), [(name, b" " * 1000, 140_000)])
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="解压之后超过 128 MB"):
        read_sheets(path)


@pytest.mark.parametrize(
    ("name", "unit"),
    [(SHEET, b"<row/>"), (SHEET, b'<c t="str"><v>x</v></c>')],
)
def test_millions_of_elements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, unit: bytes
) -> None:
    monkeypatch.setattr(workbook_parts, "MAX_ELEMENTS", 20_000)
    path = make_book(
        tmp_path / "a.xlsx", lambda each, part: b"<a>" + unit * 30_000 + b"</a>" if each == name else part
    )
    with pytest.raises(UserError, match="太多，请分成几个文件"):
        read_sheets(path)


def test_styles_by_the_hundred_thousand(tmp_path: Path) -> None:
    path = make_book(
        tmp_path / "a.xlsx",
        lambda name, part: (
            part.replace(b"<cellXfs", b"<xf/>" * 210_000 + b"<cellXfs") if "styles" in name else part
        ),
    )
    with pytest.raises(UserError, match="太多"):
        read_sheets(path)


@pytest.mark.parametrize(
    "rows",
    [
        b'<row r="1000000000"><c t="str"><v>x</v></c></row>',
        b"".join(b'<row r="%d"><c r="XFD%d" t="str"><v>x</v></c></row>' % (n, n) for n in range(1, 1300)),
    ],
    ids=["a row far below", "columns far to the right"],
)
def test_room_that_nobody_filled(tmp_path: Path, rows: bytes) -> None:
    with pytest.raises(UserError, match="行或列太多"):
        read_sheets(make_book(tmp_path / "a.xlsx", with_sheet(rows)))


def test_dimensions_that_are_not_so(tmp_path: Path) -> None:
    def lie(name: str, part: bytes) -> bytes:
        return re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1:XFD1048576"', part)

    (sheet,) = read_sheets(make_book(tmp_path / "a.xlsx", lie))
    assert sheet[1] == [(1, list(TITLES)), (2, list(ROW))]


ENTITIES = b'<!DOCTYPE x [<!ENTITY a "ha">%s]>' % b"".join(
    b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10 if n else b"&a;" * 10) for n in range(10)
)


@pytest.mark.parametrize(
    "doctype",
    [
        ENTITIES,
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        b'<!DOCTYPE x SYSTEM "http://127.0.0.1:9/">',
    ],
)
@pytest.mark.parametrize("name", [SHEET, "xl/workbook.xml", "[Content_Types].xml"])
def test_entities(tmp_path: Path, name: str, doctype: bytes) -> None:
    def put(each: str, part: bytes) -> bytes:
        return doctype + re.sub(rb"^<\?xml[^>]*\?>", b"", part) if each == name else part

    with pytest.raises(UserError, match="DOCTYPE"):
        read_sheets(make_book(tmp_path / "a.xlsx", put))


def test_what_other_programs_put_in_is_left_out(tmp_path: Path) -> None:
    extras = [
        (name, b"<a>", 1000)
        for name in ("xl/externalLinks/externalLink1.xml", "xl/pivotCache/p.xml", "customXml/item1.xml")
    ]
    assert len(read_sheets(make_book(tmp_path / "a.xlsx", more=extras))[0][1]) == 2


def damage(name: str, part: bytes, rng: random.Random) -> bytes | None:
    changes: list[Callable[[bytes], bytes | None]] = [
        lambda part: part[: rng.randrange(len(part) + 1)],
        lambda part: b"",
        lambda part: None,
        lambda part: b"<a/>",
        lambda part: re.sub(rb'"-?\d+"', rng.choice([b'"99999999999"', b'"-1"', b'"x"', b'""']), part),
        lambda part: re.sub(rb' [\w:]+="[^"]*"', lambda match: rng.choice([match[0], b""]), part),
        lambda part: re.sub(rb"<v>[^<]*</v>", b"<v>%s</v>" % rng.choice([b"1e999", b"9" * 5000]), part),
        lambda part: re.sub(rb' t="\w+"', b' t="%s"' % rng.choice([b"s", b"d", b"e", b"zz"]), part),
        lambda part: re.sub(rb' t="\w+"', b' s="9999"', part),
        lambda part: re.sub(rb' r="\w+"', b' r="%s"' % rng.choice([b"ZZZZZZ1", b"-5", b"1A", b""]), part),
        lambda part: bytes(rng.choice([byte, 255]) if not rng.randrange(50) else byte for byte in part),
    ]  # fmt: skip
    return rng.choice(changes)(part) if part else part


def test_damaged_workbooks_are_read_or_refused(tmp_path: Path) -> None:
    for seed in range(150):
        rng = random.Random(seed)
        wanted = rng.choice(
            [SHEET, SHEET, "xl/workbook.xml", "xl/styles.xml", "[Content_Types].xml", "xl/_rels", ""]
        )
        path = make_book(
            tmp_path / "a.xlsx",
            lambda name, part, rng=rng, wanted=wanted: damage(name, part, rng) if wanted in name else part,
        )
        if seed % 3 == 0:  # the zip itself
            content = bytearray(path.read_bytes())
            for _ in range(3):
                content[rng.randrange(len(content))] = rng.randrange(256)
            path.write_bytes(content)
        try:
            read_sheets(path)
        except UserError as error:
            text = str(error)
            if len(text) > 500 or "不是完好的 .xlsx 文件" not in text:
                pytest.fail(text)


def test_dates_that_no_calendar_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in ("1e308", "-1e15", "99999999999", "nan"):

        def put(name: str, part: bytes, number: str = number) -> bytes:
            if name == "xl/styles.xml":
                part = part.replace(b'numFmtId="0"', b'numFmtId="14"')
            return re.sub(
                rb'<c r="A2"[^>]*>.*?</c>', b'<c r="A2" s="0"><v>%s</v></c>' % number.encode(), part
            )

        try:
            read_sheets(make_book(tmp_path / "a.xlsx", put))
        except UserError as error:
            if "不是完好的" not in str(error):
                pytest.fail(str(error))


@pytest.mark.parametrize("suffix", ["csv", "json", "xlsx", "ann"])
def test_sizes_that_no_label_file_has(runner: Runner, suffix: str) -> None:
    path = runner.folder / f"a.{suffix}"
    with path.open("wb") as file:
        file.truncate(60 * 2**30)
    with pytest.raises(UserError, match="超过了 256 MB"):
        runner.convert(path)


def test_a_folder_with_pipes_and_devices(runner: Runner) -> None:
    folder = runner.folder / "brat"
    folder.mkdir()
    (folder / "a.txt").write_text("甲乙")
    os.mkfifo(folder / "a.ann")
    with pytest.raises(UserError, match="不是普通文件"):
        runner.convert(folder)
    (folder / "a.ann").unlink()
    (folder / "a.ann").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="不是普通文件"):
        runner.convert(folder)


def test_the_output_is_no_file_of_an_input_folder(runner: Runner) -> None:
    folder = runner.folder / "brat"
    folder.mkdir()
    (folder / "a.txt").write_text("甲乙", "utf-8")
    (folder / "a.ann").write_text("T1\tA 0 1\t甲\nT2\tA 1 2\t乙\nR1\t同 Arg1:T1 Arg2:T2\n", "utf-8")
    with pytest.raises(UserError, match="是输入的文件夹里的一个文件"):
        main([str(folder), "-o", str(folder / "a.txt"), "--overwrite"])
    assert (folder / "a.txt").read_text("utf-8") == "甲乙"


def test_offsets_that_are_no_numbers_of_a_text(runner: Runner) -> None:
    (runner.folder / "a.txt").write_text("甲乙\n丙丁\n", "utf-8")
    entities = [
        f"T1\tA {'9' * 5000} 9\t甲",
        f"T2\tA 0 {'9' * 5000}\t甲",
        "T3\tA 0 1 2\t甲",
        "T4\tA ٠ ١\t甲",
        "T5\tA 0 1\t甲",
    ]
    rows = [
        *entities,
        "T6\tA 1 2\t乙",
        "R1\t同 Arg1:T5 Arg2:T6",
        "R2\t同 Arg1:T1 Arg2:T6",
        "R3\t同 Arg1:T3 Arg2:T2",
    ]
    (runner.folder / "a.ann").write_text("\n".join(rows), "utf-8")
    converted = runner.convert(runner.folder / "a.ann")
    assert [len(found) for found in converted.sentences.values()] == [1, 0]


def test_a_large_folder_takes_time_by_its_size(runner: Runner) -> None:
    count = 20_000  # with each entity sought in all lines, this took minutes
    folder = runner.folder / "brat"
    folder.mkdir()
    (folder / "a.txt").write_text("甲乙\n" * count, "utf-8")
    (folder / "a.ann").write_text(
        "".join(f"T{n}\tA {3 * n} {3 * n + 1}\t甲\n" for n in range(count)), "utf-8"
    )
    with pytest.raises(UserError, match="都没有三元组"):
        runner.convert(folder)


def test_the_template_is_no_way_to_other_files(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "a.xlsx"
    victim.write_text("mine")
    link.symlink_to(victim)
    with pytest.raises(UserError, match="已经存在"):
        main(["--template", str(link)])
    main(["--template", str(link), "--overwrite"])
    assert victim.read_text() == "mine"
    assert workbook.read_sheets(link)


def test_more_lines_and_values_than_are_held(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="超过了 2,000,000 行"):
        runner(b"\n" * 2_100_000 + b"x")
    monkeypatch.setattr(jsonl, "MAX_OBJECTS", 1000)
    with pytest.raises(UserError, match="里面的值太多"):
        runner("[" + "{}," * 2000 + "{}]")
    with pytest.raises(UserError, match="里的值太多"):
        list(jsonl.iter_objects(runner.write("a.json", "[" + "{}," * 2000 + "{}]")))


LITERALS = [
    *("-" * 100_000 + "1", "(" * 100_000, "[" * 100_000, "1" + "+1" * 100_000, "'a'*10**9", "10**10**10"),
    *("__import__('os').abort()", "not " * 100_000 + "1", "lambda:" * 100_000 + "0", "'a\0'", "{[]: 1}"),
]


@pytest.mark.parametrize("line", ["[", "]", "[]", "[,", *LITERALS])
def test_lines_of_brackets_and_of_python(runner: Runner, line: str) -> None:
    with pytest.raises(UserError, match=r"认不出|内容有误|没有一个句子可用"):
        runner("[\n" + f"{line}\n" * 3)
