#!/bin/bash
# Builds every fuzz target, runs each for MINUTES, and prints its executions and coverage: fuzz/all.sh MINUTES
# Fractions are allowed (0.5). Needs cargo-fuzz; the stable compiler is enough. Exit status 1 on a finding.
#
# CARGO (default `cargo`): the build command. FUZZ_TARGETS (default all): the targets. FUZZ_JOBS (default 1): how many run at once.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:?minutes for each target}
seconds=$(awk -v minutes="$minutes" 'BEGIN { print int(minutes * 60) }')
[ "$seconds" -gt 0 ] || { echo "MINUTES must be more than a second" >&2; exit 2; }
cargo=${CARGO:-cargo}
jobs=${FUZZ_JOBS:-1}
read -ra targets <<<"${FUZZ_TARGETS:-$(find fuzz/fuzz_targets -name '*.rs' -printf '%f\n' | sed 's/\.rs$//' | sort | tr '\n' ' ')}"

# No sanitizer is needed, because the project forbids `unsafe`. RUSTC_BOOTSTRAP makes the stable compiler instrument.
RUSTC_BOOTSTRAP=1 "$cargo" fuzz build --sanitizer none
host=$(rustc -vV | sed -n 's/^host: //p')
programs=fuzz/target/$host/release
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# Runs one target on the local and the committed corpus; new inputs go to the local one.
run() {
  local target=$1 status=0
  mkdir -p "fuzz/corpus-local/$target" "fuzz/artifacts/$target"
  TMPDIR=${TMPDIR:-/tmp} "$programs/$target" -max_total_time="$seconds" -rss_limit_mb=2048 -malloc_limit_mb=1024 \
    -timeout=20 -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$target/" \
    "fuzz/corpus-local/$target" "fuzz/corpus/$target" >"$results/$target.log" 2>&1 || status=$?
  echo "$status" >"$results/$target.status"
}

for target in "${targets[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
  run "$target" &
done
wait

failed=0
printf '%-20s %12s %9s %9s %8s  %s\n' target executions coverage features corpus result
for target in "${targets[@]}"; do
  log=$results/$target.log
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  # The last progress line: `#123 REDUCE cov: 45 ft: 67 corp: 8/9b …`
  last=$(grep -a ' cov: ' "$log" | tail -n 1 || true)
  field() { sed -n "s/.* $1: \([0-9]*\).*/\1/p" <<<"$last"; }
  result=ok
  if [ "$(cat "$results/$target.status")" -ne 0 ]; then
    result=FINDING
    failed=1
  fi
  printf '%-20s %12s %9s %9s %8s  %s\n' "$target" "${executions:--}" "$(field cov)" "$(field ft)" "$(field corp)" "$result"
done
for target in "${targets[@]}"; do
  [ "$(cat "$results/$target.status")" -eq 0 ] && continue
  echo
  echo "== $target: the end of its output; the input is in fuzz/artifacts/$target =="
  tail -n 40 "$results/$target.log"
done
exit "$failed"
