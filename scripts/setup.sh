#!/usr/bin/env bash
# Make .venv from the pinned requirements. A second run installs nothing.
# CUDA is chosen where nvidia-smi answers; FLAVOUR=cpu or FLAVOUR=cuda overrides that.
set -euo pipefail
cd "$(dirname "$0")/.."

flavour=${FLAVOUR:-$(command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)}
extras=("$@")                                   # further files of requirements/, such as real
files=("requirements/$flavour.txt" requirements/dev.txt)
for extra in "${extras[@]}"; do files+=("requirements/$extra.txt"); done
# Packages that must not lie among the others: generic names, or another Python declared.
apart=(); for extra in "${extras[@]}"; do [ ! -e "requirements/$extra-apart.txt" ] || apart+=("requirements/$extra-apart.txt"); done
stamp=.venv/.installed-$(cat "${files[@]}" "${apart[@]}" | sha256sum | cut -c1-16)
[ -e "$stamp" ] && exit 0

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || { echo "error: $python not found; install Python 3.11 or set PYTHON" >&2; exit 2; }
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip install --disable-pip-version-check --no-deps -qq)

echo "setup: installing ${files[*]} into .venv (a few minutes)"
if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
  torch=$(grep -h '^torch==' "requirements/$flavour.txt")
  # The plain index has a CPU build only on some mirrors; PyTorch's own index always has it.
  if [ "$flavour" = cuda ]; then                # with its nvidia-* libraries; never run by us
    .venv/bin/python -m pip install --disable-pip-version-check -qq "$torch" --index-url https://download.pytorch.org/whl/cu130
  else
    "${pip[@]}" "$torch" 2>/dev/null || "${pip[@]}" "$torch" --index-url https://download.pytorch.org/whl/cpu
  fi
fi
"${pip[@]}" setuptools==80.9.0 wheel==0.45.1
# DeepSpeed ships as source; it builds no operator here (they are compiled on first use).
DS_BUILD_OPS=0 "${pip[@]}" --no-build-isolation $(grep -h '^deepspeed==' "requirements/$flavour.txt")
args=(); for file in "${files[@]}"; do args+=(-r "$file"); done
"${pip[@]}" "${args[@]}"
for file in "${apart[@]}"; do "${pip[@]}" --ignore-requires-python --upgrade --target .venv/evals-data -r "$file"; done
.venv/bin/python -c 'import torch, transformers, vllm, trl, ray' 2>/dev/null || .venv/bin/python -c 'import torch, transformers, vllm, trl, ray'
touch "$stamp"
