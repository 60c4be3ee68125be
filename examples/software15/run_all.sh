#!/usr/bin/env bash
# All experiments of one size, from the text to results.md. Finished stages are skipped: repeat the
# command after a kill, or with more ROWS. Run it in the root of the repository.
#
#     examples/software15/run_all.sh smoke            # every row for a few updates: minutes on 2 cores
#     examples/software15/run_all.sh software15_cpu   # four directions on a CPU: hours
#     examples/software15/run_all.sh software15       # 30 directions on a GPU
#     examples/software15/run_all.sh wmt30            # the paper's experiments, on the data of examples/wmt30
#     ROWS="dense_base token_target" SEEDS="1 2 3" examples/software15/run_all.sh software15_cpu
set -euo pipefail

SIZE=${1:-}
RUNS=${RUNS:-runs/$SIZE}
ROWS=${ROWS:-}                   # names of configs/*.yaml (default: all rows of the size)
SEEDS=${SEEDS:-1}                # seed 1 trains RUNS/ROW, seed N RUNS/ROW.seedN
BEAM=${BEAM:-}                   # default: 4; smoke: 2
BASELINE=${BASELINE:-dense_base} # of the paired bootstrap
OVERRIDES=${OVERRIDES:-}         # for every training, such as "optimization.update_freq=[8]"
# To start several ranks: LAUNCH="torchrun --standalone --nproc-per-node 8 --no-python", and on CPU or
# with one GPU a node OVERRIDES=+launch=torchrun_cpu or +launch=torchrun
LAUNCH=${LAUNCH:-}
ZERO_SHOT=${ZERO_SHOT:-}         # untrained directions to score, or all (default: de-fr,fr-de; smoke: de-ru,ru-de)
DEVICE=${DEVICE:-}               # of the throughput sweeps: cpu or cuda (software15 and wmt30)
PROCESSES=${PROCESSES:-2}        # processes to measure communication with; on cuda each needs a GPU

TEACHER=token_token              # of the distilled rows
EXTRACTED="target_target token_target"
ALL_ROWS="dense_base dense_equal dense_big bilingual static_static random_random token_token
  token_token_gshard sentence_sentence group_group source_source target_target pair_pair source_token target_token
  pair_token token_source token_target token_pair distilled distilled_sequence"
search=()                        # flags of the search
scoring=()                       # flags of the scores
web=()                           # flags of the sweep of figure 4
parallel=(--multi-parallel)      # for routing: all directions have the same test sentences
here=$(dirname "${BASH_SOURCE[0]}")
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore}  # deprecations in libraries

case $SIZE in
  smoke)
    ZERO_SHOT=${ZERO_SHOT:-de-ru,ru-de}
    bench=(--moe-expert-count 4 --vocab-size 500 --length 6 --batch-sizes 1,8)
    web=(--arch tiny --moe-expert-count 128 --vocab-size 500 --length 6 --batch-sizes 1,8)
    samples=20
    BEAM=${BEAM:-2}
    search=(--max-len-b 20)  # untrained models do not end their sentences
    ;;
  software15_cpu)
    ALL_ROWS="dense_base dense_equal token_token target_target token_target distilled"
    bench=(--moe-expert-count 8 --vocab-size 8000 --batch-sizes 1,4,16,64 --repeats 7)
    samples=1000
    ;;
  software15 | wmt30)
    bench=(--moe-expert-count 32 --vocab-size 32000 --dtype bfloat16)
    samples=1000
    DEVICE=${DEVICE:-cuda}
    if [ "$SIZE" = wmt30 ]; then
      bench=(--moe-expert-count 32 --vocab-size 64000 --dtype bfloat16)
      web=(--arch big --moe-expert-count 128 --vocab-size 64000 --dtype bfloat16)
      scoring=(--tokenize intl)  # as in the paper, A.1
      parallel=()               # the test sets of the pairs differ
    fi
    ;;
  *)
    echo "run_all.sh: error: SIZE '$SIZE': give smoke, software15_cpu, software15 or wmt30" >&2
    exit 2
    ;;
esac
ROWS=${ROWS:-$ALL_ROWS}
BEAM=${BEAM:-4}
DEVICE=${DEVICE:-cpu}
ZERO_SHOT=${ZERO_SHOT:-de-fr,fr-de}

refuse() {
  echo "run_all.sh: error: $*" >&2
  exit 2
}

named() {  # named ROW SEED: the folder of a model in RUNS
  if [ "$2" = 1 ]; then echo "$1"; else echo "$1.seed$2"; fi
}

for seed in $SEEDS; do
  [[ $seed =~ ^[0-9]+$ ]] || refuse "SEEDS: '$seed' is not a number"
  before=
  for row in $ROWS; do
    [ -e "configs/$row.yaml" ] || refuse "ROWS: there is no configs/$row.yaml"
    if [[ $row == distilled* && " $before " != *" $TEACHER "* ]] &&
      [ ! -e "$RUNS/$(named $TEACHER "$seed")/trained" ]; then
      refuse "ROWS: $row needs its teacher $TEACHER before it"
    fi
    before+=" $row"
  done
done
if [[ $BASELINE == bilingual || " $ALL_ROWS " != *" $BASELINE "* ]]; then
  refuse "BASELINE: '$BASELINE' is none of this size's rows with one model for all directions"
fi

# shellcheck source=examples/software15/stages.sh
source "$here/stages.sh"

# 1. the data
stage "$RUNS/prepared" "$here/prepare.sh" "$SIZE" "$RUNS"
data=$RUNS/data-bin               # the folder with the test sets: the first of several shards
shards=("$data")
if [ -e "$data/shard00" ]; then
  shards=("$data"/shard*)
  data=$data/shard00
fi
routed=$data                      # data for the routing statistics
if [ -e "$RUNS/flores200/data-bin" ]; then  # examples/wmt30/README.md makes it
  routed=$RUNS/flores200/data-bin
  parallel=(--multi-parallel)
fi
directions=$(python -c 'import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))["task"]["lang_pairs"])' \
  "configs/size/$SIZE.yaml")
if [ "$ZERO_SHOT" = all ]; then
  ZERO_SHOT=$(python -c '
import itertools, sys
languages = sorted({code for pair in sys.argv[1].split(",") for code in pair.split("-")} - {"en"})
print(",".join(map("-".join, itertools.permutations(languages, 2))))
' "$directions")
fi

# 2. models, translations, parameters and routing
for seed in $SEEDS; do
  for row in $ROWS; do
    name=$(named "$row" "$seed")
    folder=$RUNS/$name
    if [ "$row" = bilingual ]; then
      for direction in ${directions//,/ }; do
        own=()
        schedule=$(schedule "$direction")
        [ -z "$schedule" ] || own=("$schedule")
        stage "$folder/$direction/trained" train "$row" "$folder/$direction" \
          "task.data=$(joined "${shards[@]}")" "common.seed=$seed" "task.lang_pairs=$direction" "${own[@]}"
        stage "$folder/$direction/evaluation/results.json" score "$folder/$direction"
      done
      continue
    fi
    text=("${shards[@]}")
    own=()
    teacher=$RUNS/$(named $TEACHER "$seed")
    if [ "$row" = distilled ]; then
      own=("criterion.distill_teacher=$teacher/checkpoint_best.pt")
    elif [ "$row" = distilled_sequence ]; then
      distilled=$RUNS/$(named distilled-data "$seed")
      distill "$teacher" "$distilled" "${shards[@]}"
      text=("${shards[@]/#"$RUNS/data-bin"/$distilled}")
      own=("model.init_shared_from=$teacher/checkpoint_best.pt")
    fi
    stage "$folder/trained" train "$row" "$folder" \
      "task.data=$(joined "${text[@]}")" "common.seed=$seed" "${own[@]}"
    flags=(--zero-shot-pairs "$ZERO_SHOT")
    [ "$name" != "$BASELINE" ] || flags+=(--floors)
    stage "$folder/evaluation/results.json" score "$folder" "${flags[@]}"
    stage "$folder/params.json" parameters "$folder"
    case $row in
      dense_* | distilled*) ;;
      *)
        stage "$folder/routing" taskmoe routing "$routed" --path "$folder/checkpoint_best.pt" \
          --out "$folder/routing" --decode --beam "$BEAM" "${parallel[@]}"
        ;;
    esac
  done
done

# 3. sub-networks, compared with their full models
for row in $EXTRACTED; do
  if [ -e "$RUNS/$row/trained" ]; then
    stage "$RUNS/$row/subnets/checks.json" python "$here/extraction.py" "$RUNS" "$row" \
      --data "$data" --beam "$BEAM" "${search[@]}" "${scoring[@]}"
  fi
done

# 4. throughput, significance, tables
bench+=(--model "$(widths)")
stage "$RUNS/throughput.json" sweep "$RUNS/throughput.json" "${bench[@]}" \
  --variants dense,token_token,token_task,extracted
if [ ${#web[@]} != 0 ]; then
  stage "$RUNS/throughput-web.json" sweep "$RUNS/throughput-web.json" "${web[@]}"
fi
if [ "$DEVICE" = cpu ] || [ "$(python -c 'import torch; print(torch.cuda.device_count())')" -ge "$PROCESSES" ]; then
  stage "$RUNS/communication.json" sweep "$RUNS/communication.json" "${bench[@]}" --processes "$PROCESSES"
else
  echo "== $RUNS/communication.json: not measured, it needs $PROCESSES GPUs (PROCESSES)"
fi
# a folder for each system; that of the bilingual models has a sub-folder for each direction
evaluations=$(find "$RUNS" -mindepth 3 -maxdepth 3 -path '*/evaluation/results.json' \
  -not -path "$RUNS/$BASELINE/*" | sort | xargs -r -n 1 dirname)
for folder in "$RUNS/bilingual" "$RUNS"/bilingual.seed*; do
  if compgen -G "$folder/*/evaluation/results.json" > /dev/null; then evaluations+=" $folder"; fi
done
rm -f "$RUNS/significance.json"  # may be of another baseline
if [ ! -e "$RUNS/$BASELINE/evaluation" ]; then
  echo "== no floors and no paired bootstrap: BASELINE $BASELINE was not run"
elif [ -n "$evaluations" ]; then
  # shellcheck disable=SC2086
  taskmoe compare "$RUNS/$BASELINE/evaluation" $evaluations --samples "$samples" \
    --out "$RUNS/significance.json" > /dev/null
fi
taskmoe tabulate "$RUNS" --out "$RUNS/tables" --overwrite > /dev/null
python "$here/report.py" "$RUNS" --size "$SIZE"
