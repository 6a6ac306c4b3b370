#!/usr/bin/env bash
# Every figure of the README, from its command, into benchmarks/results.
#
#     benchmarks/run_all.sh DATA [STAGE …]
#
# DATA is the folder of the evaluation data. Stages: tune methods tasks experts frameworks cpu gpu draw,
# all of them in this order unless some are named; `gpu` needs a CUDA device, and without one it is
# left out with a line that says so. With a device, the models run there (SEKA_DEVICE names one).
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=${1:?usage: benchmarks/run_all.sh DATA [STAGE ...]}
shift
STAGES=("$@")
[ ${#STAGES[@]} -gt 0 ] || STAGES=(tune methods tasks experts frameworks cpu gpu draw)
RESULTS=benchmarks/results
PYTHON=${PYTHON:-python}
