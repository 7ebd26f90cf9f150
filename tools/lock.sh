#!/usr/bin/env bash
# Write the lock files: every package that requirements*.txt bring along, with version and hashes.
#
#   tools/lock.sh [FOLDER]     (needs uv; FOLDER holds torch's CPU wheel where its index can't be reached)
#
# requirements-cuda.lock   Linux x86-64, Python 3.11: PyTorch with CUDA, as the package index has it
# requirements-cpu.lock    the same with PyTorch for the CPU
# requirements-serve.lock  what requirements-serve.txt adds to either
# requirements-dev.lock    what requirements-dev.txt adds to either
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cpu_index=https://download.pytorch.org/whl/cpu
options=(--generate-hashes --no-config --no-annotate --quiet --python-version 3.11
    --python-platform x86_64-manylinux_2_28 --custom-compile-command tools/lock.sh)
if [ $# -gt 0 ]; then from=(--find-links "$1"); else from=(--extra-index-url "$cpu_index"); fi
all=$(mktemp)
trap 'rm -f "$all"' EXIT

uv pip compile requirements.txt "${options[@]}" -o requirements-cuda.lock
{ cat requirements.txt; echo "torch==$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' requirements.txt)+cpu"; } |
    uv pip compile - "${options[@]}" "${from[@]}" -o requirements-cpu.lock
sed -i "/^ *# *tools/a --extra-index-url $cpu_index" requirements-cpu.lock

# Packages of these sets that the other two don't have.
for kind in serve dev; do
    cat requirements.txt "requirements-$kind.txt" | uv pip compile - "${options[@]}" -c requirements-cuda.lock -o "$all"
    awk 'NR == FNR { if (/^[a-z0-9]/) { split($1, part, "=="); seen[part[1]] = 1 } next }
         /^[a-z0-9]/ { split($1, part, "=="); skip = part[1] in seen }
         !skip' requirements-cuda.lock "$all" >"requirements-$kind.lock"
done
