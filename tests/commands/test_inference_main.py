"""inference_triplet.py in this process: every mode on a tiny trained model, and what it refuses."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import inference_triplet
from extraction import files, loading
from extraction.extractor import TripletExtractor
from extraction.files import check_output
from inference_triplet import main
from task.prompt import build_prompt
from task.triplets import KEYS, Triplet, format_target
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
    write_jsonl,
)
from utils.common_utils import UserError
from utils.progress import Progress

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
    assert re.search(r"本次抽取 1 句，用时 [\d.]+ 秒，平均 [\d.]+ 句/秒（另用 [\d.]+ 秒加载模型）。", err)


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
    text = f"{FILM}\n\nhelp\n{NOVEL}\n退出\n{RAIN}\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), "utf-8"))
    code, out, err = run("--interactive")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [
        {"text": FILM, "triplets": as_json(FILM_TRIPLETS)},
        {"text": NOVEL, "triplets": as_json(NOVEL_TRIPLETS)},
    ]
    assert "粘贴多行时一行一句" in err


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("json", json.dumps(as_json(NOVEL_TRIPLETS), ensure_ascii=False, indent=2) + "\n"),
        ("line", r"活着 —作者→ 余华  [01]\.\d\d\n"),
        (
            "table",
            r"主语 +主语类型 +关系 +宾语 +宾语类型 +置信度\n活着 +图书作品 +作者 +余华 +人物 +[01]\.\d\d\n",
        ),
    ],
)
def test_formats(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, way: str, expected: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(NOVEL.encode()), "utf-8"))
    code, out, _ = run("--interactive", "--format", way)
    assert code == 0
    assert out == expected if way == "json" else re.fullmatch(expected, out)
    assert run("--text", NOVEL, "--format", way)[1] == out


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_sees_scores_and_doubts(
    run: Callable[..., tuple[int, str, str]], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    edit_json(copy / "adapter_meta.json", half_right_score=1.0)
    code, _, err = run("--text", NOVEL, adapter=copy)
    doubtful = [triplet for triplet in json.loads(screen.getvalue()) if triplet["score"] < 1]
    assert code == 0 and doubtful
    for each in doubtful:
        line = f"{each['subject']} —{each['predicate']}→ {each['object']}  {each['score']:.2f}"
        assert f"存疑：{line}" in err
    assert "置信度低于 1，验证集上这样的三元组多半是错的；--min_score 1 可以略去它们。" in err


def test_without_a_person_nothing_is_marked(
    run: Callable[..., tuple[int, str, str]], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_json(copy / "adapter_meta.json", half_right_score=1.0)
    code, out, err = run("--text", NOVEL, adapter=copy)
    assert (code, json.loads(out)) == (0, as_json(NOVEL_TRIPLETS))
    assert "存疑" not in out + err


def test_interactive_goes_on_after_a_bad_line_and_an_interrupt(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n\xe7\x94\xb2\nexit"), "utf-8"))

    def interrupt(self: TripletExtractor, sentence: str, on_piece: Any) -> None:
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
        def extract_one(self: TripletExtractor, sentence: str, on_piece: Any) -> None:
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

    def noisy(self: TripletExtractor, sentence: str, on_piece: Any) -> Any:
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
    assert "已完成 4/4 句" in err
    assert "共 4 行（其中 0 行是上次完成的）" in err
    assert "没有重新抽取" not in err
    assert "1 行没有得到结果，原因见输出中的 error 字段" in err


def test_documents_in_a_folder(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (folder := tmp_path / "docs").mkdir()
    (folder / "a.md").write_text(f"- {FILM}\n", encoding="utf-8")
    (folder / "b.txt").write_text(RAIN, encoding="utf-8")
    output = tmp_path / "out.jsonl"
    code, _, err = run("--input", folder, "--documents", "--output", output, "--spans")
    first, second = (json.loads(line) for line in output.read_text(encoding="utf-8").splitlines())
    assert code == 0 and "已完成 2/2" in err
    assert (first["document"], second) == ("a.md", {"document": "b.txt", "text": RAIN, "triplets": []})
    assert [{key: item[key] for key in KEYS} for item in first["triplets"]] == as_json(FILM_TRIPLETS)
    for item in first["triplets"]:
        assert first["text"][slice(*item["subject_span"])] == item["subject"]
        assert first["text"][slice(*item["object_span"])] == item["object"]
    with pytest.raises(UserError, match="--documents 只能与 --input 一起使用"):
        run("--text", FILM, "--documents")
    with pytest.raises(UserError, match="要求值来自原文，不能与 --free_decoding 同时使用"):
        run("--text", FILM, "--context_sentences", 1, "--free_decoding")


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


def test_interrupted_file(
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text(f"{RAIN}\n{NOVEL}\n{FILM}\n", encoding="utf-8")
    monkeypatch.setattr(files, "GROUP_BATCHES", (1,))
    original = TripletExtractor.stream

    def interrupt_at_film(self: TripletExtractor, sentences: list[str], **options: Any) -> Any:
        if FILM in sentences:
            raise KeyboardInterrupt
        return original(self, sentences, **options)

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

    monkeypatch.setattr(loading, "load_extractor", load)
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

    monkeypatch.setattr(loading, "load_extractor", load)
    source = tmp_path / "in.txt"
    source.write_text(RAIN, encoding="utf-8")
    with pytest.raises(UserError, match=r"加载模型失败：.*model\.safetensors"):
        run("--input", source, "--output", tmp_path / "out")


def test_a_pipe_and_several_processes(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="是管道，只能读一次"):
        run("--input", tmp_path / "pipe", "--output", tmp_path / "out")


def test_progress_is_shown_sentence_by_sentence(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Progress, "INTERVAL", 0.0)
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_bytes("".join(f"{s}\n" for s in (RAIN, FILM, NOVEL)).encode() + b"\xff\n")
    err = run("--input", source, "--output", output)[2]
    counts = [line.split()[1] for line in err.splitlines() if line.startswith("已完成 ")]
    assert [count for count in counts if count != "0/4"] == ["1/4", "2/4", "3/4", "4/4"]
    assert "剩余 0:00:0" in err
    whole = output.read_bytes()
    output.write_bytes(whole[: whole.index(b"\n") + 1])
    err = run("--input", source, "--output", output)[2]
    assert "已完成 4/4 句" in err
    assert "本次抽取 2 句" in err
    assert output.read_bytes() == whole


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "1"}, "RANK=1 而没有 WORLD_SIZE，两者矛盾"),
        ({"RANK": "abc"}, "RANK='abc' 不是非负整数"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 没有意义"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(
    run: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    message: str,
) -> None:
    (tmp_path / "in.txt").write_text(RAIN, encoding="utf-8")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for output in (tmp_path / "out", "-"):
        with pytest.raises(UserError, match=message):
            run("--input", tmp_path / "in.txt", "--output", output)


def test_standard_input_and_output(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = f'{{"id": 1, "text": "{NOVEL}"}}\n{{"id": 2, "text": "{RAIN}"}}\n'.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))
    code, out, err = run("--input", "-", "--output", "-")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [
        {"id": 1, "text": NOVEL, "triplets": as_json(NOVEL_TRIPLETS)},
        {"id": 2, "text": RAIN, "triplets": []},
    ]
    assert "结果在 标准输出" in err
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="是管道，只能读一次"):
        run("--input", "-", "--output", tmp_path / "out")


def test_a_table_and_an_array_as_input(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    table, array, output = tmp_path / "in.csv", tmp_path / "in.json", tmp_path / "out"
    table.write_text(f"编号,句子\n1,{NOVEL}\n", encoding="utf-8-sig")
    array.write_text(json.dumps([{"编号": "1", "句子": NOVEL, "text": NOVEL}], indent=1), encoding="utf-8")
    for source in (table, array):
        assert run("--input", source, "--output", output)[0] == 0
        (line,) = map(json.loads, output.read_text(encoding="utf-8").splitlines())
        assert line == {"编号": "1", "句子": NOVEL, "text": NOVEL, "triplets": as_json(NOVEL_TRIPLETS)}
        output.unlink()


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


def test_evaluation_as_a_page(
    run: Callable[..., tuple[int, str, str]], labelled: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    code, _, err = run("--evaluate", labelled, "--html", page)
    assert code == 0 and f"报告：{page}（2 句" in err
    content = page.read_text("utf-8")
    assert '"triplets":{"sentences":2' in content and NOVEL in content
    with pytest.raises(UserError, match=r"--html .*报告是网页"):
        run("--evaluate", labelled, "--html", tmp_path / "report.json")


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


def test_answers_longer_than_the_model_can(run: Callable[..., tuple[int, str, str]]) -> None:
    with pytest.raises(UserError, match="超过了模型的上限 2048，请调小 max_new_tokens"):
        run("--text", FILM, "--max_new_tokens", 2000)


def test_cuda_asked_for_where_there_is_none(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="cuda"):
        run("--text", FILM, "--device", "cuda")
