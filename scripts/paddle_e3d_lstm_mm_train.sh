#!/usr/bin/env bash
# Train on Moving MNIST at the full size: 64 pixels, 10 frames given, 10 predicted, 4 layers of 64, with the recipe of
# docs/recipe.md. Stopped or killed, the same command goes on where it was; a run that was begun without the recipe goes
# on with: --norm_epsilon 1e-5 --lr_schedule '' --lr 0.001 --betas 0.95,0.9995 --l1_weight 1 --l1_from 0
#
#   bash scripts/paddle_e3d_lstm_mm_train.sh [TRAIN_DATA [TEST_DATA [SAVE_DIR [PRETRAINED_MODEL]]]] [more flags of runp.py]
#
# TRAIN_DATA and TEST_DATA are files, .npz or .npy (scripts/make_moving_mnist.py makes them); the defaults are paths as
# on AI Studio. Each may be an environment variable too: TRAIN_DATA, TEST_DATA, SAVE_DIR, PRETRAINED_MODEL, GEN_FRM_DIR,
# PYTHON.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$ROOT/scripts/arguments.sh"
take_paths TRAIN_DATA TEST_DATA SAVE_DIR PRETRAINED_MODEL -- "$@"

exec "$(runtime_python)" "$ROOT/runp.py" \
  --is_training True \
  --dataset_name mnist \
  --train_data_paths "${TRAIN_DATA:-/home/aistudio/data/moving-mnist/moving-mnist-train.npz}" \
  --valid_data_paths "${TEST_DATA:-/home/aistudio/data/moving-mnist/moving-mnist-test.npz}" \
  --save_dir "${SAVE_DIR:-/home/aistudio/work/checkpoints/_mm_e3d_lstm}" \
  --gen_frm_dir "${GEN_FRM_DIR:-results/_mm_e3d_lstm}" \
  --pretrained_model "${PRETRAINED_MODEL:-}" \
  --model_name e3d_lstm \
  --allow_gpu_growth True \
  --img_channel 1 \
  --img_width 64 \
  --input_length 10 \
  --total_length 20 \
  --filter_size 5 \
  --num_hidden 64,64,64,64 \
  --patch_size 4 \
  --layer_norm True \
  --norm_epsilon 1 \
  --reverse_input True \
  --l1_weight 0.1 \
  --l1_from 64000 \
  --sampling_stop_iter 50000 \
  --sampling_start_value 1.0 \
  --sampling_changing_rate 0.00002 \
  --optimizer adam \
  --betas 0.9,0.999 \
  --lr_schedule cosine:1e-3:80000:2000 \
  --weight_decay 0 \
  --grad_clip 1000 \
  --batch_size 4 \
  --max_iterations 80000 \
  --display_interval 1 \
  --test_interval 500 \
  --snapshot_interval 500 \
  --test_max_clips 200 \
  --num_save_samples 10 \
  --resume True \
  "${MORE[@]}"
