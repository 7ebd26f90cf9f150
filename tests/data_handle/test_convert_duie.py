"""DuIE to training lines: by hand, through the command, and whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_handle.convert_duie import convert, main
from task.prompt import build_prompt
from task.triplets import Triplet, format_target
from utils.common_utils import UserError

ROOT = Path(__file__).parents[2]
PLAIN = {
    "text": "《娘家的故事第二部》是张玲执导的电视剧。",
    "spo_list": [
        {
            "predicate": "导演",
            "subject": "娘家的故事第二部",
            "subject_type": "影视作品",
            "object": {"@value": "张玲"},
            "object_type": {"@value": "人物"},
        }
    ],
}
RELEASE = {
    "text": "《流浪地球》2019年在中国上映。",
    "spo_list": [
        {
            "predicate": "上映时间",
            "subject": "流浪地球",
            "subject_type": "影视作品",
            "object": {"inArea": "中国", "@value": "2019年"},
            "object_type": {"inArea": "地点", "@value": "Date"},
        }
    ],
}
EMPTY = {"text": "今天天气很好。", "spo_list": []}
DIRECTED = Triplet("导演", "人物", "影视作品", "张玲", "娘家的故事第二部")
RELEASED = Triplet("上映时间", "Date", "影视作品", "2019年", "流浪地球")
RELEASED_IN = Triplet("上映时间_inArea", "地点", "影视作品", "中国", "流浪地球")


def write_duie(path: Path, *records: object) -> Path:
    path.write_text("".join(as_line(record) + "\n" for record in records), encoding="utf-8")
    return path


def as_line(record: object) -> str:
    """JSON as a file can hold it: a lone surrogate is escaped."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def read_lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def targets(path: Path) -> list[str]:
    return [line["target"] for line in read_lines(path)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_duie(tmp_path / "duie.json", PLAIN, RELEASE, EMPTY)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_handle.convert_duie", *map(str, arguments)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8"
    )


def test_command_writes_the_lines_of_the_readme(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "train.jsonl"
    with source.open("a", encoding="utf-8") as file:
        file.write("坏\n")

    finished = run(source, target)

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""
    assert f"{source}:4: 不是合法的 JSON" in finished.stderr
    assert "3 行，2 个三元组，其中 1 行没有三元组，跳过坏行 1 行，略去附加项 1 个。" in finished.stderr
    first = (
        '{"context": "Instruction: 你现在是一个很厉害的阅读理解器，严格按照人类指令进行回答。\\n'
        "Input: 帮我抽取出下面句子中的三元组信息，返回JSON：\\n\\n"
        '《娘家的故事第二部》是张玲执导的电视剧。\\nAnswer: ", '
        '"target": "```json\\n[{\\"predicate\\": \\"导演\\", \\"object_type\\": \\"人物\\", '
        '\\"subject_type\\": \\"影视作品\\", \\"object\\": \\"张玲\\", '
        '\\"subject\\": \\"娘家的故事第二部\\"}]\\n```"}'
    )
    assert target.read_text(encoding="utf-8").split("\n")[0] == first
    assert targets(target) == [format_target(t) for t in ([DIRECTED], [RELEASED], [])]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["duie.json", "train.jsonl"]


def test_command_options(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "train.jsonl"
    options = ["--instruction", "抽取：", "--predicates", "上映时间，票房", "--slots", "triplets"]
    assert main([str(source), str(target), *options, "--max-lines", "1", "--drop_empty"]) == 0
    assert read_lines(target) == [
        {"context": build_prompt(RELEASE["text"], "抽取："), "target": format_target([RELEASED, RELEASED_IN])}
    ]
    with pytest.raises(UserError, match="至少是 1"):
        main([str(source), str(tmp_path / "other"), "--max_lines", "0"])


def test_command_refuses_to_overwrite(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "train.jsonl"
    target.write_text("mine", encoding="utf-8")

    refused = run(source, target)
    assert refused.returncode == 2
    assert refused.stderr == f"错误：输出文件 {target} 已经存在，要覆盖请加 --force。\n"
    with pytest.raises(UserError, match="已经存在"):
        convert(source, target)
    assert target.read_text(encoding="utf-8") == "mine"

    assert main([str(source), str(target), "--force"]) == 0
    assert len(read_lines(target)) == 3
    with pytest.raises(UserError, match="同一个文件"):
        convert(source, source, force=True)
    assert len(read_lines(source)) == 3


def test_predicates_filter_leaves_empty_lists(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "train.jsonl"
    result = convert(source, target, predicates=["导演"])
    assert targets(target) == [format_target(t) for t in ([DIRECTED], [], [])]
    assert (result.lines, result.triplets, result.empty_lines, result.slots_left_out) == (3, 1, 2, 0)


def test_predicates_that_do_not_occur(source: Path, tmp_path: Path, capsys) -> None:
    target = tmp_path / "train.jsonl"
    with pytest.raises(UserError, match="没有这些关系：主寅、导寅，请检查 --predicates"):
        main([str(source), str(target), "--predicates", "导寅、主寅"])
    assert not target.exists()
    assert main([str(source), str(target), "--predicates", "导演、主寅"]) == 0
    assert "没有见到这些关系：主寅" in capsys.readouterr().err


def test_first_release_with_plain_strings_and_repeated_facts(tmp_path: Path) -> None:
    fact = {**PLAIN["spo_list"][0], "object": "张玲", "object_type": "人物"}
    source = write_duie(tmp_path / "duie.json", {"text": PLAIN["text"], "spo_list": [fact, fact]})
    convert(source, tmp_path / "train.jsonl")
    assert targets(tmp_path / "train.jsonl") == [format_target([DIRECTED])]


@pytest.mark.parametrize(
    ("slot", "types"),
    [("", {"@value": "人物", "inWork": "影视作品"}), ("某片", {"@value": "人物"}), ("某片", "人物")],
)
@pytest.mark.parametrize("keep_slots", [False, True])
def test_slot_without_value_or_type_costs_itself_only(
    tmp_path: Path, slot: str, types: object, keep_slots: bool
) -> None:
    record = changed(object={"@value": "张玲", "inWork": slot}, object_type=types)
    source = write_duie(tmp_path / "duie.json", record)
    result = convert(source, tmp_path / "train.jsonl", keep_slots=keep_slots)
    assert targets(tmp_path / "train.jsonl") == [format_target([DIRECTED])]
    assert (result.slots_left_out, result.bad_lines) == (1, [])


def changed(**fields: object) -> dict[str, object]:
    return {"text": "文", "spo_list": [{**PLAIN["spo_list"][0], **fields}]}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"spo_list": []}, "缺少字段 text"),
        ({"text": " ", "spo_list": []}, "字段 text 是空的"),
        ({"text": "文"}, "没有 spo_list 列表（测试集没有标注"),
        ({"text": "文", "spo_list": [1]}, "spo_list 里应当都是 JSON 对象"),
        (changed(predicate=None), "字段 predicate 应当是字符串，却是 null"),
        (changed(subject=""), "字段 subject 是空的"),
        (changed(subject_type=3), "字段 subject_type 应当是字符串，却是数字"),
        (changed(object={}), "字段 object 缺少 @value"),
        (changed(object={"@value": ["张玲"]}), "字段 @value 应当是字符串，却是列表"),
        (changed(object_type=7), "字段 object_type 应当是字符串，却是数字"),
        ({"text": "文", "entities": [], "relations": []}, "没有 spo_list 列表（像是 doccano"),
        ("文", "应当是 JSON 对象，却是字符串"),
    ],
)
def test_bad_lines_are_skipped_with_a_reason(tmp_path: Path, record: object, reason: str) -> None:
    source = write_duie(tmp_path / "duie.json", PLAIN, record, EMPTY)
    result = convert(source, tmp_path / "train.jsonl")
    assert result.lines == 2
    assert [bad.line_number for bad in result.bad_lines] == [2]
    assert reason in result.bad_lines[0].reason


def test_failures_leave_nothing_behind(tmp_path: Path) -> None:
    bad = write_duie(tmp_path / "bad.json", {"text": "文"})
    good = write_duie(tmp_path / "good.json", PLAIN)
    target = tmp_path / "train.jsonl"
    with pytest.raises(UserError, match=r"没有一行可以转换，第一处坏行是 .*bad\.json:1: 没有 spo_list"):
        convert(bad, target)
    with pytest.raises(UserError, match="找不到数据文件"):
        convert(tmp_path / "none.json", target)
    with pytest.raises(UserError, match="是目录"):
        convert(good, tmp_path)
    with pytest.raises(UserError, match="写不了"):
        convert(good, tmp_path / "none" / "train.jsonl")
    with pytest.raises(UserError, match="写不了"):
        convert(good, bad / "train.jsonl")
    with pytest.raises(UserError, match="指令"):
        convert(good, target, instruction="一\n\n二")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "good.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_reported_and_the_old_file_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, full = tmp_path / "train.jsonl", tmp_path / ".full"
    target.write_text("mine", encoding="utf-8")
    full.symlink_to("/dev/full")
    monkeypatch.setattr("data_handle.convert_duie.temporary_beside", lambda _: full)
    with pytest.raises(UserError, match=r"写 .*train\.jsonl 时出错"):
        convert(source, target, force=True)
    assert target.read_text(encoding="utf-8") == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["duie.json", "train.jsonl"]


def test_no_link_is_followed_to_what_belongs_to_others(source: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("theirs", encoding="utf-8")
    (tmp_path / f".train.jsonl.{os.getpid()}.tmp").symlink_to(victim)
    target = tmp_path / "train.jsonl"
    convert(source, target)
    assert victim.read_text(encoding="utf-8") == "theirs"
    assert not target.is_symlink() and len(read_lines(target)) == 3
    assert target.stat().st_mode & 0o777 == victim.stat().st_mode & 0o777  # as the umask says


@pytest.mark.parametrize(
    ("objects", "types"),
    [
        ({"inWork": "某片"}, {}),
        ({"inWork": "某片"}, {"inWork": ""}),
        ({"inWork": ""}, {"inWork": "影视作品"}),
        ({"inWork": " \u3000"}, {"inWork": "影视作品"}),
        ({"inWork": None}, {"inWork": None}),
        ({"inWork": "某\ud800"}, {"inWork": "影视作品"}),
        ({"inWork": "某片"}, {"inWork": "影视\0作品"}),
    ],
)
@pytest.mark.parametrize("keep_slots", [False, True])
def test_of_a_fact_with_an_empty_slot_only_the_slot_is_left_out(
    objects: dict[str, object], types: dict[str, object], keep_slots: bool, tmp_path: Path
) -> None:
    first, second = PLAIN["spo_list"][0], RELEASE["spo_list"][0]
    odd = {**first, "object": {"@value": "张玲", **objects}, "object_type": {"@value": "人物", **types}}
    source = write_duie(tmp_path / "duie.json", {"text": PLAIN["text"], "spo_list": [odd, second]})
    result = convert(source, tmp_path / "train.jsonl", keep_slots=keep_slots)
    expected = [DIRECTED, RELEASED, RELEASED_IN] if keep_slots else [DIRECTED, RELEASED]
    assert targets(tmp_path / "train.jsonl") == [format_target(expected)]
    assert (result.bad_lines, result.slots_left_out) == ([], 1 if keep_slots else 2)


def test_an_array_and_other_encodings_are_read(tmp_path: Path) -> None:
    for encoding in ("utf-8", "gbk", "utf-16"):
        source = tmp_path / f"{encoding}.json"
        source.write_text(json.dumps([PLAIN, EMPTY], ensure_ascii=False, indent=1), encoding=encoding)
        convert(source, tmp_path / "train.jsonl", force=True)
        assert targets(tmp_path / "train.jsonl") == [format_target([DIRECTED]), format_target([])]


def test_a_file_of_another_tool_is_named(tmp_path: Path) -> None:
    source = write_duie(tmp_path / "a.json", {"instruction": "抽取", "input": "文", "output": "[]"})
    with pytest.raises(
        UserError, match=r"没有一行可以转换：里面是 Alpaca 格式，不是 DuIE；请先转换："
    ) as error:
        convert(source, tmp_path / "train.jsonl")
    assert f"data_handle.convert {source}" in str(error.value)


def test_the_file_run_directly_says_how_to_run_it() -> None:
    command = [sys.executable, str(ROOT / "data_handle" / "convert_duie.py"), "a", "b"]
    finished = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert finished.returncode != 0 and "Traceback" not in finished.stderr
    assert "python -m data_handle.convert_duie" in finished.stderr
