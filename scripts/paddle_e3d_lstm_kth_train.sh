#!/usr/bin/env bash
# Train on KTH at the full size: 128 pixels, 10 frames given, 20 predicted, 4 layers of 64; the whole schedule of the
# learning rate. Stopped or killed, the same command goes on where it was. These are the settings of an older Paddle port;
# docs/recipe.md has some that learn sooner.
#
#   bash scripts/paddle_e3d_lstm_kth_train.sh [DATA [SAVE_DIR [PRETRAINED_MODEL]]] [more flags of runp.py]
#
# DATA is the root of the frame tree (boxing/, handclapping/, ...), a folder above it, or an archive of frames; without it
# AI Studio's folders are searched (see find_kth.py). The other defaults are paths of AI Studio too, whose home is
# E3D_AISTUDIO. Each may be an environment variable too: DATA, SAVE_DIR, PRETRAINED_MODEL, GEN_FRM_DIR, PYTHON.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$ROOT/scripts/arguments.sh"
take_paths DATA SAVE_DIR PRETRAINED_MODEL -- "$@"
AI_STUDIO="${E3D_AISTUDIO:-/home/aistudio}"
DATA="$(kth_data)"

# E3D_LAUNCHER, of paddle_e3d_lstm_kth_train_multi_gpu.sh, is several words.
# shellcheck disable=SC2086
exec "$(runtime_python)" ${E3D_LAUNCHER:-} "$ROOT/runp.py" \
  --is_training True \
  --dataset_name action \
  --train_data_paths "$DATA" \
  --valid_data_paths "$DATA" \
  --save_dir "${SAVE_DIR:-$AI_STUDIO/work/checkpoints/_kth_e3d_lstm}" \
  --gen_frm_dir "${GEN_FRM_DIR:-results/_kth_e3d_lstm}" \
  --pretrained_model "${PRETRAINED_MODEL:-}" \
  --model_name e3d_lstm \
  --allow_gpu_growth True \
  --img_channel 1 \
  --img_width 128 \
  --input_length 10 \
  --total_length 30 \
  --filter_size 5 \
  --num_hidden 64,64,64,64 \
  --patch_size 8 \
  --layer_norm True \
  --reverse_input False \
  --sampling_stop_iter 50000 \
  --sampling_start_value 1.0 \
  --lr_schedule kth \
  --grad_clip 1000 \
  --batch_size 4 \
  --max_iterations 415000 \
  --display_interval 1 \
  --test_interval 500 \
  --snapshot_interval 500 \
  --test_max_clips 200 \
  --num_save_samples 10 \
  --resume True \
  "${MORE[@]}"
