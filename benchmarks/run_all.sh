#!/usr/bin/env bash
# Every figure of the README, from its command, into benchmarks/results; then its tables.
#
#     benchmarks/run_all.sh DATA [STAGE ...]
#
# DATA is the folder of the evaluation data. Stages, all of them in this order unless some are
# named:
#     methods     every task under every method, rivals at their best strengths
#     experts     the ways to choose among experts
#     frameworks  questions through LangChain and LlamaIndex, in their own environments
#     vllm        the embedded model in vLLM: answers as the core's, and throughput
#     engine      throughput of the engine, and how long starting takes
#     learning    what a bank depends on: 141 banks
#     gpu         what methods cost at the shapes of an 8B model: needs a CUDA device
#     tables      the tables and pictures of the README
# DEVICE=cuda runs the models there. What has its results already is done again. How the embedded
# model and its experts came about, with their own figures, is told in mini/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=$(realpath "${1:?usage: benchmarks/run_all.sh DATA [STAGE ...]}")
shift
PYTHON=${PYTHON:-.venv/bin/python}
DEVICE=${DEVICE:-}
OUT=benchmarks/results

methods() {
  $PYTHON benchmarks/methods.py --data "$DATA" --out $OUT ${DEVICE:+--device "$DEVICE" --jobs 8}
}

experts() {
  $PYTHON benchmarks/experts.py --data "$DATA" --cases 100 --json $OUT/experts-train.json
  $PYTHON benchmarks/experts.py --data "$DATA" --families 24 --json $OUT/experts-families.json
}

frameworks() {
  make --quiet .venv-langchain/.ready .venv-llama-index/.ready
  .venv-langchain/bin/python integrations/langchain-seka/tests/rag.py \
    --json $OUT/rag-langchain.json
  .venv-llama-index/bin/python integrations/llama-index-llms-seka/tests/rag.py \
    --json $OUT/rag-llama-index.json
}

vllm() {
  make --quiet .venv-vllm/.ready
  .venv-vllm/bin/python integrations/vllm-seka/tests/served.py --data "$DATA" \
    --json $OUT/vllm-served.json
}

engine() {
  $PYTHON benchmarks/engine.py --json $OUT/engine.json
  $PYTHON benchmarks/start_up.py
}

learning() {
  $PYTHON benchmarks/learning_study.py --data "$DATA" --json $OUT/learning_study.json
}

gpu() {
  if ! $PYTHON -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "stage gpu LEFT OUT: there is no CUDA device" >&2
    return
  fi
  bench() { $PYTHON -m seka_rag bench --shapes qwen3-8b --device cuda "$@"; }
  local rivals=pasta:all,spotlight,spa,cad
  bench --methods none,seka:e0,seka,$rivals --new 16 --json $OUT/bench-methods.json
  bench --methods none,seka:e0,seka,pasta:all,spa,cad --rows 8 --new 8 --rounds 7 \
    --json $OUT/bench-methods-8.json
  bench --methods none,seka:e0,seka --new 0 --rounds 7 --tokens 1000,4000,16000,32000 \
    --json $OUT/bench-growth-1.json
  bench --methods none,seka:e0,seka --new 0 --rounds 5 --rows 4,16 --tokens 1000,4000 \
    --json $OUT/bench-growth-b.json
  if $PYTHON -c 'import flash_attn' 2>/dev/null; then
    bench --attention flash_attention_2 --methods none,seka:e0,seka --new 8 \
      --json $OUT/bench-flash.json
  else
    echo "flash-attn is not installed: LEFT OUT" >&2
  fi
  $PYTHON benchmarks/learning_speed.py --json $OUT/learning_speed.json
  $PYTHON benchmarks/prefill.py --json $OUT/prefill.json
  $PYTHON benchmarks/decoding.py --json $OUT/decoding.json
}

tables() {
  # Commands in the results name the data as DATA, wherever they are.
  sed -i "s#$DATA#DATA#g" $OUT/*.json
  $PYTHON benchmarks/draw_growth.py
  $PYTHON benchmarks/draw_harm.py
  $PYTHON docs/readme.py
}

for stage in "${@:-methods experts frameworks vllm engine learning gpu tables}"; do
  for each in $stage; do
    echo "== $each" >&2
    $each
  done
done
