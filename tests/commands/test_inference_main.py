"""inference_triplet.py in this process: every mode on a tiny trained model, and what it refuses."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import inference_triplet
from extraction.extractor import TripletExtractor
from extraction.files import check_output
from inference_triplet import main, parse_arguments, read_records, to_json
from task.prompt import build_prompt
from task.triplets import Triplet, format_target
from tests.helpers.extraction_samples import (
    ANSWERS,
    BROKEN,
    FILM,
    FILM_TRIPLETS,
    NONSENSE,
    NOVEL,
    NOVEL_TRIPLETS,
    RAIN,
    TinyRun,
    make_base,
    tiny_run,
    write_jsonl,
)
from utils.common_utils import UserError
from utils.progress import Progress

__all__ = ["tiny_run"]  # a fixture
Capture = pytest.CaptureFixture[str]


def as_json(triplets: list[Triplet]) -> list[dict[str, str]]:
    return [triplet._asdict() for triplet in triplets]


@pytest.fixture
def run(tiny_run: TinyRun, capsys: Capture) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command with the tiny adapter: exit code, stdout, stderr."""

    def run_main(*argv: object, adapter: Path = tiny_run.adapter) -> tuple[int, str, str]:
        code = main(["--adapter", str(adapter), *map(str, argv)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_main


# --- sentences


def test_text(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("--text", FILM)
    assert code == 0
    assert json.loads(out) == as_json(FILM_TRIPLETS)
    assert out.startswith(
        '[\n  {\n    "predicate": "导演",\n    "object_type": "人物",\n    "subject_type": '
    )
    assert "警告" not in err


def test_text_with_nothing_to_extract(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("--text", RAIN)[:2] == (0, "[]\n")


def test_text_whose_answer_is_repaired(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("--text", BROKEN, "--free-decoding")
    assert (code, json.loads(out)) == (0, as_json(FILM_TRIPLETS[:2]))
    assert "已修复，只保留其中完整的三元组" in err


def test_text_whose_answer_is_no_json(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("--text", NONSENSE, "--free-decoding")
    assert (code, out) == (1, "")
    assert "没有结果：模型的回答不是可用的三元组 JSON。模型的回答：'没有。'" in err


def test_text_whose_answer_is_too_long(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("--text", FILM, "--max_new_tokens", 20)
    assert (code, json.loads(out)) == (0, as_json(FILM_TRIPLETS[:1]))
    assert "回答到长度上限（--max_new_tokens）还没有结束，后面的三元组可能缺失" in err


def test_text_that_is_too_long(run: Callable[..., tuple[int, str, str]]) -> None:
    err = run("--text", FILM[1:] * 30, "--free-decoding")[2]
    assert "句子太长，超出输入长度（max_source_seq_len）的部分没有参与抽取" in err


def test_scores_and_spans(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = run("--text", NOVEL, "--scores", "--spans")
    (item,) = json.loads(out)
    assert code == 0
    assert list(item) == [*Triplet._fields, "score", "object_span", "subject_span"]
    assert 0.5 < item["score"] <= 1.0
    assert NOVEL[slice(*item["object_span"])] == "余华"
    assert NOVEL[slice(*item["subject_span"])] == "活着"
    assert run("--text", NOVEL, "--min-score", "1")[1] == "[]\n"


def test_own_schema(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    combination = {"predicate": "导演", "subject_type": "影视作品", "object_type": "人物"}
    path.write_text(json.dumps({"combinations": [combination]}), encoding="utf-8")
    code, out, _ = run("--text", FILM, "--schema", path)
    assert code == 0
    assert {item["predicate"] for item in json.loads(out)} == {"导演"}
    assert json.loads(run("--text", FILM, "--open-schema", "--free-values")[1]) == as_json(FILM_TRIPLETS)
    path.write_text('{"combinations": []}', encoding="utf-8")
    with pytest.raises(UserError, match="一个关系也没有"):
        run("--text", FILM, "--schema", path)


def test_text_in_another_field(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_jsonl(source, [{"id": 1, "content": NOVEL}, {"id": 2}])
    code, _, err = run("--input", source, "--output", output, "--text-field", "content")
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert code == 1
    assert lines[0] == {"id": 1, "content": NOVEL, "text": NOVEL, "triplets": as_json(NOVEL_TRIPLETS)}
    assert lines[1] == {"id": 2, "text": "", "triplets": [], "error": "缺少字段 content"}
    assert "句/秒（含加载模型）" in err


def test_bare_base_answers_as_before(tiny_run: TinyRun, capsys: Capture) -> None:
    assert main(["--no-adapter", "--pre_model", str(tiny_run.base), "--text", FILM]) == 0
    assert capsys.readouterr().out == "[]\n"


def test_demo(run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert inference_triplet.DEMO_SENTENCES[0] == FILM
    monkeypatch.setattr(inference_triplet, "DEMO_SENTENCES", (FILM, NONSENSE, NOVEL))
    code, out, err = run("--free-decoding")
    assert code == 1
    assert out == "".join(
        json.dumps(as_json(triplets), ensure_ascii=False, indent=2) + "\n"
        for triplets in (FILM_TRIPLETS, NOVEL_TRIPLETS)
    )
    assert err.count("句子：") == 3
    assert "3 句中有 1 句没有得到结果" in err


def test_interactive_piped(run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{FILM}\n\n{NOVEL}\n退出\n{RAIN}\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), "utf-8"))
    code, out, _ = run("--interactive")
    first, second = out.split("]\n")[:2]
    assert code == 0
    assert json.loads(first + "]") == as_json(FILM_TRIPLETS)
    assert json.loads(second + "]") == as_json(NOVEL_TRIPLETS)
    assert out.count("[\n") == 2


def test_interactive_goes_on_after_a_bad_line_and_an_interrupt(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n\xe7\x94\xb2\nexit"), "utf-8"))

    def interrupt(self: TripletExtractor, sentence: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TripletExtractor, "extract_one", interrupt)
    code, out, err = run("--interactive")
    assert (code, out) == (1, "")
    assert "这一句不能抽取：不是 UTF-8 编码，第 1 个字节处出错" in err
    assert "已停止这一句的生成" in err


def test_out_of_memory_is_explained(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: type[RuntimeError]) -> Callable[..., None]:
        def extract_one(self: TripletExtractor, sentence: str) -> None:
            raise error("CUDA out of memory")

        return extract_one

    monkeypatch.setattr(TripletExtractor, "extract_one", fail(torch.OutOfMemoryError))
    with pytest.raises(UserError, match="显存不足：请调小 --batch_size 或 --max_new_tokens"):
        run("--text", FILM)
    monkeypatch.setattr(TripletExtractor, "extract_one", fail(RuntimeError))
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        run("--text", FILM)


def test_what_libraries_print_does_not_reach_stdout(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TripletExtractor.extract_one

    def noisy(self: TripletExtractor, sentence: str) -> Any:
        print("chatter")
        return original(self, sentence)

    monkeypatch.setattr(TripletExtractor, "extract_one", noisy)
    _, out, err = run("--text", RAIN)
    assert out == "[]\n"
    assert "chatter" in err


# --- files


def test_sentences_in_a_text_file(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + f"{FILM}\r\n\n{NOVEL}\n".encode() + b"\xff\xff\n" + RAIN.encode())
    code, out, err = run("--input", source, "--output", output)
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert (code, out) == (1, "")
    assert lines[0] == {"text": FILM, "triplets": as_json(FILM_TRIPLETS)}
    assert lines[1] == {"text": NOVEL, "triplets": as_json(NOVEL_TRIPLETS)}
    assert lines[2] == {"line": 4, "text": "\ufffd\ufffd", "triplets": [], "error": lines[2]["error"]}
    assert lines[2]["error"].startswith("不是 UTF-8 编码，第 1 个字节处出错")
    assert lines[3] == {"text": RAIN, "triplets": []}
    assert "已完成 4 句" in err
    assert "共 4 行（其中 0 行是上次完成的）" in err
    assert "没有重新抽取" not in err
    assert "1 行没有得到结果，原因见输出中的 error 字段" in err


def test_sentences_in_a_jsonl_file(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_jsonl(source, [{"id": 1, "text": NOVEL, "来源": "甲"}, {"text": RAIN}])
    code, _, err = run("--input", source, "--output", output, "--batch_size", 1)
    assert code == 0
    assert output.read_text(encoding="utf-8").splitlines()[0] == json.dumps(
        {"id": 1, "text": NOVEL, "来源": "甲", "triplets": as_json(NOVEL_TRIPLETS)}, ensure_ascii=False
    )
    before = output.read_bytes()
    code, _, err = run("--input", source, "--output", output)
    assert (code, output.read_bytes()) == (0, before)
    assert "其中 2 行是上次完成的" in err
    assert "加载模型" not in err  # nothing left to do


def test_bad_lines_of_a_jsonl_file_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(
        b'{"text": 3, "id": 1}\n{"id": 2}\n{"text": " "}\nnot json\n\n[1]\n{"text": "\xff"}\n{"text": "a"}\n'
    )
    records = list(read_records(source))
    assert [record.fields for record in records] == [
        {"text": 3, "id": 1},
        {"id": 2, "text": ""},
        {"text": " "},
        {"line": 4, "text": "not json"},
        {"line": 6, "text": "[1]"},
        {"line": 7, "text": '{"text": "\ufffd"}'},
        {"text": "a"},
    ]
    problems = [record.problem for record in records]
    assert problems[-1] is None
    expected = [
        "应当是字符串",
        "缺少字段 text",
        "是空的",
        "不是合法的 JSON",
        "应当是 JSON 对象",
        "不是 UTF-8",
    ]
    for problem, part in zip(problems, expected, strict=False):
        assert problem is not None
        assert part in problem


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", '\n{"text": "甲"}\n', ["甲"]),
        ("a.txt", '{甲}\n{"text": "乙"}\n', ["{甲}", '{"text": "乙"}']),
        ("a.txt", "甲\u2028乙\x85丙\n 丁 \n", ["甲\u2028乙\x85丙", " 丁 "]),
        ("a.NDJSON", '{"text": "甲"}', ["甲"]),
        ("a", "", []),
        ("a", "[" * 100_000, ["[" * 100_000]),
    ],
)
def test_format_of_an_input_file(tmp_path: Path, name: str, content: str, texts: list[str]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert [record.fields["text"] for record in read_records(tmp_path / name)] == texts


@pytest.mark.parametrize(
    "line",
    ["第 {} 句。", '{{"id": {0}, "text": "第 {0} 句。"}}'],
    ids=["plain", "json"],
)
def test_an_input_that_is_a_pipe(tmp_path: Path, line: str) -> None:
    """A pipe can be read once only: nothing of it may be lost to a look at its format."""
    pipe, count = tmp_path / "pipe", 10_000
    content = ("\ufeff\n \n" + "".join(line.format(number) + "\n" for number in range(count))).encode()
    assert len(content) > 2 * 65536  # what a pipe holds
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[content], daemon=True)
    writer.start()
    records = list(read_records(pipe))
    writer.join(timeout=10)
    assert [record.fields["text"] for record in records] == [f"第 {number} 句。" for number in range(count)]
    assert all(record.problem is None for record in records)
    assert not writer.is_alive()


def test_line_numbers_count_blank_lines(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_text('\n\n{"text": "甲"}\n\nnot json\n', encoding="utf-8")
    assert [record.fields for record in read_records(source)] == [
        {"text": "甲"},
        {"line": 5, "text": "not json"},
    ]


@pytest.mark.parametrize(
    ("form", "long"),
    [("{}", "甲" * 400_000), ("{}", " " * 1_200_000 + "甲"), ('{{"text": "{}"}}', "甲" * 400_000)],
    ids=["plain", "blanks", "json"],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_line_over_the_limit_is_a_bad_line(tmp_path: Path, form: str, long: str, first: bool) -> None:
    source = tmp_path / "in"
    lines = [form.format(text) for text in ((long, "乙", "丙") if first else ("乙", long, "丙"))]
    source.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    records = list(read_records(source))
    assert [record.fields["text"] for record in records if record.problem is None] == ["乙", "丙"]
    (bad,) = [record for record in records if record.problem is not None]
    assert bad.problem.endswith("超过上限 1,048,576 字节")
    assert bad.fields == {"line": 1 if first else 2, "text": ""}
    assert records.index(bad) == bad.fields["line"] - 1


def test_interrupted_file(
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text(f"{RAIN}\n{NOVEL}\n{FILM}\n", encoding="utf-8")
    monkeypatch.setattr(inference_triplet, "WINDOW_BATCHES", 1)
    original = TripletExtractor.stream

    def interrupt_at_film(self: TripletExtractor, sentences: list[str]) -> Any:
        if FILM in sentences:
            raise KeyboardInterrupt
        return original(self, sentences)

    with monkeypatch.context() as patch:
        patch.setattr(TripletExtractor, "stream", interrupt_at_film)
        with pytest.raises(KeyboardInterrupt):
            run("--input", source, "--output", output)
    assert f"{output} 已有 2 行结果，重新运行同一命令即可继续" in capsys.readouterr().err
    code, _, err = run("--input", source, "--output", output)
    assert code == 0
    assert "共 3 行（其中 2 行是上次完成的）" in err
    assert "上次完成的行没有重新抽取；要换用别的选项，或重试带 error 字段的行，请另用一个 --output" in err
    assert [json.loads(line)["text"] for line in output.open(encoding="utf-8")] == [RAIN, NOVEL, FILM]


def test_files_that_cannot_be_used(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, tiny_run: TinyRun
) -> None:
    source = tmp_path / "in.txt"
    source.write_text(RAIN, encoding="utf-8")
    with pytest.raises(UserError, match=r"找不到数据文件 .*none.txt"):
        run("--input", tmp_path / "none.txt", "--output", tmp_path / "out")
    with pytest.raises(UserError, match="--output 与 --input 是同一个文件"):
        run("--input", source, "--output", tmp_path / "." / "in.txt")
    (tmp_path / "diary").write_text("my diary\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"输出文件 .*diary 的第 1 行与输入对不上"):
        run("--input", source, "--output", tmp_path / "diary")
    assert (tmp_path / "diary").read_text(encoding="utf-8") == "my diary\n"


def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*args: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(inference_triplet, "load_extractor", load)
    source = tmp_path / "in.txt"
    source.write_text(RAIN, encoding="utf-8")
    with pytest.raises(UserError, match=r"写不了输出文件 .*none/out：目录 .*none 不存在"):
        run("--input", source, "--output", tmp_path / "none" / "out")
    with pytest.raises(UserError, match=r"写不了输出文件 .*：它不是普通文件"):
        run("--input", source, "--output", tmp_path)
    writable: list[Path] = []  # root may write everything
    monkeypatch.setattr(os, "access", lambda path, mode: path in writable)
    for refused, other in ((tmp_path / "out", tmp_path / "out"), (source, tmp_path)):
        writable[:] = [other]
        with pytest.raises(UserError, match=r"写不了输出文件 .*：没有写权限"):
            check_output(refused)
    writable[:] = [tmp_path]
    check_output(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_paths_that_the_system_refuses(tmp_path: Path) -> None:
    sentence = "《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。" * 5
    with pytest.raises(UserError, match=r"路径 《娘家的故事.*… 不能用（File name too long）"):
        main(["--input", sentence, "--output", str(tmp_path / "out")])
    for option in ("--adapter", "--schema"):
        with pytest.raises(UserError, match=r"路径 《娘家的故事.*不能用（File name too long）"):
            main(["--text", "甲", option, sentence])
    with pytest.raises(UserError, match="--pre_model 是空的"):
        main(["--text", "甲", "--pre_model", ""])


def test_a_sentence_that_is_no_utf8_says_so() -> None:
    typed = "张玲执导《雨夜》".encode("gbk").decode("utf-8", "surrogateescape")
    with pytest.raises(UserError, match=r"--text 不能抽取：不是 UTF-8 编码.*像是 GBK"):
        main(["--text", typed])
    with pytest.raises(UserError, match="不成对的代理字符"):
        main(["--text", "甲\ud800"])


def test_an_empty_input_has_an_empty_output(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\n\n", encoding="utf-8")
    code, _, err = run("--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.jsonl"))
    assert code == 0 and "共 0 行" in err
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_half_a_surrogate_pair_costs_no_evaluation(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    target = json.dumps([t._asdict() | {"object": "\ud83d"} for t in FILM_TRIPLETS])
    lines = [{"context": build_prompt(s), "target": t} for s, t in ((FILM, target), (NOVEL, "[]"))]
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    _, out, _ = run("--evaluate", str(path))
    (unusable,) = json.loads(out)["unusable"]
    assert "代理字符" in unusable["error"]
    assert json.loads(to_json({"raw": "\ud83d"})) == {"raw": "\ud83d"} and to_json("甲") == '"甲"'


def test_a_plain_file_in_gbk_says_so(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("张玲执导\n", encoding="gbk")
    (record,) = read_records(tmp_path / "in.txt")
    assert record.problem is not None
    assert record.problem.endswith("（像是 GBK 编码，请把文件转成 UTF-8）")


def test_input_nested_too_deep_to_be_written_again(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(f'{{"text": "{RAIN}", "deep": {"[" * 600}NaN{"]" * 600}}}\n', encoding="utf-8")
    assert run("--input", source, "--output", output)[0] == 0
    assert json.loads(output.read_text(encoding="utf-8")) == {"text": RAIN, "deep": None, "triplets": []}


def test_a_report_over_the_labelled_data_is_refused(
    run: Callable[..., tuple[int, str, str]], labelled: Path, tmp_path: Path
) -> None:
    before = labelled.read_bytes()
    with pytest.raises(UserError, match="--report 与 --evaluate 是同一个文件"):
        run("--evaluate", labelled, "--report", labelled)
    with pytest.raises(UserError, match=r"写不了报告 .*none/r.json：目录 .*none 不存在"):
        run("--evaluate", labelled, "--report", tmp_path / "none" / "r.json")
    assert labelled.read_bytes() == before


def test_a_model_that_cannot_be_read_is_not_blamed_on_the_output(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: object) -> None:
        raise PermissionError(13, "Permission denied", "model.safetensors")

    monkeypatch.setattr(inference_triplet, "load_extractor", load)
    source = tmp_path / "in.txt"
    source.write_text(RAIN, encoding="utf-8")
    with pytest.raises(UserError, match=r"加载模型失败：.*model\.safetensors"):
        run("--input", source, "--output", tmp_path / "out")


def test_a_pipe_and_several_processes(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="是管道，只能读一次"):
        run("--input", tmp_path / "pipe", "--output", tmp_path / "out")


def test_progress_is_shown_within_the_first_window(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Progress, "INTERVAL", 0.0)
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_bytes("".join(f"{s}\n" for s in (RAIN, FILM, NOVEL)).encode() + b"\xff\n")
    err = run("--input", source, "--output", output)[2]
    counts = [line.split()[1] for line in err.splitlines() if line.startswith("已完成 ")]
    assert counts == ["1", "2", "3", "4"]  # the bad line at the window's end
    whole = output.read_bytes()
    output.write_bytes(whole[: whole.index(b"\n") + 1])
    err = run("--input", source, "--output", output)[2]
    assert [line.split()[1] for line in err.splitlines() if line.startswith("已完成 ")] == counts
    assert output.read_bytes() == whole


# --- evaluation


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    lines = [
        {"context": build_prompt(FILM), "target": format_target(FILM_TRIPLETS[:2])},
        {"context": build_prompt(NOVEL), "target": ANSWERS[NOVEL]},
        {"context": build_prompt(NONSENSE), "target": "没有。"},
    ]
    return write_jsonl(tmp_path / "dev.jsonl", lines)


def test_evaluation(run: Callable[..., tuple[int, str, str]], labelled: Path, tmp_path: Path) -> None:
    code, out, err = run("--evaluate", labelled, "--report", tmp_path / "report.json", "--free-decoding")
    report = json.loads(out)
    strict = report["triplets"]["strict"]
    assert code == 0
    assert (strict["correct"], strict["predicted"], strict["expected"]) == (3, 4, 3)
    assert (strict["precision"], strict["recall"]) == (0.75, 1.0)
    assert report["classification"] == {"sentences": 1, "correct": 1, "accuracy": 1.0, "errors": []}
    assert report["triplets"]["errors"][0]["spurious"] == as_json(FILM_TRIPLETS[2:])
    assert (report["lines"], report["bad_lines"]) == (3, [])
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report
    assert "总计" in err
    assert "多出（娘家的故事第二部，主演，何赛飞）" in err


def test_evaluation_with_many_errors(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    lines = [{"context": build_prompt(RAIN), "target": ANSWERS[NOVEL]}] * 25
    source = write_jsonl(tmp_path / "dev.jsonl", lines)
    code, out, err = run("--evaluate", source, "--report", tmp_path / "report.json", "--batch_size", 25)
    full = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert code == 0
    assert len(full["triplets"]["errors"]) == 25
    assert len(json.loads(out)["triplets"]["errors"]) == 20
    assert err.count("错例：") == 10
    assert "共 25 句有错，用 --report 文件 保存全部" in err


def test_evaluation_of_a_file_with_bad_lines(
    run: Callable[..., tuple[int, str, str]], labelled: Path, tmp_path: Path
) -> None:
    with labelled.open("a", encoding="utf-8") as file:
        file.write("not json\n" + json.dumps({"context": build_prompt(RAIN), "target": '[{"a": 1}]'}) + "\n")
    code, out, err = run("--evaluate", labelled)
    assert code == 1
    assert len(json.loads(out)["bad_lines"]) == 1
    assert "dev.jsonl:4: 不是合法的 JSON" in err
    assert "标准答案无法读取" in err
    assert "2 行没有得到评估" in err
    with pytest.raises(UserError, match="写不了报告"):
        run("--evaluate", labelled, "--report", tmp_path / "none" / "report.json")


# --- the adapter


@pytest.fixture
def copy(tiny_run: TinyRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run.adapter, tmp_path / "adapter"))


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def test_default_adapter_is_model_best_of_save_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="找不到适配器 output/chatglm-6b-triplet-qlora/model_best"):
        main(["--text", FILM])


def test_lengths_that_contradict_the_training(run: Callable[..., tuple[int, str, str]], copy: Path) -> None:
    edit_json(copy / "project_config.json", max_target_seq_len=100)
    with pytest.raises(
        UserError, match=r"max_target_seq_len 前后不一致：project_config.json 里是 100，训练时是 48"
    ):
        run("--text", FILM, adapter=copy)


def test_schema_that_is_damaged(run: Callable[..., tuple[int, str, str]], copy: Path) -> None:
    (copy / "schema.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="模式文件"):
        run("--text", FILM, adapter=copy)


def test_prompt_of_another_wording(run: Callable[..., tuple[int, str, str]], copy: Path) -> None:
    edit_json(copy / "adapter_meta.json", prompt_template="{instruction}{sentence}")
    with pytest.raises(UserError, match="提示词模板"):
        run("--text", FILM, adapter=copy)


def test_another_base(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    with pytest.raises(UserError, match="另一个基座模型"):
        run("--text", FILM, "--pre_model", tmp_path / "base")


def test_missing_base(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="找不到模型"):
        run("--text", FILM, "--pre_model", tmp_path / "none")


def test_adapter_without_effect_is_reported(run: Callable[..., tuple[int, str, str]], copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "adapter_model.safetensors")
    for name, tensor in weights.items():
        if "lora_B" in name:
            tensor.zero_()
    save_file(weights, copy / "adapter_model.safetensors")
    code, out, err = run("--text", FILM, adapter=copy)
    assert (code, out) == (0, "[]\n")
    assert f"警告：适配器 {copy} 没有改变模型的输出" in err


def test_precision_is_that_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from glm_config import ProjectConfig

    config = ProjectConfig()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert inference_triplet.choose_dtype(config) == torch.float16
    config.device = "cpu"
    assert inference_triplet.choose_dtype(config) == torch.bfloat16
    config.fp16 = False
    assert inference_triplet.choose_dtype(config) == torch.float32
    config.bf16, config.device = True, "cuda:1"
    assert inference_triplet.choose_dtype(config) == torch.bfloat16


def test_debug_lets_the_reason_of_a_failure_through(
    run: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(self: TripletExtractor, prompts: list[list[int]]) -> None:
        raise RuntimeError("坏了")

    monkeypatch.setattr(TripletExtractor, "_generate", fail)
    code, out, err = run("--text", FILM, "--debug", "--free-decoding")
    assert (code, out) == (1, "")
    assert "没有结果：生成失败：RuntimeError: 坏了" in err
    assert "Traceback" in caplog.text


# --- the command line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--text", ""], "--text 不能抽取：字段 text 是空的"),
        (["--text", " \n "], "--text 不能抽取：字段 text 是空的"),
        (["--text", "\udcff"], "--text 不能抽取：不是 UTF-8 编码，第 1 个字节处出错"),
        (["--text", "甲", "--interactive"], "--interactive 不能与 --text 同时使用"),
        (["--input", "a"], "--input 与 --output 要一起使用"),
        (["--output", "a"], "--input 与 --output 要一起使用"),
        (["--text", "甲", "--output", "a"], "--input 与 --output 要一起使用"),
        (["--report", "a"], "--report 只能与 --evaluate 一起使用"),
        (["--evaluate", "a", "--scores"], "--evaluate 不输出三元组，不能与 --scores 同时使用"),
        (["--evaluate", "a", "--spans"], "--evaluate 不输出三元组，不能与 --spans 同时使用"),
        (["--adapter", "a", "--no-adapter"], "--adapter 与 --no-adapter 不能同时使用"),
        (["--device", "gpu"], "--device 应当写成 cpu、cuda 或 cuda:1 这样，现在是 'gpu'"),
        (["--batch_size", "0"], "--batch_size 应为正整数"),
        (["--max_new_tokens", "many"], "--max_new_tokens 应为正整数"),
        (["甲"], "认不出命令行参数 甲"),
    ],
)
def test_command_lines_that_make_no_sense(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_arguments(argv)


def test_answers_longer_than_the_model_can(run: Callable[..., tuple[int, str, str]]) -> None:
    with pytest.raises(UserError, match="超过了模型的上限 2048，请调小 max_new_tokens"):
        run("--text", FILM, "--max_new_tokens", 2000)


def test_cuda_asked_for_where_there_is_none(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="cuda"):
        run("--text", FILM, "--device", "cuda")
