# The stages of run_all.sh, which sources this file: functions that read its variables.

# stage OUTPUT COMMAND...: run a command unless its output exists
stage() {
  local output=$1
  shift
  if [ -e "$output" ]; then
    echo "== $output: there already"
  else
    echo "== $output: $*"
    "$@"
  fi
}

joined() {  # by colons, as in fairseq's lists of data folders
  local IFS=:
  echo "$*"
}

# train ROW FOLDER OVERRIDE...: train or resume one model; FOLDER/trained marks the end
train() {
  local row=$1 folder=$2
  shift 2
  mkdir -p "$folder"
  # shellcheck disable=SC2086
  if ! $LAUNCH fairseq-hydra-train --config-dir configs --config-name "$row" "size=$SIZE" \
    "checkpoint.save_dir=$folder" "$@" $OVERRIDES > "$folder/console.log" 2>&1; then
    echo "run_all.sh: error: training $row failed; the end of $folder/console.log:" >&2
    tail -n 5 "$folder/console.log" >&2
    exit 1
  fi
  {
    echo "size=$SIZE $* $OVERRIDES"
    python -c 'from fairseq_taskmoe.evaluation.results import provenance; print(provenance())'
  } > "$folder/trained.part"
  mv "$folder/trained.part" "$folder/trained"
}

# score FOLDER FLAG...: translate and score the test set
score() {
  local folder=$1
  shift
  taskmoe evaluate "$data" --path "$folder/checkpoint_best.pt" --out "$folder/evaluation" \
    --beam "$BEAM" "${search[@]}" "${scoring[@]}" --references "$RUNS/text" --languages "$RUNS/languages.yaml" \
    "$@" > /dev/null
}

# trained_in SHARD: the directions with training data in a shard, joined by commas
trained_in() {
  local direction source target found=
  for direction in ${directions//,/ }; do
    source=${direction%-*} target=${direction#*-}
    if [ -e "$1/train.$source-$target.$target.idx" ] || [ -e "$1/train.$target-$source.$target.idx" ]; then
      found+=,$direction
    fi
  done
  echo "${found#,}"
}

# schedule DIRECTION: the override for a bilingual model with little data, if the size has one
schedule() {
  [ -e "configs/bilingual/${SIZE}_low.yaml" ] || return 0
  python -c '
import sys, yaml
languages = yaml.safe_load(open(sys.argv[1]))
low = [code for code in sys.argv[2].split("-") if languages.get(code, {}).get("class") == "low"]
print(f"bilingual={sys.argv[3]}_low" if low else "")
' "$RUNS/languages.yaml" "$1" "$SIZE"
}

# distill TEACHER FOLDER SHARD...: a student's data, with the teacher's translations as targets
distill() {
  local teacher=$1 distilled=$2 shard out
  shift 2
  for shard in "$@"; do
    out=$distilled
    [ $# = 1 ] || out=$distilled/$(basename "$shard")
    stage "$out" taskmoe distill "$shard" --path "$teacher/checkpoint_best.pt" \
      --lang-pairs "$(trained_in "$shard")" --out "$out" --beam "$BEAM" "${search[@]}"
  done
}

# the dimensions of this size's model, as in bench decode --model
widths() {
  python -c '
import sys, yaml
model = yaml.safe_load(open(sys.argv[1]))["model"]
print(",".join(f"{k}={v}" for k, v in model.items() if k[:7] in ("encoder", "decoder")))
' "configs/size/$SIZE.yaml"
}

# sweep FILE FLAG...: measure decoding speed by batch size
sweep() {
  local file=$1
  shift
  taskmoe bench decode --device "$DEVICE" "$@" --out "$file.part"
  mv "$file.part" "$file"
}

parameters() {
  taskmoe params "$1/checkpoint_best.pt" --format json > "$1/params.part"
  mv "$1/params.part" "$1/params.json"
}
