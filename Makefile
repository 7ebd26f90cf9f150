# 一条命令看全流程：make demo；测试：make test；代码检查：make lint；可靠性长测：make soak；测速：make bench
#
# 可改的变量：PYTHON（建环境用的解释器）、VENV（环境目录）、PIP_ARGS（传给 pip install 的参数，例如换镜像）、
# LOCK（cpu 或 cuda：按锁定文件安装并核对哈希，只适用于 x86-64 Linux 上的 Python 3.11）、
# ARGS（传给 pytest 的参数，例如 ARGS="-k config"）、BENCH（传给训练测速的参数，例如 BENCH="--model block"）。

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BENCH ?= --model tiny
ARGS ?=
PY := "$(VENV)/bin/python"

export PYTHON VENV PIP_ARGS LOCK
export PYTHONUTF8 = 1
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false
# 线程等待时让出 CPU：机器上还有别的程序在跑时，忙等会慢上好几倍
export OMP_WAIT_POLICY = PASSIVE

SENTENCE := 《娘家的故事第二部》是张玲执导，林在培、何赛飞等主演的电视剧。

.DEFAULT_GOAL := help
.PHONY: help demo test lint soak bench audit env env-dev

help:
	@echo "make demo   微调内置小模型（没有 GPU 就用 CPU），并抽取一句话里的三元组"
	@echo "make test   运行全部测试"
	@echo "make lint   检查代码风格与类型"
	@echo "make soak   长时间的可靠性测试：反复杀死训练、损坏检查点、敌意文件、模糊输入、约束下的抽取"
	@echo "make audit  在公开的漏洞库里查 requirements-cuda.lock 列出的软件包（要联网）"
	@echo "make bench  测量训练的速度与内存、分词缓存、抽取的速度（抽取用 make demo 得到的适配器）、图的导出"

# 建好环境，装好软件包；内容没变就什么也不做
env:
	@tools/install_env.sh requirements.txt

env-dev:
	@tools/install_env.sh requirements-dev.txt

# 演示的训练设置：2 核 CPU 上几分钟训完
DEMO := --pre_model models/chatglm-tiny --save_dir output/demo --overwrite_output_dir \
	--epochs 5 --learning_rate 2e-3 --lora_rank 32 --lora_alpha 64 --lora_dropout 0 \
	--lora_target_modules query_key_value dense dense_h_to_4h dense_4h_to_h \
	--eval_steps 0 --eval_samples 131 --eval_batch_size 32 --logging_steps 20

demo: env
	@set -euo pipefail; started=$$(date +%s); \
	$(PY) train.py $(DEMO); \
	$(PY) inference_triplet.py --adapter output/demo/model_best --text "$(SENTENCE)"; \
	$(PY) -m export.report output/demo/eval_results.jsonl -o output/demo/report.html; \
	echo "演示完成，用时 $$(( $$(date +%s) - started )) 秒（不含安装）；适配器在 output/demo/model_best，报告是 output/demo/report.html" >&2

# 几个进程分着跑；要用 pdb 或看输出，加 ARGS="-n 0 …"
test: env-dev
	$(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

soak: env-dev
	$(PY) -m pytest -m soak tests $(ARGS)

bench: env-dev
	$(PY) -m benchmarks.bench_training $(BENCH)
	$(PY) -m benchmarks.bench_memory $(BENCH)
	$(PY) -m benchmarks.bench_data
	$(PY) -m benchmarks.bench_inference
	$(PY) -m benchmarks.bench_serving
	$(PY) -m benchmarks.bench_graph --triplets 100000 --formats csv neo4j-csv cypher rdf graphml jsonld

audit:
	@tools/audit.sh

lint: env-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
