"""Tables to training lines: columns by name, several rows a sentence, encodings, Excel and its template."""

from __future__ import annotations

import codecs
import datetime
import json
from pathlib import Path

import openpyxl
import pytest

from data_handle.convert import main
from data_handle.converters.cell_formats import as_shown
from task.triplets import Triplet
from tests.data_handle.converting import DIRECTED, FILM, PLAYED, RAIN, Runner, as_json, untyped
from utils.common_utils import UserError

TYPED = (
    "sentence,subject,predicate,object,subject_type,object_type\n"
    f"{FILM},雾港来信,导演,沈知远,影视作品,人物\n"
    f"{FILM},雾港来信,主演,顾小满,影视作品,人物\n"
    f"{RAIN},,,,,\n"
)
EXPECTED = {FILM: [DIRECTED, PLAYED], RAIN: []}


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize(
    "header",
    [
        "sentence,subject,predicate,object,subject_type,object_type",
        "句子,主语,关系,宾语,主语类型,宾语类型",
        "Text,Head,Relation,Tail,head type,tail type",
    ],
)
def test_columns_by_their_names(runner: Runner, delimiter: str, header: str) -> None:
    content = "\n".join([header, *TYPED.split("\n")[1:]]).replace(",", delimiter)
    converted = runner(content)
    assert converted.sentences == EXPECTED
    assert "读入 3 行，采用 3 行，没有采用 0 行" in converted.talk


@pytest.mark.parametrize(
    ("encode", "name"),
    [
        (lambda text: text.encode(), "UTF-8"),
        (lambda text: codecs.BOM_UTF8 + text.encode(), "UTF-8"),
        (lambda text: text.replace("\n", "\r\n").encode(), "UTF-8"),
        (lambda text: text.replace("\n", "\r").encode(), "UTF-8"),
        (lambda text: text.encode("gbk"), "GBK"),
        (lambda text: text.encode("utf-16"), "UTF-16"),
        (lambda text: text.encode("utf-16-be"), "UTF-16"),
        (lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"), "UTF-16"),
    ],
)
def test_encodings(runner: Runner, encode, name: str) -> None:
    converted = runner(encode(TYPED))
    assert converted.sentences == EXPECTED
    assert f"认作 {name}，逗号分隔的表格" in converted.talk


def test_stray_bytes_cost_their_own_line_only(runner: Runner) -> None:
    converted = runner(TYPED.encode() + "坏行,主,谓,宾,甲,乙\n".encode("gbk"))
    assert converted.sentences == EXPECTED
    assert "句子里有读不出的字节" in converted.talk


def test_stray_bytes_in_gbk(runner: Runner) -> None:
    converted = runner(TYPED.encode("gbk") + b"\xff\xfe\x80,a,b,c,d,e\n")
    assert converted.sentences == EXPECTED and "认作 GBK" in converted.talk
    assert "没有采用 1 行" in converted.talk


def test_columns_named_by_the_user(runner: Runner) -> None:
    rows = f"1,雾港来信,{FILM},导演,沈知远\n2,雾港来信,{FILM},主演,顾小满\n"
    expected = {FILM: untyped(DIRECTED, PLAYED)}
    assert runner(rows, "--columns", "-,主语,句子,关系,宾语").sentences == expected
    assert runner(
        "id,s1,评论,方面,观点\n" + rows, "--columns", "句子=评论,主语=s1,关系=方面,宾语=观点"
    ).sentences == (expected)
    header = "编号,subject,text,predicate,object\n"
    assert runner(header + rows, "--columns", "-,主语,句子,关系,宾语").sentences == expected
    with pytest.raises(UserError, match="没有 --columns 所说的列：句子=别的"):
        runner(TYPED, "--columns", "句子=别的,主语=subject,关系=predicate,宾语=object")


def test_table_without_known_columns_says_what_is_needed(runner: Runner) -> None:
    with pytest.raises(UserError, match=r"首行是“编号,甲,乙”.*--columns"):
        runner("编号,甲,乙\n1,2,3\n")


def test_empty_sentence_cells_and_incomplete_rows(runner: Runner) -> None:
    content = (
        "句子,主语,关系,宾语\n"
        f"{FILM},雾港来信,导演,沈知远\n"
        ",雾港来信,主演,顾小满\n"
        f"{RAIN},河水,涨了,\n"
        "第三句,甲,,乙\n"
        "第三句,三,次序,句\n"
    )
    converted = runner(content)
    assert converted.sentences == {
        FILM: untyped(DIRECTED, PLAYED),
        "第三句": untyped(DIRECTED._replace(subject="三", predicate="次序", object="句")),
    }
    assert "没有填宾语：1 处" in converted.talk and "labels.dat:4" in converted.talk
    assert "没有填关系：1 处" in converted.talk
    assert "读入 5 行，采用 3 行，没有采用 2 行" in converted.talk


def test_quotes_by_the_rules_and_against_them(runner: Runner) -> None:
    content = (
        "句子,主语,关系,宾语\n"
        '"他说""好"", 转身\n走了",他,说,好\n'
        '"雾港"是沈知远的城,雾港,属于,沈知远\n'
        '沈知远写了"雾港,雾港,作者,沈知远\n'
    )
    sentences = runner(content).sentences
    assert list(sentences) == ['他说"好", 转身\n走了', '"雾港"是沈知远的城', '沈知远写了"雾港']


def test_types_by_predicate(runner: Runner) -> None:
    types = runner.write("types.csv", "关系,主语类型,宾语类型\n导演,影视作品,人物\n".encode("gbk"))
    content = f"句子,主语,关系,宾语\n{FILM},雾港来信,导演,沈知远\n{FILM},雾港来信,主演,顾小满\n"
    converted = runner(content, "--types", str(types))
    assert converted.sentences == {FILM: [DIRECTED, *untyped(PLAYED)]}
    assert "以“实体”代替（主演 1）" in converted.talk
    schema = {"predicate": "导演", "subject_type": "影视作品", "object_type": {"@value": "人物"}}
    sheet = workbook(
        runner.folder / "types.xlsx", {"表": [["关系", "主语类型", "宾语类型"], ["导演", "影视作品", "人物"]]}
    )
    for table in (runner.write("schema.json", json.dumps(schema)), sheet):
        assert runner(content, "--types", str(table)).sentences == converted.sentences
    with pytest.raises(UserError, match="应当是 CSV"):
        runner(content, "--types", str(runner.write("other.json", "{}")))
    bad = runner.write("bad.csv", "a,b\n1,2\n")
    with pytest.raises(UserError, match="首行应当有三列"):
        runner(content, "--types", str(bad))


def test_deepke_offsets_choose_the_place(runner: Runner) -> None:
    text = "雾港在雾港路上。"
    content = f"sentence,relation,head,head_offset,tail,tail_offset\n{text},位于,雾港,0,雾港,3\n"
    assert runner(content).lines[0]["spans"] == [{"object_span": [3, 5], "subject_span": [0, 2]}]


def workbook(path: Path, sheets: dict[str, list[list[object]]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_workbook(runner: Runner) -> None:
    text = "雾港大桥2019年通车，全长3公里。"
    rows = [
        ["标注结果"],
        [],
        ["句子", "主语", "关系", "宾语"],
        [text, "雾港大桥", "通车时间", "2019年"],
        [None, "雾港大桥", "长度", 3.0],
        ["截至2020-05-01已开通。", "已开通", "截至", datetime.datetime(2020, 5, 1)],
        [RAIN, None, None, None],
    ]
    types = [["关系", "主语类型", "宾语类型"], ["通车时间", "桥梁", "时间"]]
    path = workbook(runner.folder / "labels.data", {"统计": [["无关"]], "表一": rows, "关系": types})
    converted = runner.convert(path)
    assert [(t.object, t.object_type) for t in converted.sentences[text]] == [
        ("2019年", "时间"),
        ("3", "实体"),
    ]
    assert [t.object for t in converted.sentences["截至2020-05-01已开通。"]] == ["2020-05-01"]
    assert converted.sentences[RAIN] == []
    assert "认作 Excel 表格（.xlsx），工作表「表一」" in converted.talk
    wrong = workbook(runner.folder / "wrong.xlsx", {"表一": [["甲", "乙"]]})
    with pytest.raises(UserError, match="没有一张工作表有 句子、主语、关系、宾语 这几列（工作表：表一）"):
        runner.convert(wrong)
    broken = runner.write("broken.xlsx", path.read_bytes()[:2000] + b"xl/workbook")
    with pytest.raises(UserError, match=r"不是完好的 \.xlsx"):
        runner.convert(broken)


def test_merged_cells_have_the_value_of_the_first(runner: Runner) -> None:
    rows = [
        ["我的标注", None, None, None],
        ["句子", "主语", "关系", "宾语"],
        [FILM, "雾港来信", "导演", "沈知远"],
        [None, None, "主演", "顾小满"],
        [None, None, None, None],
        [RAIN, None, None, None],
    ]
    path = workbook(runner.folder / "a.xlsx", {"表": rows, "别的": [["随便", "写写"]]})
    book = openpyxl.load_workbook(path)
    for area in ("A1:D1", "A3:A4", "B3:B4"):
        book["表"].merge_cells(area)
    book.save(path)
    converted = runner.convert(path)
    assert converted.sentences == {FILM: untyped(DIRECTED, PLAYED), RAIN: []}
    assert "不看的工作表：别的；读入 3 行，采用 3 行，没有采用 0 行" in converted.talk


@pytest.mark.parametrize(
    ("value", "code", "text"),
    [
        (datetime.datetime(1990, 5, 1), 'yyyy"年"m"月"d"日";@', "1990年5月1日"),
        (datetime.date(1990, 5, 1), "[$-804]yyyy/mm/dd", "1990/05/01"),
        (datetime.datetime(2021, 3, 4, 9, 5), "yyyy-m-d h:mm", "2021-3-4 9:05"),
        (datetime.time(14, 30), "上午/下午h:mm", "下午2:30"),
        (datetime.date(1990, 5, 1), "mmm-yy", "1990-05-01"),
        (datetime.date(1990, 5, 1), "General", "1990-05-01"),
        (2001, "General", "2001"),
        (1.8, "0.00", "1.80"),
        (0.125, "0.0%", "12.5%"),
        (1234567, "#,##0_ ", "1,234,567"),
        (300, '0"人"', "300人"),
        (12.5, "¥#,##0.##", "¥12.5"),
        (7, "000", "007"),
        (-5, "0_);[Red]\\(0\\)", "-5"),
        (True, "General", "TRUE"),
    ],
)
def test_numbers_and_dates_as_their_cells_show_them(value: object, code: str, text: str) -> None:
    assert as_shown(value, code) == text


@pytest.mark.parametrize(
    "header",
    [
        "原句,头实体,关系名称,尾实体",
        "句子（必填）,主语（必填）,关系*,宾语：",
        "sentence,e1,rel,e2",
        "text,source,relation,target",
        "起点类型,sentence,Relation Type,object,subject,source",
    ],
)
def test_names_of_columns(runner: Runner, header: str) -> None:
    cells = {"sentence": FILM, "object": "沈知远", "subject": "雾港来信", "Relation Type": "导演"}
    row = [cells.get(name, "x") for name in header.split(",")]
    row = row if "起点类型" in header else [FILM, "雾港来信", "导演", "沈知远"]
    assert runner(f"{header}\n{','.join(row)}\n").sentences == {FILM: untyped(DIRECTED)}


@pytest.mark.parametrize(
    "cell",
    [
        as_json(DIRECTED, PLAYED),
        "[('雾港来信', '导演', '沈知远'), ('雾港来信', '主演', '顾小满')]",
        "(雾港来信,导演,沈知远)；(雾港来信,主演,顾小满)",
        "雾港来信|导演|沈知远\n雾港来信|主演|顾小满",
    ],
)
def test_column_of_whole_triplets(runner: Runner, cell: str) -> None:
    quoted = cell.replace('"', '""')
    rows = f'编号,text,triplets\n1,坏的,甲乙丙\n2,{RAIN},[]\n3,{RAIN}。,\n4,{FILM},"{quoted}"\n'
    converted = runner(rows)
    found = {text: [t[0] for t in triplets] for text, triplets in converted.sentences.items()}
    assert found == {FILM: ["导演", "主演"], RAIN: [], f"{RAIN}。": []}
    assert "答案不是三元组" in converted.talk and "labels.dat:2：甲乙丙" in converted.talk


def test_placeholders_of_a_row_without_triplets(runner: Runner) -> None:
    content = f"句子,主语,关系,宾语\n{FILM},雾港来信,导演,沈知远\n{RAIN},nan,NaN,nan\n甲有无名指,无,无,\n"
    assert runner(content).sentences == {FILM: untyped(DIRECTED), RAIN: [], "甲有无名指": []}


def test_apostrophes_that_keep_values_from_being_formulas(runner: Runner) -> None:
    converted = runner("句子,主语,关系,宾语\n'=SUM是+号,'=SUM,是,'+号\n")
    assert converted.sentences == {"=SUM是+号": [Triplet("是", "实体", "实体", "+号", "=SUM")]}


def test_table_in_markdown(runner: Runner) -> None:
    content = f"| 句子 | 主语 | 关系 | 宾语 |\n|---|:---|---|---|\n| {FILM} | 雾港来信 | 导演 | 沈知远 |\n"
    converted = runner(content)
    assert converted.sentences == {FILM: untyped(DIRECTED)} and "没有采用 0 行" in converted.talk


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("句子,主语,关系", "还缺少：宾语。"),
        ("句子=评论,主题=产品,关系=方面,宾语=观点", "还缺少：主语；不认得的名称：主题。"),
        ("句子=评论,主语=品,关系=方面,宾语=观点", "首行里没有：品；首行是“评论,产品,方面,观点”"),
    ],
)
def test_what_is_wrong_with_the_columns_is_said(runner: Runner, columns: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        runner(f"评论,产品,方面,观点\n{FILM},雾港来信,导演,沈知远\n", "--columns", columns)


def test_exports_without_relations_are_named(runner: Runner) -> None:
    with pytest.raises(UserError, match="这是 Label Studio 的 CSV 导出，它不含关系"):
        runner('annotation_id,annotator,id,label,text\n1,1,1,"[{""start"":1}]",雾港\n')
    with pytest.raises(UserError, match="CoNLL、BIO"):
        runner("雾 B-地点\n港 I-地点\n在 O\n\n哪 O\n")


def test_missing_row_in_workbook_is_named_by_sheet_and_row(runner: Runner) -> None:
    rows = [
        ["句子", "主语", "关系", "宾语"],
        [FILM, "雾港来信", "导演", "沈知远"],
        [FILM, "不在", "导演", "沈知远"],
    ]
    converted = runner.convert(workbook(runner.folder / "a.xlsx", {"表": rows}))
    assert "a.xlsx「表」第 3 行：“不在”不在“" in converted.talk
    assert "读入 2 行，采用 1 行，没有采用 1 行" in converted.talk


def test_template_converts_as_it_is(runner: Runner) -> None:
    path = runner.folder / "labels.xlsx"
    assert main(["--template", str(path)]) == 0
    dev = runner.folder / "dev.jsonl"
    converted = runner.convert(path, "--dev", dev, "--dev_ratio", "0.3")
    assert "没有采用 0 行" in converted.talk and "实体" not in converted.talk
    assert dev.read_text("utf-8").count("\n") >= 2
    validations = openpyxl.load_workbook(path)["标注"].data_validations.dataValidation
    lists = {str(each.sqref): each.formula1 for each in validations}
    assert lists["C2:C5000"] == "'关系'!$A$2:$A$200" and len(lists) == 3
    with pytest.raises(UserError, match="已经存在，要覆盖请加 --overwrite"):
        main(["--template", str(path)])
    with pytest.raises(UserError, match=r"应当以 \.xlsx 结尾"):
        main(["--template", str(runner.folder / "labels.csv")])
    with pytest.raises(UserError, match="不能同时转换"):
        main(["--template", str(path), "x.csv"])


def test_without_openpyxl_one_line_says_how(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(runner.folder / "a.xlsx", {"表": [["句子", "主语", "关系", "宾语"]]})
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-data\.txt"):
        runner.convert(path)
