#!/usr/bin/env bash
# Make .venv from the pinned requirements. A second run installs nothing.
# CUDA is chosen where nvidia-smi answers; FLAVOUR=cpu or FLAVOUR=cuda overrides that. FLAVOUR=evals-only
# makes a light one without torch: sweeps over served models.
set -euo pipefail
cd "$(dirname "$0")/.."

flavour=${FLAVOUR:-$(command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)}
extras=("$@")                                   # further files of requirements/, such as real
files=("requirements/$flavour.txt" requirements/dev.txt requirements/4bit.txt)
[ "$flavour" != evals-only ] || files=(requirements/evals-only.txt)
for extra in "${extras[@]}"; do files+=("requirements/$extra.txt"); done
# Packages that must not lie among the others: generic names, or another Python declared.
oracle=requirements/dev-separate.txt                # for one test alone, which is skipped without
separate=(); for extra in "${extras[@]}"; do [ ! -e "requirements/$extra-separate.txt" ] || separate+=("requirements/$extra-separate.txt"); done
stamp=.venv/.installed-$(cat "${files[@]}" "${separate[@]}" "$oracle" pyproject.toml | sha256sum | cut -c1-16)
[ -e "$stamp" ] && exit 0

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || { echo "error: $python not found; install Python 3.11 or set PYTHON" >&2; exit 2; }
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check)

# uv installs the same pinned files about eight times faster. It reads none of pip's configuration,
# so it is handed the indexes that pip is configured with. It copies: NLTK refuses data that is a hard
# link. Without uv, pip does the work.
uv=$(command -v uv || echo .venv/bin/uv)
[ -x "$uv" ] || "${pip[@]}" install -qq "$(grep -h '^uv==' requirements/dev.txt)" 2>/dev/null || true
if [ -x "$uv" ]; then
  install=("$uv" pip install --python .venv/bin/python -q --link-mode copy --index-strategy unsafe-best-match)
  for key in index-url extra-index-url find-links; do
    for value in $("${pip[@]}" config get "global.$key" 2>/dev/null); do install+=("--$key" "$value"); done
  done
else
  install=("${pip[@]}" install -qq)
fi

echo "setup: installing ${files[*]} into .venv (a few minutes at most)"
if [ "$flavour" != evals-only ] && ! .venv/bin/python -c 'import torch' 2>/dev/null; then
  torch=$(grep -h '^torch==' "requirements/$flavour.txt")
  # The plain index has a CPU build only on some mirrors; PyTorch's own index always has it.
  if [ "$flavour" = cuda ]; then                # with its nvidia-* libraries; never run by us
    "${install[@]}" "$torch" --index-url https://download.pytorch.org/whl/cu130
  else
    "${install[@]}" --no-deps "$torch" 2>/dev/null || "${install[@]}" --no-deps "$torch" --index-url https://download.pytorch.org/whl/cpu
  fi
fi
"${install[@]}" --no-deps setuptools==80.9.0 wheel==0.45.1
# DeepSpeed ships as source; it builds no operator here (they are compiled on first use).
[ "$flavour" = evals-only ] || DS_BUILD_OPS=0 "${install[@]}" --no-deps --no-build-isolation "$(grep -h '^deepspeed==' "requirements/$flavour.txt")"
args=(); for file in "${files[@]}"; do args+=(-r "$file"); done
"${install[@]}" --no-deps "${args[@]}"
for file in "${separate[@]}"; do "${pip[@]}" install -qq --no-deps --ignore-requires-python --upgrade --target .venv/evals-data -r "$file"; done
[ "$flavour" = evals-only ] || "${pip[@]}" install -qq --no-deps --upgrade --target .venv/dev-separate -r "$oracle" 2>/dev/null || true
"${install[@]}" --no-deps --no-build-isolation -e .
whole='import torch, transformers, vllm, trl, ray'
[ "$flavour" != evals-only ] || whole='import openai, pydantic, math_verify'
.venv/bin/python -c "$whole" 2>/dev/null || .venv/bin/python -c "$whole"
touch "$stamp"
