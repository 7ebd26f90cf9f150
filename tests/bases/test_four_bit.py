"""Machines that can't compute in 4-bit load their weights as they are, and say so once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from bases import four_bit


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    four_bit.why_no_4bit.cache_clear()
    yield
    four_bit.why_no_4bit.cache_clear()


def test_this_machine_can(capsys: pytest.CaptureFixture[str]) -> None:
    assert four_bit.choose_4bit(True, torch.device("cpu"))
    assert not four_bit.choose_4bit(False, "cpu")
    assert capsys.readouterr().err == ""


def test_missing_kernels_cost_4_bit_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bitsandbytes

    def refuse(*args: object, **kwargs: object) -> None:
        raise NotImplementedError("no kernel for this device\nmore")

    monkeypatch.setattr(bitsandbytes, "matmul_4bit", refuse)
    assert not four_bit.choose_4bit(True, "cpu")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "做不了 4-bit 量化（NotImplementedError: no kernel for this device）" in said


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ImportError("no bitsandbytes for this platform")

    monkeypatch.setattr(four_bit, "import_bitsandbytes", refuse)
    assert "no bitsandbytes" in str(four_bit.why_no_4bit("cpu"))
