#!/usr/bin/env bash
# The training of paddle_e3d_lstm_kth_train.sh on several GPUs, or on several machines. Stopped or killed, the same
# command goes on where it was.
#
#   bash scripts/paddle_e3d_lstm_kth_train_multi_gpu.sh [DATA [SAVE_DIR [PRETRAINED_MODEL]]] [more flags of runp.py]
#
# Environment variables, beside those of that script:
#   GPUS       cards of this machine (0,1,2,3)
#   PROCESSES  on a machine without GPUs: processes to start, in place of GPUS
#   LAUNCH     more flags of python -m paddle.distributed.launch, as "--master 10.0.0.1:6170 --nnodes 2 --rank 0"
#   LAUNCH_LOG where the launcher writes what each process says (logs/launch)
#
# --batch_size is that of one card. By default the cards of this machine share the 4 clips an iteration that the
# schedule is meant for; five cards and more take one each.
set -euo pipefail
SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
GPUS="${GPUS:-0,1,2,3}"
cards="${GPUS//[^,]/}"
count="${PROCESSES:-$((${#cards} + 1))}"
batch=$((count < 4 ? 4 / count : 1))
if [ -n "${PROCESSES:-}" ]; then
  devices=(--nproc_per_node "$PROCESSES")
else
  devices=(--gpus "$GPUS")
fi

paths=()
while [ $# -gt 0 ] && [[ "$1" != --* ]]; do
  paths+=("$1")
  shift
done
export E3D_LAUNCHER="-m paddle.distributed.launch ${devices[*]} --log_dir ${LAUNCH_LOG:-logs/launch} ${LAUNCH:-}"
exec bash "$SCRIPTS/paddle_e3d_lstm_kth_train.sh" "${paths[@]}" --batch_size "$batch" "$@"
