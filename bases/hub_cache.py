"""A model given by path or by hub name: its directory on this machine, without asking the network."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from bases.interface import CheckpointError
from utils.common_utils import find_bundled


def resolve_model_dir(pre_model: str | os.PathLike[str]) -> Path:
    """Return the directory of a model given by path or by hub name (from the local hub cache only).

    What comes with the project is found from any folder.

    Raises:
        CheckpointError: neither exists on this machine; the message says how to get the model.
    """
    path = Path(find_bundled(str(pre_model)))
    try:
        if path.is_dir():
            return path
    except OSError as error:
        shown = str(path) if len(str(path)) <= 60 else str(path)[:60] + "…"
        raise CheckpointError(f"模型路径 {shown} 不能用（{error.strerror}），请检查路径和权限。") from error
    try:
        return Path(snapshot_download(str(pre_model), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError) as error:
        raise CheckpointError(
            f"找不到模型“{pre_model}”：它不是本机目录，也不在 Hugging Face 缓存里。"
            "请先下载（例如 hf download THUDM/chatglm-6b --local-dir chatglm-6b），"
            "再用 --pre_model 指定该目录；没有权重时可用内置小模型试跑：--pre_model models/chatglm-tiny。"
        ) from error
