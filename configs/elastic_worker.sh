#!/usr/bin/env bash
# 弹性训练的一个工作进程：torchrun 在每次（重新）开始时运行它，进程数可能与上次不同。
# 累积步数按这次的进程数算，每步的样本数不变，所以检查点总能接着用；没有检查点就从头开始。
#
# 在每台机器上各运行一次（10.0.0.1 是其中任何一台；先到的等后到的，少了的那台回来会再加入）：
#
#   SAMPLES_PER_STEP=24 torchrun --nnodes 1:4 --nproc-per-node 1 --max-restarts 20 \
#       --rdzv-backend c10d --rdzv-id triplet --rdzv-endpoint 10.0.0.1:29500 \
#       --no-python bash configs/elastic_worker.sh --save_dir /shared/output/run
#
# SAMPLES_PER_STEP 要能被每种进程数 × BATCH_SIZE 整除：24 适合 1、2、3、4 个进程。
# 代码、模型、数据各台机器都要有；--save_dir 要在共享的磁盘上。--save_freq 是丢失的步数的上限。
set -euo pipefail
samples=${SAMPLES_PER_STEP:-24}
batch=${BATCH_SIZE:-1}
together=$((batch * ${WORLD_SIZE:-1}))
if ((samples % together)); then
    echo "错误：SAMPLES_PER_STEP=$samples 不能被 BATCH_SIZE=$batch × 进程数 ${WORLD_SIZE:-1} 整除。" >&2
    exit 2
fi
exec "${PYTHON:-python}" train.py --batch_size "$batch" --gradient_accumulation_steps $((samples / together)) \
    --resume_from_checkpoint auto "$@"
