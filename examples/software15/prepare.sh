#!/usr/bin/env bash
# The data of one size, for run_all.sh: writes text/, languages.yaml, spm.model, dict.txt and data-bin/ to
# RUNS, and at the end the empty file `prepared`.
#
#     examples/software15/prepare.sh SIZE RUNS
set -euo pipefail

SIZE=$1
RUNS=$2
CORPUS=${CORPUS:-runs/software15}  # output of build_corpus.py, with all 15 languages
WORKERS=${WORKERS:-2}

here=$(dirname "${BASH_SOURCE[0]}")
mkdir -p "$RUNS"

# binarize VOCABULARY TEMPERATURE LANGUAGE...: one SentencePiece model and dictionary for all
binarize() {
  local vocabulary=$1 temperature=$2 language
  shift 2
  local text=() pairs=()
  for language in "$@"; do
    text+=("en=$RUNS/text/train.en-$language.en" "$language=$RUNS/text/train.en-$language.$language")
    pairs+=("en-$language")
  done
  if [ ! -e "$RUNS/dict.txt" ]; then
    python -m preprocess.sentencepiece_model "${text[@]}" --out "$RUNS" --overwrite \
      --vocab-size "$vocabulary" --temperature "$temperature"
  fi
  [ -e "$RUNS/data-bin" ] || python -m preprocess.binarize "$RUNS/text" --pairs "${pairs[@]}" --out "$RUNS/data-bin" \
    --sentencepiece-model "$RUNS/spm.model" --dict "$RUNS/dict.txt"
}

case $SIZE in
  smoke)  # the demo's corpus
    python "$(dirname "$here")/demo/prepare.py" --out "$RUNS"
    languages="de ru"
    for language in $languages; do
      echo "$language: {train_pairs: $(wc -l < "$RUNS/text/train.en-$language.en"), class: high}"
    done > "$RUNS/languages.yaml"
    ;;
  software15_cpu)
    python "$here/build_corpus.py" --out "$CORPUS" --workers "$WORKERS"
    ln -sfn "$(realpath "$CORPUS/text")" "$RUNS/text"
    grep -E '^(de|fr):' "$CORPUS/languages.yaml" > "$RUNS/languages.yaml"
    binarize 8000 1 de fr
    ;;
  software15)
    python "$here/build_corpus.py" --out "$RUNS" --workers "$WORKERS"
    # shellcheck disable=SC2046
    binarize 32000 5 $(sed 's/:.*//' "$RUNS/languages.yaml")
    ;;
  *)
    for made in data-bin text languages.yaml; do
      if [ ! -e "$RUNS/$made" ]; then
        echo "prepare.sh: error: $RUNS/$made is missing: examples/wmt30/README.md prepares it" >&2
        exit 2
      fi
    done
    ;;
esac
touch "$RUNS/prepared"
