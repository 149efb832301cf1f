#!/usr/bin/env bash
# Each way to fail ends the whole job, in time, with the right code and a message that says who waited for whom.
set -uo pipefail
runner=$1
program=$2
failures=0

# expect HOW EXIT_CODE PATTERN...
expect() {
  local how=$1 want=$2 out code
  shift 2
  out=$(timeout 15 "$runner" 2 "$program" "$how" 2>&1)
  code=$?
  [[ $code == "$want" ]] || { echo "$how: exit code $code, not $want"; failures=1; }
  for pattern in "$@"; do
    grep -Eq "$pattern" <<<"$out" || { echo "$how: nothing matches: $pattern"; failures=1; }
  done
  [[ $failures == 0 ]] || echo "$out"
}

expect fine 0
expect timeout 6 'rank 0 waits 2[.0-9]* s in world AllReduce \(seq 1\) of 1\.2 MB with ranks 0,1'
expect error 3 'rank 1: sample 7 is broken'
expect crash 139 'rank 0 waits [0-9]+ s in world Recv \(seq 0\) for rank 1, doing llm:B3' 'not waiting, doing llm:B3'
expect groups 6 'makes group llm\.(dp|tp) with ranks 0,1 of world, rank [01] another group'
expect size 6 'Recv \(seq 0, tag 3\) of 80 B from rank 1: 40 bytes came where 80 belong'
exit $failures
