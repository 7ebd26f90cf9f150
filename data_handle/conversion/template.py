"""The table to start from: an Excel file with examples, and lists of relations and types to choose from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_handle.converters.workbook import import_openpyxl
from utils.common_utils import UserError
from utils.directories import temporary_beside

_HEADER = ("句子", "主语", "关系", "宾语", "主语类型", "宾语类型")
_WIDTHS = (60, 18, 12, 18, 12, 12)
_FILM, _BOOK = ("影视作品", "人物"), ("图书作品", "人物")
_EXAMPLES = (
    ("《雾港来信》是沈知远执导的电影，由顾小满、罗一舟主演。", "雾港来信", "导演", "沈知远", *_FILM),
    ("", "雾港来信", "主演", "顾小满", *_FILM),
    ("", "雾港来信", "主演", "罗一舟", *_FILM),
    ("电影《晚潮》由许其琛导演，顾小满担任主演。", "晚潮", "导演", "许其琛", *_FILM),
    ("", "晚潮", "主演", "顾小满", *_FILM),
    ("青禾科技由林望舒创办，总部设在苏州。", "青禾科技", "创始人", "林望舒", "", ""),
    ("", "青禾科技", "总部地点", "苏州", "", ""),
    ("海纳物流的创始人是方砚，公司总部位于宁波。", "海纳物流", "创始人", "方砚", "", ""),
    ("", "海纳物流", "总部地点", "宁波", "", ""),
    ("长篇小说《北岸》的作者是温砚，春潮出版社出版。", "北岸", "作者", "温砚", *_BOOK),
    ("", "北岸", "出版社", "春潮出版社", "图书作品", "出版社"),
    ("散文集《檐下》，陆青著，远山出版社出版。", "檐下", "作者", "陆青", *_BOOK),
    ("", "檐下", "出版社", "远山出版社", "图书作品", "出版社"),
    ("今天下午办公室停电，大家提前回家了。", "", "", "", "", ""),
    ("这条路修了三年，雨天还是难走。", "", "", "", "", ""),
)
_RELATIONS = (
    ("导演", "影视作品", "人物"),
    ("主演", "影视作品", "人物"),
    ("作者", "图书作品", "人物"),
    ("出版社", "图书作品", "出版社"),
    ("创始人", "企业", "人物"),
    ("总部地点", "企业", "地点"),
)
_TYPES = ("人物", "影视作品", "图书作品", "出版社", "企业", "地点", "实体")
_NOTES = (
    "一行写一个三元组。一个句子有几个三元组，就写几行，下面几行的“句子”可以空着。",
    "主语和宾语照抄句子里的字，不带书名号和引号。",
    "句子里没有要抽取的内容，只写句子，其余空着：模型由此学会“没有”。",
    "“关系”从下拉列表里选；列表在“关系”表里，可以增删。类型空着，就用“关系”表里的。",
    "填好后运行：python -m data_handle.convert labels.xlsx -o train.jsonl --dev dev.jsonl",
)
_ROWS = 5000  # that have drop-down lists


def write_template(path: Path, overwrite: bool) -> None:
    """Write the table.

    Args:
        path: where to; its name has to end in .xlsx, or Excel won't open it.
        overwrite: replace an existing file.

    Raises:
        UserError: openpyxl is missing, or the file can't be written.
    """
    if path.suffix.lower() != ".xlsx":
        raise UserError(f"标注表的文件名应当以 .xlsx 结尾，现在是 {path}。")
    if path.exists() and not overwrite:
        raise UserError(f"输出文件 {path} 已经存在，要覆盖请加 --overwrite。")
    openpyxl = import_openpyxl()
    book = openpyxl.Workbook()
    labels = book.active
    labels.title = "标注"
    _fill(labels, [_HEADER, *_EXAMPLES], _WIDTHS)
    _fill(book.create_sheet("关系"), [("关系", "主语类型", "宾语类型"), *_RELATIONS], (16, 16, 16))
    _fill(book.create_sheet("类型"), [("类型",), *((name,) for name in _TYPES)], (16,))
    _fill(book.create_sheet("说明"), [(note,) for note in _NOTES], (100,))
    _add_list(labels, "C", "'关系'!$A$2:$A$200", "请从列表里选关系；要加新的，先写进“关系”表。")
    _add_list(labels, "E", "'类型'!$A$2:$A$200", "请从列表里选类型；要加新的，先写进“类型”表。")
    _add_list(labels, "F", "'类型'!$A$2:$A$200", "请从列表里选类型；要加新的，先写进“类型”表。")
    unfinished: Path | None = None
    try:
        unfinished = temporary_beside(path)
        book.save(unfinished)
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"写不了 {path}（{error.strerror}）：请检查目录、权限和剩余空间。") from error
    finally:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)


def _fill(sheet: Any, rows: list[tuple[str, ...]], widths: tuple[int, ...]) -> None:
    styles = import_openpyxl().styles
    for row in rows:
        sheet.append(row)
    for column, width in zip("ABCDEF", widths, strict=False):
        sheet.column_dimensions[column].width = width
    for row in sheet.iter_rows():
        for cell in row:
            cell.alignment = styles.Alignment(wrap_text=True, vertical="top")
            cell.number_format = "@"  # text: 2019 stays what was typed
    if len(rows) > 1 and sheet.title != "说明":
        sheet.freeze_panes = "A2"
        for cell in sheet[1]:
            cell.font = styles.Font(bold=True)


def _add_list(sheet: Any, column: str, source: str, message: str) -> None:
    """Give a column a list to choose from; other entries are asked about, not forbidden."""
    validation = import_openpyxl().worksheet.datavalidation.DataValidation(
        type="list", formula1=source, allow_blank=True
    )
    validation.errorStyle = "warning"
    validation.error = message
    validation.showErrorMessage = True
    sheet.add_data_validation(validation)
    validation.add(f"{column}2:{column}{_ROWS}")
