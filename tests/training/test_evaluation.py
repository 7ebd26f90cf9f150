"""Losses by target token."""

from __future__ import annotations

import torch

from training import evaluation


def test_target_count_leaves_the_first_position_out() -> None:
    assert evaluation.target_count(torch.tensor([[7, -100, 8], [-100, 9, 10]])) == 3
