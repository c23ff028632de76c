#!/usr/bin/env bash
# Everything that is to be measured on a GPU, in one go: a folder of tables, and what they come from. Each
# table is printed as soon as it is there, the most important first. A call that takes too long is ended
# and named, and what was measured until then is kept.
#
#   xtask/gpu.sh OUT
#
# It needs the release binary and the recipes, nothing else of the checkout, and no compiler. What it is
# configured by the environment (defaults in parentheses):
#
#   RSFLOW     the program (target/release/rsflow)
#   AGAINST    another program's step, which prints `N images/s` and maybe `peak N GiB`; {arch}, {batch},
#              {sizes}, {classes}, {device} and {mode} are filled in: "python3 step.py --arch {arch} ..."
#   COMPARE    our precisions, each with a mode of it that is measured in turn, or none:
#              BFloat16:bf16_cl BFloat16:bf16_cl_compile
#   NETWORKS   resnet50:256 resnet18:256 mobilenet_v2:256, that is names and batches
#   SIZES      224,192,160,128,96
#   DATA       a folder with train/ and val/, of ten classes, for whole runs; left out without it
#   DEVICE     Cuda(0)
#   PRECISIONS BFloat16 Float32: of the whole runs
#   SMALL      resnet18:32, and its sizes in SMALL_SIZES (128,112,96,80,64): where kernels are short
#   ROUNDS     1
#   SECONDS_EACH  3: how long a step is measured
#   CALL_LIMIT 60: seconds after which a call is ended
#   TIME       570: seconds after which no more calls begin
#   EPOCHS     5: of the whole runs; at least 2
#   LIMIT      steps of the loss comparison, at most two epochs (50)
#
# For a processor with AVX512-BF16, against float32 and against the same precision of the other program:
#   DEVICE=Cpu COMPARE="BFloat16:fp32 BFloat16:bf16_cl" SIZES=128,112,96,80,64 NETWORKS=resnet18:32 xtask/gpu.sh out
#
# Tried on a CPU:
#   DEVICE=Cpu COMPARE=Float32:fp32 PRECISIONS=Float32 SIZES=64,48 NETWORKS=resnet18:4 ROUNDS=1 SECONDS_EACH=1 xtask/gpu.sh out
set -euo pipefail

out=${1:?"usage: xtask/gpu.sh OUT"}
rsflow=${RSFLOW:-target/release/rsflow}
against=${AGAINST:-}
compare=${COMPARE:-BFloat16:bf16_cl BFloat16:bf16_cl_compile}
networks=${NETWORKS:-resnet50:256 resnet18:256 mobilenet_v2:256}
sizes=${SIZES:-224,192,160,128,96}
data=${DATA:-}
device=${DEVICE:-Cuda(0)}
precisions=${PRECISIONS:-BFloat16 Float32}
small=${SMALL:-resnet18:32}
small_sizes=${SMALL_SIZES:-128,112,96,80,64}
rounds=${ROUNDS:-1}
seconds=${SECONDS_EACH:-3}
call_limit=${CALL_LIMIT:-60}
time=${TIME:-570}
epochs=${EPOCHS:-5}
limit=${LIMIT:-50}
recipe=recipes/imagenette_resnet18.ron
gpu=${device//[^0-9]/}
mkdir -p "$out"

exec 3>&2 # what is said is seen, also where errors go to a file
say() { echo "gpu.sh: $*" >&3; }
trap 'say "that failed; the end of $out/errors.txt:"; tail -n 5 "$out/errors.txt" >&2' ERR

# Runs a command, as long as a call may take and there is time for.
call() {
  local most=$((time - SECONDS)) code=0
  ((most < call_limit)) || most=$call_limit
  if ((most < 5)); then
    say "no time is left for: $*"
    return 1
  fi
  timeout -k 3 "$most" "$@" || code=$?
  ((code != 124 && code != 137)) || say "ended after $most s: $*"
  return $code
}

depth() { local name=${1#resnet}; echo "${name%%_*}"; }

# A network as recipes write it.
network() {
  case $1 in
    resnet*_w2a2) echo "QuantizedResNet(depth: $(depth "$1"), mode: PreActivation, weight_bits: 2, activation_bits: 2)" ;;
    resnet*_w2a32) echo "QuantizedResNet(depth: $(depth "$1"), mode: WeightsOnly, weight_bits: 2)" ;;
    resnet*) echo "ResNet(depth: $(depth "$1"))" ;;
    mobilenet_v2) echo "MobileNetV2()" ;;
    *) say "no network $1"; exit 2 ;;
  esac
}

# The recipe at these sizes, on this device. $1: network, the rest: further overrides.
set_options() {
  local name=$1
  shift
  options=(--set "train_sizes.sizes=[$sizes]" --set "val_sizes.sizes=[$sizes]"
    --set "trainer.device=$device" --set "trainer.network=$(network "$name")")
  local override
  for override in "$@"; do options+=(--set "$override"); done
}

# Images per second and peak memory in MiB of a step of ours. $1: network:batch, the rest: overrides.
ours() {
  local name=${1%:*} batch=${1#*:}
  shift
  set_options "$name" "$@"
  call "$rsflow" bench "$recipe" "${options[@]}" --only step --batch "$batch" --seconds "$seconds" \
    >"$out/last.txt" 2>>"$out/errors.txt" || { echo "failed -"; return 0; }
  awk '/^ *training step .* MiB/ { memory = $(NF - 1) }
       / images\/s$/ { speed = $(NF - 1) }
       END { print speed, memory }' "$out/last.txt"
}

# The same of the other program. $1: network:batch, $2: mode.
theirs() {
  local command=$against name=${1%:*} batch=${1#*:}
  local place=cpu
  [[ $device == Cpu ]] || place=cuda:$gpu
  command=${command//\{arch\}/$name} command=${command//\{batch\}/$batch}
  command=${command//\{sizes\}/${sizes//,/ }} command=${command//\{classes\}/10}
  command=${command//\{device\}/$place} command=${command//\{mode\}/$2}
  call bash -c "$command" >"$out/last.txt" 2>>"$out/errors.txt" || { echo "failed -"; return 0; }
  awk '{ for (i = 2; i <= NF; i++) {
           if ($i ~ /^images\/s/) speed = $(i - 1)
           if ($i ~ /^GiB/) memory = $(i - 1) * 1024 } }
       END { print speed, memory == "" ? "-" : memory }' "$out/last.txt"
}

# Rounds, ours and theirs in turn; who goes first alternates. One line of the raw figures each.
steps() {
  local what pair mode precision round
  printf 'network:batch\tours\ttheirs\tround\tours images/s\ttheirs images/s\tours MiB\ttheirs MiB\n'
  for what in $networks; do
    for pair in $compare; do
      precision=${pair%:*} mode=${pair#*:}
      [[ -n $against ]] || mode=none
      for ((round = 1; round <= rounds; round++)); do
        local a b="- -"
        if ((round % 2)); then
          a=$(ours "$what" "trainer.precision=$precision")
          [[ $mode == none ]] || b=$(theirs "$what" "$mode")
        else
          [[ $mode == none ]] || b=$(theirs "$what" "$mode")
          a=$(ours "$what" "trainer.precision=$precision")
        fi
        printf '%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n' "$what" "$precision" "$mode" "$round" \
          "${a% *}" "${b% *}" "${a#* }" "${b#* }"
      done
    done
  done
}

# Medians of the rounds, and the ratios: the table.
medians() {
  awk -F'\t' '
    function median(list, n,   values, i, j, t) {
      split(list, values, " ")
      for (i = 2; i <= n; i++)
        for (j = i; j > 1 && values[j] + 0 < values[j - 1] + 0; j--) {
          t = values[j]; values[j] = values[j - 1]; values[j - 1] = t
        }
      return n % 2 ? values[(n + 1) / 2] : (values[n / 2] + values[n / 2 + 1]) / 2
    }
    NR > 1 {
      key = $1 "\t" $2 "\t" $3
      if (!(key in n)) order[++keys] = key
      n[key]++
      ours[key] = ours[key] " " $5; theirs[key] = theirs[key] " " $6
      by_round[key] = by_round[key] ($6 + 0 ? sprintf(" %.2f", $5 / $6) : "")
      if ($7 + 0 > our_memory[key] + 0) our_memory[key] = $7
      if ($8 + 0 > their_memory[key] + 0) their_memory[key] = $8
    }
    END {
      printf "%-18s %-14s %-16s %10s %10s %6s %9s %9s  %s\n", "network:batch", "ours", "theirs",
        "images/s", "theirs", "ratio", "MiB", "theirs", "by round"
      for (k = 1; k <= keys; k++) {
        key = order[k]; split(key, part, "\t")
        # A round that failed spoils the median, and is said in its place.
        a = ours[key] ~ /failed/ ? "failed" : sprintf("%.1f", median(ours[key], n[key]))
        b = theirs[key] ~ /failed/ ? "failed" : theirs[key] ~ /-/ ? "-" : sprintf("%.1f", median(theirs[key], n[key]))
        printf "%-18s %-14s %-16s %10s %10s %6s %9s %9s %s\n", part[1], part[2], part[3], a, b,
          (a + 0 && b + 0 ? sprintf("%.2f", a / b) : "-"), our_memory[key],
          (their_memory[key] == "" ? "-" : their_memory[key]), by_round[key]
      }
    }' "$1"
}

say "what there is: $out/doctor.txt"
"$rsflow" doctor >"$out/doctor.txt"

say "steps: $out/steps.tsv, $out/steps.txt"
steps | tee "$out/steps.tsv"
medians "$out/steps.tsv" | tee "$out/steps.txt"

first=${networks%% *}
precision=${precisions%% *}

# $1: network:batch, $2: overrides, separated by spaces.
variant() {
  local overrides
  read -ra overrides <<<"$2"
  echo "$1 $precision ${2:-as it is}: $(ours "$1" "trainer.precision=$precision" "${overrides[@]}") (images/s, MiB)"
}

say "what our kernels and CUDA graphs bring: $out/fused.txt"
for what in $networks; do
  for overrides in "" trainer.cuda_graph=Off trainer.fused=Off "trainer.fused=Off trainer.cuda_graph=Off"; do
    variant "$what" "$overrides"
  done
done | tee "$out/fused.txt"

if [[ $device != Cpu ]]; then
  say "what the GPU does in a step, kernel by kernel: $out/kernels.txt"
  for overrides in "" "trainer.fused=Off trainer.cuda_graph=Off"; do
    read -ra split <<<"$overrides"
    set_options "${first%:*}" "trainer.precision=$precision" "${split[@]}"
    echo "$first $precision ${overrides:-as it is}"
    call "$rsflow" bench "$recipe" "${options[@]}" --only step --batch "${first#*:}" --seconds "$seconds" \
      --gpu 2>>"$out/errors.txt" || say "no view of the GPU"
  done | tee "$out/kernels.txt"
fi

say "where kernels are short, at $small_sizes: $out/small.txt"
{
  large_sizes=$sizes sizes=$small_sizes
  for overrides in "" trainer.cuda_graph=Off "trainer.fused=Off trainer.cuda_graph=Off"; do
    variant "$small" "$overrides"
  done
  [[ -z $against ]] || echo "$small another program: $(theirs "$small" "${compare##*:}") (images/s, MiB)"
  sizes=$large_sizes
} | tee "$out/small.txt"

say "what an exchange costs a process that is alone, buckets and NCCL included: $out/exchange.txt"
for overrides in trainer.cuda_graph=Off ""; do
  read -ra split <<<"$overrides"
  # Each of several processes takes the GPU of its number.
  set_options "${first%:*}" "trainer.precision=$precision" "${split[@]}"
  echo "$first $precision ${overrides:-as it is}"
  call "$rsflow" bench "$recipe" "${options[@]}" --only exchange --processes 1 --batch "${first#*:}" \
    --seconds "$seconds" 2>>"$out/errors.txt" || say "no exchange"
done | tee "$out/exchange.txt"

say "what recomputing, determinism and quantizers cost: $out/variants.txt"
{
  variant "$first" trainer.recompute=true
  variant "$first" trainer.deterministic=true
  for what in resnet18_w2a32 resnet18_w2a2; do
    variant "$what:${first#*:}" trainer.precision=Float32
  done
} | tee "$out/variants.txt"

say "inference: $out/inference.txt"
set_options "${first%:*}" "trainer.precision=$precision"
call "$rsflow" bench "$recipe" "${options[@]}" --only inference --seconds "$seconds" --force \
  --json "$out/inference.json" 2>>"$out/errors.txt" | tee "$out/inference.txt" || say "no inference"

if command -v nvidia-smi >/dev/null && [[ $device != Cpu ]]; then
  say "how busy the GPU is during steps: $out/busy.txt"
  # It counts GPUs in the order of the PCI bus, as CUDA does with CUDA_DEVICE_ORDER=PCI_BUS_ID.
  nvidia-smi -i "$gpu" --query-gpu=utilization.gpu --format=csv,noheader,nounits -lms 100 >"$out/busy.csv" &
  watcher=$!
  # Before the steps come the start and up to 2 s of large matrix products, behind them the end: so long
  # that the last third, but for its last second, is steps alone.
  seconds=$((3 * seconds + 6)) ours "$first" "trainer.precision=$precision" >/dev/null
  kill $watcher
  awk '{ v[NR] = $1 } END { for (i = int(2 * NR / 3) + 1; i <= NR - 10; i++) { s += v[i]; n++ }
       if (n) printf "%.1f %% of the time, mean of %d samples\n", s / n, n }' "$out/busy.csv" | tee "$out/busy.txt"
fi

if [[ -n $data ]]; then
  roots=(--set "train_files.root=$data/train" --set "val_files.root=$data/val")
  say "fed by real images: $out/whole.txt"
  set_options "${first%:*}" "trainer.precision=$precision" "train_batches.size=${first#*:}"
  call "$rsflow" bench "$recipe" "${options[@]}" "${roots[@]}" --only step --only pipeline --only whole \
    --seconds "$seconds" --force --json "$out/whole.json" 2>>"$out/errors.txt" | tee "$out/whole.txt" ||
    say "no figures with real images"

  for precision in $precisions; do
    say "a run of $epochs epochs in $precision: $out/run-$precision.txt"
    set_options resnet18 "trainer.precision=$precision" "trainer.epochs=$epochs"
    began=$SECONDS
    "$rsflow" run "$recipe" "${options[@]}" "${roots[@]}" --run-dir "$out/run-$precision" \
      >"$out/run-$precision.txt" 2>>"$out/errors.txt"
    echo "wall time: $((SECONDS - began)) s" >>"$out/run-$precision.txt"
    # Runs of their own for the losses: to read one of every step waits in every step.
    say "the losses of two epochs in $precision: $out/loss-$precision.tsv"
    set_options resnet18 "trainer.precision=$precision" trainer.epochs=2 trainer.log_every=1
    "$rsflow" run "$recipe" "${options[@]}" "${roots[@]}" --run-dir "$out/loss-run-$precision" \
      >"$out/loss-run-$precision.txt" 2>>"$out/errors.txt"
    # Step and loss of the first steps.
    sed -n 's/.*"kind":"step".*"step":\([0-9]*\),"loss":\([0-9.e+-]*\),.*/\1\t\2/p' \
      "$out/loss-run-$precision/metrics.jsonl" | awk -v limit="$limit" 'NR <= limit' >"$out/loss-$precision.tsv"
  done
  say "how far the losses are apart: $out/loss.txt"
  for precision in $precisions; do
    [[ -e $out/loss-Float32.tsv ]] || continue
    paste "$out/loss-Float32.tsv" "$out/loss-$precision.tsv" | awk -v name="$precision" '
      { off = ($4 - $2) / $2; if (off < 0) off = -off; if (off > worst) worst = off; sum += off }
      END { printf "%s: off from Float32 by %.4f at most, %.4f in the mean, over %d steps\n",
            name, worst, NR ? sum / NR : 0, NR }'
  done >"$out/loss.txt"
fi

rm -f "$out/last.txt"
say "done"
