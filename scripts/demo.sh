#!/usr/bin/env bash
# Look at forecasts of the weights that come with the project: no training, no download but packages.
#   bash scripts/demo.sh         handwritten digits that move on: ten frames given, ten predicted
#   bash scripts/demo.sh FILM    how a film of your own goes on (a video, a GIF or a folder of numbered pictures): weights
#                                trained on people walking, running, boxing and waving
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
ensure_packages requirements.txt
PY="$VENV/bin/python"
if [ $# -gt 1 ]; then
  echo "demo.sh: $# arguments; expected none, or one film" >&2
  exit 2
fi

if [ $# = 1 ]; then
  film="$(realpath -- "$1")"
  cd "$ROOT"
  say "how $film goes on: 10 frames given, 10 predicted"
  exec "$PY" runp.py --predict_video "$film" --pretrained_model pretrained/kth --gen_frm_dir demo/films
fi

cd "$ROOT"
say "ten clips of digits that the network has not seen: 10 frames given, 10 predicted"
"$PY" runp.py --is_training False --dataset_name mnist --valid_data_paths pretrained/moving_mnist/clips.npy \
  --pretrained_model pretrained/moving_mnist --batch_size 1 --gen_frm_dir demo
"$PY" scripts/draw_forecast.py demo/test_result/{1,2,3,4} --out demo/forecast.gif
"$PY" scripts/draw_forecast.py demo/test_result/{1,2,3,4} --out demo/forecast.png

say "done"
echo "the table above compares the network with the last given frame ('repeat') and with the mean of the given ones ('mean')"
echo "forecasts that play beside the truth:  $ROOT/demo/forecast.gif"
echo "the same, frame by frame:              $ROOT/demo/forecast.png"
echo "all on one page:                       $ROOT/demo/test_result/report.html"
echo "how a film of yours goes on:           bash scripts/demo.sh FILM"
