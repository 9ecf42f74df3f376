#!/usr/bin/env bash
# Test a checkpoint on KTH at the full size: PSNR, SSIM, MSE and MAE over every clip of persons 17-25, and pictures.
#
#   bash scripts/paddle_e3d_lstm_kth_test.sh [DATA [PRETRAINED_MODEL [GEN_FRM_DIR]]] [more flags of runp.py]
#
# DATA is the root of the frame tree, a folder above it, or an archive of frames; without it AI Studio's folders are
# searched (see find_kth.py). PRETRAINED_MODEL is a checkpoint's directory; its default is a path of AI Studio, whose home
# is E3D_AISTUDIO. Each may be an environment variable too: DATA, PRETRAINED_MODEL, GEN_FRM_DIR, PYTHON.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$ROOT/scripts/arguments.sh"
take_paths DATA PRETRAINED_MODEL GEN_FRM_DIR -- "$@"
AI_STUDIO="${E3D_AISTUDIO:-/home/aistudio}"
DATA="$(kth_data)"

exec "$(runtime_python)" "$ROOT/runp.py" \
  --is_training False \
  --dataset_name action \
  --valid_data_paths "$DATA" \
  --pretrained_model "${PRETRAINED_MODEL:-$AI_STUDIO/work/checkpoints/_kth_e3d_lstm/50500}" \
  --gen_frm_dir "${GEN_FRM_DIR:-results/_kth_e3d_lstm}" \
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
  --batch_size 4 \
  --num_save_samples 10 \
  "${MORE[@]}"
