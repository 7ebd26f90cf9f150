"""The small files of a model's directory, of whatever family, made sure of before they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bases.interface import CheckpointError
from utils.directories import leads_outside
from utils.small_json import read_json_object

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def checked_file(model_dir: Path, name: str) -> Path:
    """Return a file of a model directory, made sure that it really lies there.

    (Files of the hub's cache are links to its `blobs` folder, two levels up; those are allowed.)

    Raises:
        CheckpointError: the name or a link leads elsewhere.
    """
    if Path(name).name != name or leads_outside(model_dir, name):
        raise CheckpointError(f"模型目录 {model_dir} 里的“{name}”指向目录之外的文件，拒绝加载。")
    return model_dir / name


def read_model_json(model_dir: Path, name: str) -> dict[str, Any]:
    """Read one of a model directory's small JSON files.

    Raises:
        CheckpointError: it is missing or can't be read, leads out of the directory, or holds no JSON object.
    """
    path = checked_file(model_dir, name)
    try:
        return read_json_object(path)
    except OSError as error:
        raise CheckpointError(f"模型目录 {model_dir} 里没有可读的 {name}，请检查下载是否完整。") from error
    except ValueError as error:
        refuse_lfs_pointer(path)
        raise CheckpointError(f"无法使用 {path}：{error}") from error


def refuse_lfs_pointer(path: Path) -> None:
    """Say so if a file is git-lfs' note of where its content is to be had, instead of the content.

    Raises:
        CheckpointError: it is.
    """
    if not path.is_file():  # missing, or a FIFO, which would be waited for
        return
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError:
        return
    if is_pointer:
        raise CheckpointError(
            f"{path} 只是 git-lfs 的指针文件（一百多字节的文本），真正的内容没有下载；请在该目录运行 "
            f"git lfs pull，或用 hf download THUDM/chatglm-6b --local-dir {path.parent} 重新下载。"
        )
