# One measurement of gpu.sh and cpu.sh: `stage NAME bench-arguments...` leaves $OUT/NAME.json and
# $OUT/NAME.txt, the table. A measurement whose JSON exists is skipped; one that fails is named at
# the end by `finish`, and the others go on.

failed=()

stage() {
  local name=$1
  shift
  if [ -e "$OUT/$name.json" ]; then
    echo "== $name: there already"
    return
  fi
  echo "== $name: taskmoe bench $*"
  # under its final name only when it is whole: a sweep writes its JSON again and again
  if "$TASKMOE" bench "$@" --out "$OUT/$name.part" | tee "$OUT/$name.txt"; then
    mv "$OUT/$name.part" "$OUT/$name.json"
  else
    failed+=("$name")
  fi
}

finish() {
  if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
  fi
  echo "all in $OUT"
}
