#!/usr/bin/env bash
# The measurements of docs/performance.md on a CPU. It takes hours on two cores, on which nothing else should run.
#
#     examples/benchmarks/cpu.sh
#     OUT=/tmp/try REPEATS=2 DECODE_REPEATS=2 THREADS=1 ARCH=tiny EXPERTS=4 MORE_EXPERTS=8 \
#         WARM_UP=1 STEPS=2 GROWTH=4,8 LAYER_TOKENS=256 LAYER_DIMS="--embed-dim 16 --ffn-dim 32" TRAIN_TOKENS=256 \
#         STOCK_ARCHS=tiny STOCK_TOKENS=256 BATCH_SIZES=1,4 PROCESS_BATCH_SIZES=2 \
#         examples/benchmarks/cpu.sh
#
# Each writes a JSON file and a table to $OUT; existing ones are skipped.
set -euo pipefail

OUT=${OUT:-runs/benchmarks-cpu}
TASKMOE=${TASKMOE:-taskmoe}
THREADS=${THREADS:-2}
REPEATS=${REPEATS:-7}
WARM_UP=${WARM_UP:-20}                         # training steps before the measured ones
STEPS=${STEPS:-40}                             # measured training steps
DECODE_REPEATS=${DECODE_REPEATS:-3}
EXPERTS=${EXPERTS:-32}
MORE_EXPERTS=${MORE_EXPERTS:-128}
GROWTH=${GROWTH:-8,32,128}
LAYER_TOKENS=${LAYER_TOKENS:-4096 12288}       # separated by spaces
LAYER_DIMS=${LAYER_DIMS:-}                     # further flags of bench layer
LAYER_VARIANTS=${LAYER_VARIANTS:-dense,task,sentence,token,fairscale,nllb,nllb_topk}
ARCH=${ARCH:-base}
TRAIN_TOKENS=${TRAIN_TOKENS:-4096}
STOCK_ARCHS=${STOCK_ARCHS:-tiny small}
STOCK_TOKENS=${STOCK_TOKENS:-1024 4096}
BATCH_SIZES=${BATCH_SIZES:-1,2,4,8,16,32,64,128,256,512}
PROCESS_BATCH_SIZES=${PROCESS_BATCH_SIZES:-1,4,16,64,256}
PROCESSES=${PROCESSES:-2}

source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"
mkdir -p "$OUT"
layer=(layer --threads "$THREADS" --repeats "$REPEATS")
train=(train --threads "$THREADS" --warm-up "$WARM_UP" --repeats "$STEPS" --full-step)
decode=(decode --repeats "$DECODE_REPEATS" --arch "$ARCH")
sweep=("${decode[@]}" --threads "$THREADS" --batch-sizes "$BATCH_SIZES")

# 1. one MoE layer, compared with a dense layer and other libraries, and by number of experts
for tokens in $LAYER_TOKENS; do
  # shellcheck disable=SC2086
  stage "layer-$tokens" "${layer[@]}" --tokens "$tokens" --moe-expert-count "$EXPERTS" \
    --variants "$LAYER_VARIANTS" $LAYER_DIMS
done
# shellcheck disable=SC2086
stage layer-growth "${layer[@]}" --tokens "${LAYER_TOKENS%% *}" --moe-expert-count "$GROWTH" \
  --variants dense,task,token $LAYER_DIMS

# 2. training: MoE and dense models of equal computation; our dense model and stock fairseq's
stage "train-$ARCH" "${train[@]}" --arch "$ARCH" --tokens "$TRAIN_TOKENS" \
  --moe-expert-count "$EXPERTS" --variants dense_equal,target_target,token_token
for arch in $STOCK_ARCHS; do
  for tokens in $STOCK_TOKENS; do
    stage "stock-$arch-$tokens" "${train[@]}" --arch "$arch" --tokens "$tokens" \
      --moe-expert-count 8 --reference stock \
      --variants stock,dense,dense:medium,target_target,target_target:medium
  done
done

# 3. decoding by batch size; sub-networks, their padded format and stock layers; by experts
for experts in "$EXPERTS" "$MORE_EXPERTS"; do
  stage "decode-$experts" "${sweep[@]}" --moe-expert-count "$experts" \
    --plot "$OUT/decode-$experts.png"
done
stage decode-extracted "${sweep[@]}" --moe-expert-count "$EXPERTS" \
  --variants extracted,padded,stock_widths,token_token
stage decode-growth "${sweep[@]}" --moe-expert-count "$GROWTH" --variants task,token_token

# 4. processes with one core each: sub-networks, and experts divided among the processes
stage decode-processes "${decode[@]}" --processes "$PROCESSES" --moe-expert-count "$EXPERTS" \
  --batch-sizes "$PROCESS_BATCH_SIZES"

finish
