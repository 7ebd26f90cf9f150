"""The small shared subjects: console, prompt, triplet notation, schedule, memory, metrics, interrupts."""

from __future__ import annotations

import json
import math
import resource
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from bases.chatglm import ChatGLMTokenizer
from task import prompt, triplets
from task.triplets import Triplet, format_target, parse_target
from training import evaluation, schedule
from training import log as metrics_log
from training import stop as interrupt
from training.run_directory import lock_directory
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


# ---- schedule, loss, memory, metrics, interrupts, device


def test_learning_rate_by_hand() -> None:
    rates = [schedule.learning_rate_at(step, 10, 1.0, 0.2) for step in range(11)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5)
    assert rates[10] == pytest.approx(0.0)
    assert schedule.learning_rate_at(0, 1, 1.0, 0.0) == 1.0


def test_groups() -> None:
    assert list(schedule.in_groups(range(5), 2)) == [[0, 1], [2, 3], [4]]


def test_target_count_leaves_the_first_position_out() -> None:
    assert evaluation.target_count(torch.tensor([[7, -100, 8], [-100, 9, 10]])) == 3


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


def test_metrics_go_to_both_files(tmp_path: Path) -> None:
    log = metrics_log.MetricsLog(tmp_path / "run", tensorboard=True)
    log.write("train", 3, {"loss": 0.5, "note": "x", "flag": True})
    log.write("train", 3, {"grad_norm": 2.0})
    log.write("eval", 3, {"dev_loss": 0.25})
    log.close()
    record, *_ = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(record) == {"kind": "train", "step": 3, "loss": 0.5, "note": "x", "flag": True}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    # What is looked at first sorts before the rest.
    assert sorted(events.Tags()["scalars"]) == ["1_主要/dev_loss", "1_主要/loss", "2_训练/grad_norm"]
    assert [(event.step, event.value) for event in events.Scalars("1_主要/loss")] == [(3, 0.5)]


def test_metrics_stay_json(tmp_path: Path) -> None:
    log = metrics_log.MetricsLog(tmp_path, tensorboard=False)
    log.write("train", 1, {"loss": math.nan, "grad_norm": math.inf, "n": 1})
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None


def test_a_full_disk_costs_a_record_and_not_the_run(tmp_path: Path, capsys) -> None:
    path = tmp_path / "metrics.jsonl"
    log = metrics_log.MetricsLog(tmp_path, tensorboard=False)
    log.write("train", 1, {"loss": 1.0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        log.write("train", 2, {"loss": 2.0})  # ten bytes of it fit
        log.write("train", 3, {"loss": 3.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.write("train", 4, {"loss": 4.0})
    log.close()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 4]
    assert capsys.readouterr().err.count("少了一条记录；训练继续") == 2


def test_no_directory_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = metrics_log.MetricsLog(None, tensorboard=True)
    log.write("train", 1, {"loss": 1.0})
    log.close()
    assert not list(tmp_path.iterdir())


def test_records_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    log = metrics_log.MetricsLog(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": float(step)})
    log.write("final", 2, {})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a kill in the middle of a line
    log = metrics_log.MetricsLog(tmp_path, tensorboard=False, after_step=2)
    log.write("train", 3, {"loss": 3.5})
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.0, 2.0, 3.5]


def test_the_meter_measures() -> None:
    meter = metrics_log.Meter(total_steps=10)
    assert meter.tokens_per_second() == 0
    meter.add(50)
    assert meter.tokens_per_second() > 0
    meter.restart()
    assert meter.tokens_per_second() == 0
    meter._seconds_per_step = 3.0  # the last speed is remembered over a restart
    assert meter.time_left(8) == "0:00:06"


def test_two_runs_in_one_directory(root: Path, tmp_path: Path) -> None:
    """The second is refused while the first lives; a kill leaves no lock behind."""
    code = (
        "import sys, time; from pathlib import Path; from training.run_directory import lock_directory\n"
        "with lock_directory(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=root, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(UserError, match="另一个训练正在使用"), lock_directory(tmp_path):
        pass
    process.kill()
    process.wait()
    with lock_directory(tmp_path):
        pass
    with lock_directory(tmp_path):
        pass


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="不可写"), lock_directory(tmp_path / "file" / "run"):
        pass


def test_a_stderr_that_is_gone_ends_nothing(root: Path) -> None:
    code = "import os; os.close(2); from utils.common_utils import log; log('x'); print('alive')"
    result = subprocess.run([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, check=True)
    assert result.stdout == b"alive\n"


def test_signals_that_are_ignored_stay_so(root: Path) -> None:
    """nohup ignores SIGHUP; a closed terminal must then not stop the run."""
    code = (
        "import signal; from training.stop import StopRequest\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); stop = StopRequest(None)\n"
        "signal.raise_signal(signal.SIGHUP); print(stop.signal)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); stop = StopRequest(None)\n"
        "signal.raise_signal(signal.SIGHUP); print(int(stop.signal))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["None", str(int(signal.SIGHUP))]


def test_the_first_signal_is_a_wish_the_second_an_order(capsys) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        stop = interrupt.StopRequest("马上停。")
        assert stop.signal is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        assert stop.exit_code == 143
        assert "马上停。" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


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
