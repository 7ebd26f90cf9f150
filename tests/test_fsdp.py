"""FSDP, which would split the weights over processes: refused before anything is loaded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import train
from glm_config import ProjectConfig
from utils.common_utils import UserError


def test_fsdp_is_refused() -> None:
    with pytest.raises(UserError, match="还不支持用 FSDP 训练"):
        train.load_model(ProjectConfig(), SimpleNamespace(distributed_type="FSDP"))
