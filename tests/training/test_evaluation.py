"""Losses by target token."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training import evaluation


def test_target_count_leaves_the_first_position_out() -> None:
    assert evaluation.target_count(torch.tensor([[7, -100, 8], [-100, 9, 10]])) == 3


def test_a_batch_that_memory_has_no_room_for_is_halved(capsys: pytest.CaptureFixture[str]) -> None:
    """The sum of the losses stays what it is."""
    labels = torch.tensor([[0, 1, -100], [0, 2, 3], [0, -100, -100], [0, 4, 5], [0, 6, 7]])
    sizes: list[int] = []
    room = 5

    def model(input_ids: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > room:
            raise torch.OutOfMemoryError
        wanted = labels[:, 1:][labels[:, 1:] >= 0].float()
        return SimpleNamespace(loss=wanted.mean() if len(wanted) else torch.zeros(()))

    batch = {"input_ids": torch.zeros(5, 3), "labels": labels}
    for rows, expected in ((5, [5]), (2, [5, 3, 2, 1, 2])):
        room = rows
        sizes.clear()
        assert evaluation._loss_of(model, batch) == pytest.approx(28)
        assert sizes == expected
    assert "评估时显存不足：一批 5 条分成两半。" in capsys.readouterr().err
    room = 0
    with pytest.raises(torch.OutOfMemoryError):
        evaluation._loss_of(model, batch)
