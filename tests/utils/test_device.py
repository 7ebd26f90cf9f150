"""The compute type on a CPU without bf16 instructions, in a process that can do no more than AVX2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from utils import device
from utils.common_utils import UserError
from utils.device import check_device, make_accelerator, weight_dtype

AVX2_ONLY = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
# A training step of a real 4-bit base and its LoRA, in the type chosen and in fp32, in turn.
STEP = """
import json, sys, time
import torch
from bases.adapter import attach_lora
from bases.chatglm import load_base_model
from utils.device import choose_precision, compute_dtype

def seconds(dtype):
    base, tokenizer = load_base_model("models/chatglm-tiny", dtype=dtype, device="cpu")
    model = attach_lora(base, rank=8, alpha=32, dropout=0.0, target_modules=["query_key_value"]).train()
    ids = torch.arange(1000, 1128)[None]
    ids[0, 63], ids[0, 64] = tokenizer.gmask_token_id, tokenizer.bos_token_id
    times = []
    for _ in range(4):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype.itemsize == 2):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        times.append(time.perf_counter() - start)
    return min(times[1:])

chosen = compute_dtype("cpu")
print(json.dumps([str(chosen), choose_precision("cpu", fp16=True, bf16=False).reason,
                  seconds(chosen) / seconds(torch.float32)]))
"""


def test_a_cpu_with_avx2_only_trains_in_fp32_and_loses_nothing(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEP], cwd=root, env=os.environ | AVX2_ONLY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    dtype, reason, ratio = json.loads(done.stdout)
    assert dtype == "torch.float32" and "没有 BF16 乘法指令" in reason
    assert ratio < 2  # bf16 would take 10 to 40 times as long


@pytest.mark.parametrize(("bf16_seconds", "native"), [(1.0, True), (3.0, False)])
def test_without_onednn_a_product_is_timed(
    bf16_seconds: float, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> bool:
        raise RuntimeError("built without oneDNN")

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", refuse, raising=False)
    times = {torch.bfloat16: bf16_seconds, torch.float32: 1.0}
    monkeypatch.setattr(device, "_seconds_of_product", times.__getitem__)
    device.multiplies_bf16.cache_clear()
    try:
        assert device.multiplies_bf16() is native
    finally:
        device.multiplies_bf16.cache_clear()


def test_the_product_is_really_timed() -> None:
    assert 0 < device._seconds_of_product(torch.float32) < 1


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
