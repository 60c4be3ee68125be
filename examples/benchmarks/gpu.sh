#!/usr/bin/env bash
# The measurements of docs/performance.md on one GPU: layer, training step and decoding.
#
#     examples/benchmarks/gpu.sh
#     OUT=/tmp/try DEVICE=cpu ARCH=tiny EXPERTS=4,8 LAYER_TOKENS=256 TRAIN_TOKENS=256 WARM_UP=1 STEPS=2 \
#         LAYER_DIMS="--embed-dim 16 --ffn-dim 32" BATCH_SIZES=1,4 examples/benchmarks/gpu.sh
#
# Each writes a JSON file and a table to $OUT; existing ones are skipped.
set -euo pipefail

OUT=${OUT:-runs/benchmarks-gpu}
TASKMOE=${TASKMOE:-taskmoe}
DEVICE=${DEVICE:-cuda}
DTYPE=${DTYPE:-bfloat16}
REPEATS=${REPEATS:-7}
WARM_UP=${WARM_UP:-10}                         # training steps before the measured ones
STEPS=${STEPS:-20}                             # measured training steps
DECODE_REPEATS=${DECODE_REPEATS:-3}
EXPERTS=${EXPERTS:-32,128}
LAYER_TOKENS=${LAYER_TOKENS:-16384 65536}      # separated by spaces
LAYER_DIMS=${LAYER_DIMS:-}                     # further flags of bench layer
LAYER_VARIANTS=${LAYER_VARIANTS:-dense,task,sentence,token,nllb_topk}
ARCH=${ARCH:-base}
TRAIN_TOKENS=${TRAIN_TOKENS:-65536}
TRAIN_VARIANTS=${TRAIN_VARIANTS:-dense_equal,target_target,token_token}
BATCH_SIZES=${BATCH_SIZES:-1,2,4,8,16,32,64,128,256,512}
DECODE_VARIANTS=${DECODE_VARIANTS:-dense,token_token,task,extracted}

source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"
mkdir -p "$OUT"
common=(--device "$DEVICE" --dtype "$DTYPE")

for tokens in $LAYER_TOKENS; do
  # shellcheck disable=SC2086
  stage "layer-$tokens" layer "${common[@]}" --repeats "$REPEATS" --tokens "$tokens" \
    --moe-expert-count "$EXPERTS" --variants "$LAYER_VARIANTS" $LAYER_DIMS
done

# the table has forward and backward without the update, too
stage "train-$ARCH" train "${common[@]}" --warm-up "$WARM_UP" --repeats "$STEPS" \
  --arch "$ARCH" --tokens "$TRAIN_TOKENS" --full-step --moe-expert-count "$EXPERTS" --variants "$TRAIN_VARIANTS"

stage "decode-$ARCH" decode "${common[@]}" --repeats "$DECODE_REPEATS" --arch "$ARCH" \
  --moe-expert-count "$EXPERTS" --batch-sizes "$BATCH_SIZES" --variants "$DECODE_VARIANTS" \
  --plot "$OUT/decode-$ARCH.png"

finish
