"""A model given by path or by hub name: its directory on this machine, without asking the network."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from bases.interface import CheckpointError
from utils.common_utils import find_bundled


def resolve_model_dir(pre_model: str | os.PathLike[str]) -> Path:
    """Return the directory of a model given by path or by hub name (from the hubs' local caches only).

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
    if (found := find_cached(str(pre_model))) is not None:
        return found
    raise CheckpointError(
        f"找不到模型“{pre_model}”：它不是本机目录，也不在 Hugging Face 或 ModelScope 的缓存里。"
        "请先下载（例如 python -m bases.download THUDM/chatglm-6b，连不上时加 --hub modelscope），"
        "再用 --pre_model 指定；没有权重时可用内置小模型试跑：--pre_model models/chatglm-tiny。"
    )


def find_cached(model_id: str) -> Path | None:
    """Return the directory of a model in the cache of either hub; None if it is in neither."""
    try:
        # Only of the config is it asked whether it is there: files that nobody here needs may be missing.
        return Path(snapshot_download(model_id, local_files_only=True, allow_patterns=["config.json"]))
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError):
        pass
    if model_id.count("/") != 1 or ".." in model_id:
        return None
    places = [modelscope_place(model_id), modelscope_cache() / model_id]  # newer and older versions' places
    try:
        return next((place for place in places if (place / "config.json").is_file()), None)
    except (OSError, ValueError):  # no path at all
        return None


def modelscope_cache() -> Path:
    """Return where ModelScope's SDK keeps what it downloads (`MODELSCOPE_CACHE`, or in `~/.cache`)."""
    return Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope/hub").expanduser()


def modelscope_place(model_id: str) -> Path:
    """Return where in that cache a model belongs."""
    owner, _, name = model_id.partition("/")
    return modelscope_cache() / "models" / owner / name.replace(".", "___")
