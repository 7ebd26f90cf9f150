"""What can go wrong during a run, in words that say what to do about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from utils.common_utils import UserError

OUT_OF_MEMORY_ADVICE = """显存（内存）不足，可以依次尝试：
  1. 调小预算，让每次前向少算一些：--vram_budget_gb 比现在小几 GB
  2. 减少序列长度：--max_source_seq_len 200 --max_target_seq_len 100
  3. 评估时显存不足：--eval_batch_size 1
  4. 确认 --load_in_4bit、--fp16 是 true，--gradient_checkpointing 是 auto 或 true
已保存的检查点不受影响：只改第 1、3 项，可加 --resume_from_checkpoint auto 继续；
改了序列长度或 load_in_4bit，要重新训练（--overwrite_output_dir true，或换 --save_dir）。"""


@contextlib.contextmanager
def failures_explained() -> Iterator[None]:
    """Turn failures that a user can do something about into a `UserError` that says what."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(OUT_OF_MEMORY_ADVICE) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # on the CPU
            raise UserError(OUT_OF_MEMORY_ADVICE) from error
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            "数据加载的工作进程被系统终止了（多半是内存不足）；请加上 --dataloader_num_workers 0，"
            "有检查点时再加 --resume_from_checkpoint auto 接着训练。"
        ) from error
