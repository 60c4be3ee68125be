# For gpu.sh and cpu.sh: `stage NAME bench-arguments...` runs a measurement and writes $OUT/NAME.json
# and the table $OUT/NAME.txt, unless the JSON exists. The others continue after a failure; `finish`
# names the failed ones.

failed=()

stage() {
  local name=$1
  shift
  if [ -e "$OUT/$name.json" ]; then
    echo "== $name: exists"
    return
  fi
  echo "== $name: taskmoe bench $*"
  # renamed when it is complete: a sweep rewrites its JSON after each step
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
