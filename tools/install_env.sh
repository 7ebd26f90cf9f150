#!/usr/bin/env bash
# Make the virtual environment and install a requirements file into it; does nothing where that is done already.
#
#   tools/install_env.sh requirements.txt
#
# Environment: VENV (folder), PYTHON (the interpreter that makes it), PIP_ARGS (further words for pip install),
# LOCK (cpu or cuda: install exactly what requirements-cpu.lock or -cuda.lock lists, hashes checked), CI (quiet).
set -euo pipefail

requirements=$1
venv=${VENV:-.venv}
python=${PYTHON:-python3}
pip=("$venv/bin/python" -m pip)
lock=${LOCK:-}
stamp="$venv/.installed-$requirements"
wanted=$(cat requirements*.txt ${lock:+requirements*.lock} | cksum)

fail() {
    echo "错误：$1" >&2
    exit 1
}

make_environment() {
    command -v "$python" >/dev/null ||
        fail "找不到 $python，请安装 Python 3.11 或更高版本，或用 make PYTHON=解释器路径 指定。"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version 2>&1) 太旧，需要 Python 3.11 或更高版本，请用 make PYTHON=解释器路径 指定。"
    if [ -n "$(ls -A "$venv" 2>/dev/null)" ] && ! [ -f "$venv/pyvenv.cfg" ]; then
        fail "$venv 已经存在，而且不是虚拟环境，不会动它；请用 VENV=目录 另指一处。"
    fi
    echo "创建虚拟环境 $venv" >&2
    "$python" -m venv --clear "$venv" ||
        fail "建不了虚拟环境，请检查目录权限；Debian/Ubuntu 还需要 apt install python3-venv。"
}

[ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && [ -x "$venv/bin/python" ] && exit 0
"${pip[@]}" --version >/dev/null 2>&1 || make_environment

words=(-r "$requirements")
if [ -n "$lock" ]; then
    [ -f "requirements-$lock.lock" ] || fail "LOCK 应为 cpu 或 cuda，现在是 $lock。"
    words=(--require-hashes -r "requirements-$lock.lock")
    [ "$requirements" = requirements.txt ] || words+=(-r "${requirements%.txt}.lock")
fi

echo "安装 $requirements（首次需要几分钟）" >&2
quiet=()
[ -z "${CI:-}" ] && ! compgen -G "$venv/.installed-*" >/dev/null || quiet=(--quiet)
# shellcheck disable=SC2086  # PIP_ARGS are words
"${pip[@]}" install "${quiet[@]}" --disable-pip-version-check ${PIP_ARGS:-} "${words[@]}" >&2 ||
    fail "软件包没有装好，请检查网络后重试，或用 PIP_ARGS 指定镜像。"
echo "$wanted" >"$stamp"
