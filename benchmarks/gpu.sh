#!/usr/bin/env bash
# What one GPU can tell in eight minutes: the tests marked gpu, training and drawing at S = 32, 128 and
# 1024, and profiles, in one Markdown file.
#
#     bash benchmarks/gpu.sh             # writes gpu_measured.md and gpu.jsonl into $OUT, or beside this script
#     bash benchmarks/gpu.sh --dry-run   # the same parts on the CPU with tiny sizes; also where there is no CUDA
#
# It needs the packages of pyproject.toml and pytest, and no network; PYTHON names the interpreter. Every part
# has a time limit of its own, so that one that hangs leaves the others their time, and what it had measured is
# kept. In the tables "hltm" is what `dualnets.train` chooses by itself, "hltm, not fused" the graph of a step
# where fused steps exist, "eager" plain torch, and "modules in a loop" torch's own modules.
# Rates are member-steps per second. `--render` of training.py makes the tables of gpu.jsonl again.
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
out=${OUT:-$root/benchmarks}
python=${PYTHON:-python3}
page=$out/gpu_measured.md
cells=$out/gpu.jsonl
log=$(mktemp)
trap 'rm -f "$log"' EXIT
seconds_in_all=470
export PYTHONPATH="$root:$root/ssl${PYTHONPATH:+:$PYTHONPATH}"

device=cuda
if [ "${1:-}" = --dry-run ]; then
  device=cpu
elif ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "There is no CUDA here: this is a dry run on the CPU."
  device=cpu
fi

mkdir -p "$out"
rm -f "$cells"
cd "$root" || exit 1

# part TITLE LIMIT COMMAND...: the command's output under a heading; its errors where it fails.
part() {
  local title=$1 limit=$2 left=$((seconds_in_all - SECONDS)) began=$SECONDS status=0
  shift 2
  printf '\n## %s\n\n' "$title" >>"$page"
  if [ "$left" -lt "$limit" ]; then limit=$left; fi
  if [ "$limit" -lt 5 ]; then
    echo "Left out: no time is left." | tee -a "$page"
    return
  fi
  echo "$title (at most $limit s)"
  timeout -k 5 "$limit" "$@" >>"$page" 2>"$log" || status=$?
  if [ "$status" -ne 0 ]; then
    if [ "$status" -ge 124 ]; then echo "Stopped after $limit s." >>"$page"; fi
    {
      printf '\nExit status %s; the end of its messages:\n\n```\n' "$status"
      tail -n 25 "$log"
      echo '```'
    } >>"$page"
  fi
  printf '\n(%s s)\n' $((SECONDS - began)) >>"$page"
  echo "  $((SECONDS - began)) s, exit status $status"
}

# train TITLE LIMIT OPTIONS...: measures into the file of cells; the tables come at the end.
train() {
  local title=$1 limit=$2
  shift 2
  part "$title" "$limit" "$python" benchmarks/training.py --device "$device" --save "$cells" "$@"
}

{
  echo "# One GPU"
  echo
  echo "$(date -u +%F), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), device $device."
} >"$page"

mapfile -t files < <(grep -rlE 'mark\.gpu' tests)
all="simclr byol ntxent moco swav pirl barlow-twins vicreg supervised simsiam teacher-student"
if [ "$device" = cuda ]; then
  large="1024" small="128 32" steps=20 profiled="128 1024" drawn="32 128 1024" few="--seconds 0.2 --repeats 3"
else
  large="3" small="2" steps=2 profiled="2" drawn="2 3" few="--seconds 0.01 --repeats 1 --threads 1"
  all="moco" # the rest takes long to compile on a CPU
  export OMP_NUM_THREADS=1
fi
# words of these variables are arguments of their own
# shellcheck disable=SC2086
{
  part "Machine" 40 "$python" benchmarks/gpu.py machine --device "$device"
  part "Tests" 110 "$python" -m pytest -q -p no:cacheprovider -o filterwarnings=default \
    --continue-on-collection-errors -m gpu "${files[@]}"
  part "Drawing" 40 "$python" benchmarks/gpu.py drawing --device "$device" --members $drawn
  train "Training: SimCLR and BYOL with SGD" 90 --methods simclr byol --optimizers sgd --members $large $small $few
  part "Profile" 50 "$python" benchmarks/gpu.py profile --device "$device" --members $profiled --steps $steps
  train "Training: SimCLR and BYOL with AdamW and LARS" 50 --methods simclr byol --optimizers adamw lars \
    --members $large $few --no-check
  train "Training: other methods with SGD" 80 --methods $all --optimizers sgd --members $large $small $few --no-check
}
if [ -s "$cells" ]; then
  seconds_in_all=$((seconds_in_all + 20)) # the tables are made in any case
  part "All training in one table" 20 "$python" benchmarks/training.py --render "$cells"
fi
echo "Written: $page"
