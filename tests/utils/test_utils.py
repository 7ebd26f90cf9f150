"""The small shared subjects: console, prompt, triplet notation, memory, device."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from bases.chatglm import ChatGLMTokenizer
from task import prompt, triplets
from task.triplets import Triplet, format_target, parse_target
from utils import common_utils, device, memory
from utils.common_utils import UserError, run_main
from utils.device import check_device, make_accelerator, weight_dtype

FACT = Triplet("导演", "人物", "影视作品", "张玲", "娘家的故事第二部")


# ---- console


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("缺少文件，请补上。"), 2, "错误：缺少文件，请补上。"),
        (KeyError("x"), 2, "错误：'x'"),
        (KeyboardInterrupt(), 130, "已中断"),
    ],
)
def test_run_main_turns_errors_into_exit_codes(error: BaseException, code: int, said: str, capsys) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as exit_info:
        run_main(main, user_errors=(KeyError,))
    assert exit_info.value.code == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_run_main_passes_codes_on() -> None:
    for result, code in ((None, 0), (0, 0), (3, 3)):
        with pytest.raises(SystemExit) as exit_info:
            run_main(lambda result=result: result)
        assert exit_info.value.code == code


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--debug"])

    def main() -> None:
        raise UserError("坏了。")

    with pytest.raises(SystemExit):
        run_main(main)
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away(root: Path) -> None:
    """`command | head -1` ends without a traceback."""
    loop = "[print('x' * 100) for _ in range(100000)]"
    code = f"from utils.common_utils import run_main\nrun_main(lambda: {loop} and 0)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 1


def test_seeding_repeats_every_generator() -> None:
    import random

    import numpy as np

    draws = []
    for _ in range(2):
        common_utils.set_seed(5)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    assert draws[0] == draws[1]


def test_libraries_are_quiet(capsys) -> None:
    with warnings.catch_warnings():
        common_utils.quiet_libraries()
        warnings.warn_explicit("old", FutureWarning, "peft/x.py", 1, module="peft.x")
        with pytest.warns(UserWarning, match="mine"):
            warnings.warn("mine", UserWarning, stacklevel=1)
    assert "old" not in capsys.readouterr().err


# ---- prompt


@pytest.fixture(scope="module")
def tokenizer(root: Path) -> ChatGLMTokenizer:
    return ChatGLMTokenizer.from_pretrained(root / "models" / "chatglm-tiny")


def test_the_prompt_is_the_readme_s() -> None:
    context = prompt.build_prompt("《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。")
    assert context == (
        "Instruction: 你现在是一个很厉害的阅读理解器，严格按照人类指令进行回答。\n"
        "Input: 帮我抽取出下面句子中的三元组信息，返回JSON：\n\n"
        "《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。\nAnswer: "
    )


@pytest.mark.parametrize(
    ("sentence", "instruction"),
    [("一句话。", "抽取"), ("含\n\n空行\nAnswer: 的话", "两行的\n指令："), ("", "空"), ("{花括号}", "抽取")],
)
def test_split_context_is_the_inverse(sentence: str, instruction: str) -> None:
    context = prompt.build_prompt(sentence, instruction)
    head, middle, tail = prompt.split_context(context)
    assert head + middle + tail == context
    assert middle == sentence
    assert tail == "\nAnswer: "


def test_split_context_of_another_notation() -> None:
    assert prompt.split_context("请回答：你好吗？") == ("", "请回答：你好吗？", "")


def test_encode_prompt_cuts_the_sentence_only(tokenizer: ChatGLMTokenizer) -> None:
    sentence = "天地玄黄宇宙洪荒日月盈昃辰宿列张" * 20
    whole = tokenizer.encode_plain(prompt.build_prompt(sentence))
    suffix = [tokenizer.gmask_token_id, tokenizer.bos_token_id]
    assert prompt.encode_prompt(tokenizer, prompt.build_prompt(sentence), 2000) == (whole + suffix, False)
    ids, truncated = prompt.encode_prompt(tokenizer, prompt.build_prompt(sentence), 60)
    assert truncated
    assert len(ids) == 60
    assert ids[-2:] == suffix
    kept = prompt.split_context(tokenizer.decode(ids[:-2]) + " ")[1]
    assert sentence.startswith(kept)
    assert 5 < len(kept) < 60
    head_ids = tokenizer.encode_plain(prompt.build_prompt(""))
    with pytest.raises(UserError, match=f"max_source_seq_len={len(head_ids)} 太小"):
        prompt.encode_prompt(tokenizer, prompt.build_prompt(sentence), len(head_ids))


def test_an_enormous_sentence_is_encoded_in_part(tokenizer: ChatGLMTokenizer) -> None:
    context = prompt.build_prompt("很长的句子。" * 1_000_000)
    ids, truncated = prompt.encode_prompt(tokenizer, context, 100)
    assert truncated
    assert len(ids) == 100


def test_typed_special_tokens_are_plain_text(tokenizer: ChatGLMTokenizer) -> None:
    text = "[gMASK]<sop>[MASK]<eop><pad></s>［ｇＭＡＳＫ］ \ud800"
    control = {
        tokenizer.convert_tokens_to_ids(piece)
        for piece in ("[gMASK]", "<sop>", "[MASK]", "<eop>", "<pad>", "</s>")
    }
    ids = tokenizer.encode_plain(text)
    assert not control & set(ids)
    assert tokenizer.decode(ids).startswith("[gMASK]<sop>[MASK]<eop><pad></s>[gMASK]")
    assert control & set(tokenizer.encode(text, add_special_tokens=False))  # as the published one does


# ---- triplet notation


def test_targets_round_trip() -> None:
    text = format_target([FACT, FACT._replace(object='引"号\\')])
    assert text.startswith(
        '```json\n[{"predicate": "导演", "object_type": "人物", "subject_type": "影视作品", '
    )
    assert parse_target(text) == [FACT, FACT._replace(object='引"号\\')]
    assert format_target([]) == "```json\n[]\n```"
    assert parse_target("[]") == parse_target("```\n[]\n```") == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "正面", "{}", "[1]", '[{"predicate": "导演"}]', "```json\n[", "[" * 100_000),
        json.dumps([{**FACT._asdict(), "object": 3}]),
        json.dumps([{**FACT._asdict(), "extra": "x"}]),
    ],
)
def test_bad_targets_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (json has messages of its own)
        parse_target(text)


def test_kinds_of_answers() -> None:
    assert triplets.is_triplet_target(format_target([]))
    assert triplets.is_triplet_target('[{"predicate"')
    assert triplets.is_triplet_target('[\n  {"predicate"')
    assert triplets.is_triplet_target(" [ ]")
    assert not triplets.is_triplet_target("正面")
    assert not triplets.is_triplet_target('["人物"]')


# ---- memory, device


def test_memory_of_this_process() -> None:
    before = memory.read_memory(torch.device("cpu"))
    block = torch.ones(64 * 2**20)  # 256 MiB
    reading = memory.read_memory(torch.device("cpu"))
    del block
    assert reading.allocated - before.allocated > 200 * 2**20
    assert reading.peak >= reading.allocated
    assert reading.total > reading.allocated
    assert "进程内存" in reading.describe()
    assert reading.brief().startswith("内存 ")
    assert memory.MemoryReading(2**30, 2 * 2**30, 3 * 2**30, 20 * 2**30, True).describe() == (
        "显存 已分配 1.00 已保留 2.00 峰值 3.00 共 20.0 GB"
    )


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/pod/job\n", {"pod/job": ("max", "5"), "pod": ("900", "500"), "": ("", "")}, [900 - 500 + 70]),
        ("0::/seen/from/outside\n", {"": ("1000", "300")}, [770]),
        ("4:cpu,memory:/a\n0::/\n", {"memory": ("800", "100"), "memory/a": ("400", "900")}, [770, 0]),
        ("0::/\n", {}, []),
    ],
)  # fmt: skip
def test_what_a_container_leaves(
    tmp_path: Path, membership: str, files: dict[str, tuple[str, str]], expected: list[int]
) -> None:
    (tmp_path / "membership").write_text(membership)
    for group, (limit, used) in files.items():
        folder = tmp_path / group
        folder.mkdir(parents=True, exist_ok=True)
        first_version = group.startswith("memory")
        (folder / ("memory.limit_in_bytes" if first_version else "memory.max")).write_text(limit + "\n")
        (folder / ("memory.usage_in_bytes" if first_version else "memory.current")).write_text(used + "\n")
        (folder / "memory.stat").write_text("anon 9\ninactive_file 60\nactive_file 10\n")
    assert memory._free_in_cgroups(tmp_path, tmp_path / "membership") == expected
    assert memory._free_in_cgroups(tmp_path, tmp_path / "missing") == []


def test_the_budget_is_what_the_container_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_free_in_cgroups", lambda: [3 * 2**20, 2**20])
    assert memory.memory_budget(torch.device("cpu"), 20) == 2**20


def test_a_stderr_that_is_gone_ends_nothing(root: Path) -> None:
    code = "import os; os.close(2); from utils.common_utils import log; log('x'); print('alive')"
    result = subprocess.run([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, check=True)
    assert result.stdout == b"alive\n"


@pytest.mark.parametrize(
    ("native", "fp16", "bf16", "dtype", "said"),
    [
        (True, True, False, torch.bfloat16, "已自动改用 BF16"),
        (True, False, True, torch.bfloat16, "BF16"),
        (True, False, False, torch.float32, "FP32"),
        (False, True, False, torch.float32, "FP32（这个 CPU 没有 BF16 乘法指令"),
        (False, False, True, torch.float32, "FP32（这个 CPU 没有 BF16 乘法指令"),
        (False, False, False, torch.float32, "FP32"),
    ],
)
def test_precision_on_the_cpu(
    native: bool, fp16: bool, bf16: bool, dtype: torch.dtype, said: str, capsys, monkeypatch
) -> None:
    from accelerate.state import AcceleratorState

    monkeypatch.setattr(device, "multiplies_bf16", lambda: native)
    try:
        assert weight_dtype(make_accelerator("cpu", fp16=fp16, bf16=bf16)) == dtype
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert said in capsys.readouterr().err


def test_a_device_that_is_not_there() -> None:
    check_device(None)
    check_device("cpu")
    with pytest.raises(UserError, match="--device cuda:99"):
        check_device("cuda:99")
    for name in ("gpu", "cuda:", "cuda0"):
        with pytest.raises(UserError, match="--device 应当写成 cpu、cuda 或 cuda:1 这样"):
            check_device(name)
