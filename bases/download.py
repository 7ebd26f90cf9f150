"""Download a model from Hugging Face or ModelScope: only when asked, only what is used here, and verified.

Usage: python -m bases.download THUDM/chatglm-6b --output chatglm-6b
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from pathlib import Path

from bases.hubs import HUBS, Hub, RemoteFile, check_id
from bases.published_files import choose_files, has_weights, is_wanted
from utils.command_line import ChineseArgumentParser
from utils.common_utils import UserError, log, run_main
from utils.directories import check_is_free, leads_outside, real_path, remove
from utils.progress import Progress

MB = 10**6
RESERVE = 100 * MB  # of free space that is left over


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = ChineseArgumentParser(
        prog="python -m bases.download",
        description="下载模型的权重、配置和分词器（不含代码），逐个核对哈希；中断后重新运行同一命令会接着下载。"
        "镜像用环境变量 HF_ENDPOINT 指定。",
    )
    parser.add_argument("model_id", metavar="编号", help="例如 THUDM/chatglm-6b；魔搭上是 ZhipuAI/ChatGLM-6B")
    parser.add_argument(
        "--hub", choices=tuple(HUBS), default="huggingface", help="从哪里下载；默认 huggingface"
    )
    parser.add_argument(
        "--output", type=Path, help="写到哪个目录；默认放进该站的缓存，之后 --pre_model 写编号就能找到"
    )
    parser.add_argument("--revision", help="分支、标签或提交；默认是主分支")
    return parser


def download(model_id: str, hub: Hub, output: Path | None, revision: str | None = None) -> Path:
    """Download a model; return its directory.

    Args:
        model_id: owner and name.
        hub: where from.
        output: appears when all files are there, whole and verified. None: the hub's own cache, where the
            config, by which a model is found, comes last.
        revision: branch, tag or commit; the main branch when None.

    Raises:
        UserError: the model can't be had, a file is not what the hub says, or the disk is too small.
    """
    log(f"正在查看 {hub.name} 上的 {model_id} …")
    by_name = {file.name: file for file in hub.list_files(model_id, revision)}
    files = [by_name[name] for name in sorted(choose_files(by_name), key=lambda name: name == "config.json")]
    if not has_weights(file.name for file in files):
        raise UserError(f"{model_id} 里没有可用的权重（model.safetensors 或 pytorch_model.bin）。")
    if unnamed := [file.name for file in files if not file.sha256 and not file.blob]:
        log(f"{hub.name} 没有给出 {'、'.join(unnamed[:5])} 的哈希，只能核对大小。")
    place = hub.cache_of(model_id) if output is None else output.with_name(f".{output.name}.download")
    try:
        if output is not None:
            _check_is_ours(place)
        place.mkdir(parents=True, exist_ok=True)
        whole = {file for file in files if _is_whole(file, place / file.name)}
        need = sum(file.size for file in files if file not in whole) + RESERVE
        if (free := shutil.disk_usage(place).free) < need:
            raise UserError(
                f"{place} 所在的磁盘只剩 {free / 1e9:.1f} GB，还要下载 {need / 1e9:.1f} GB，请清理磁盘。"
            )
        last = _fetch_all(model_id, hub, files, whole, place, in_cache=output is None)
        if output is None:
            return last.parent
        keep = {file.name for file in files}
        for path in place.iterdir():  # notes of the hub's library, parts of files that are no longer there
            if path.name not in keep:
                remove(path)
        if output.is_dir():
            output.rmdir()
        return place.rename(output)
    except OSError as error:
        raise UserError(f"没有写成 {output or place}：{error.strerror or error}。") from error


def _fetch_all(
    model_id: str,
    hub: Hub,
    files: list[RemoteFile],
    whole: set[RemoteFile],
    place: Path,
    in_cache: bool,
) -> Path:
    """Bring the files that are missing, one after the other; return where the last one is."""
    total = sum(file.size for file in files)
    arrived = sum(file.size for file in whole)
    shown = arrived // MB
    path = place
    with Progress(total // MB or None, unit="MB", done=shown) as progress:

        def advance(count: int) -> None:
            nonlocal arrived, shown
            arrived += count
            if arrived // MB > shown:
                progress.advance(arrived // MB - shown)
                shown = arrived // MB

        for file in files:
            if file in whole:
                path = place / file.name
                continue
            progress.advance(0, status=file.name)
            before = arrived
            path = hub.fetch(model_id, file, None if in_cache else place, advance)
            advance(before + file.size - arrived)  # what the hub's library did not tell of
            if not file.matches(path):
                _delete(path)
                raise UserError(
                    f"{file.name} 下载之后与 {hub.name} 给出的哈希不符，已删除；请重新运行同一命令，"
                    "如果还是这样，换一个镜像。"
                )
    return path


def _check_is_ours(place: Path) -> None:
    """Make sure that all that is where a download is put together came there by an earlier one.

    Raises:
        UserError: it did not.
    """
    if not os.path.lexists(place):
        return
    foreign = "" if place.is_dir() and not place.is_symlink() else "（不是目录）"
    if not foreign:
        foreign = next((f"（{path.name}）" for path in place.iterdir() if not _is_download(path)), "")
    if foreign:
        raise UserError(f"{place} 里有不是本命令下载的东西{foreign}，不会动它；请移走它，或换一个 --output。")


def _is_download(path: Path) -> bool:
    """Tell whether an earlier run may have left something: by its name, or it is the hub library's folder."""
    name = path.name.removesuffix(".part")
    return name == ".cache" or (is_wanted(name) and not path.is_dir())


def _delete(path: Path) -> None:
    """Delete a file, and what it links to if that is in the same hub's cache."""
    if not leads_outside(path.parent, path.name):
        remove(real_path(path))
    remove(path)


def _is_whole(file: RemoteFile, path: Path) -> bool:
    """Tell whether an earlier run brought a file; what is not as it should be is deleted."""
    if not path.is_file():
        return False
    if file.matches(path):
        return True
    _delete(path)
    return False


def run() -> None:
    """Parse the command line and download; the directory is printed.

    Raises:
        UserError: see `download`; or the place to write to is taken.
    """
    arguments = build_parser().parse_args()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it resumes, and says so in English
    check_id(arguments.model_id)
    output: Path | None = arguments.output
    if output is not None:
        check_is_free(output)
    print(download(arguments.model_id, HUBS[arguments.hub](), output, arguments.revision))


def main() -> None:
    """Run the command; leaves the process with an exit code."""
    run_main(run)


if __name__ == "__main__":
    main()
