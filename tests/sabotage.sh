#!/usr/bin/env bash
# Proves the simulation: re-introduces classic bugs one at a time in a copy of the tree and shows that
# each is found within SEEDS seeds (2,000).
#   usage: tests/sabotage.sh [WORD]    only the bugs with that word in their name
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
. tests/lib/tools.sh
need_rust
work=$top/target/sabotage
rm -rf "$work/tree"
mkdir -p "$work/tree"
git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -C "$work/tree" -xf -

# Replaces text that is in a file exactly once.
replace() {
  local file=$1 old=$2 new=$3 text rest
  text=$(cat "$file" && printf x)
  rest=${text#*"$old"}
  [ "$rest" != "$text" ] || die "$file does not have the line: $old"
  [ "${rest#*"$old"}" = "$rest" ] || die "$file has more than once: $old"
  text=${text/"$old"/"$new"}
  printf %s "${text%x}" >"$file"
}

missed=()
while IFS= read -r name; do
  case $name in '' | '#'*) continue ;; esac
  IFS= read -r test && IFS= read -r file && IFS= read -r old && IFS= read -r new && IFS= read -r expect
  [[ $name == *"${1:-}"* ]] || continue
  cp "$file" "$work/tree/$file"
  replace "$work/tree/$file" "$old" "$new"
  said=$work/$test.txt
  from=$SECONDS
  (cd "$work/tree" && SEEDS=${SEEDS:-2000} NO_SHRINK=1 TRACE_LINES=0 FAILURES=1000 STOP_AT=$expect \
    CARGO_TARGET_DIR=$work/target cargo test --quiet --profile sim --test sim -- --exact "$test") \
    </dev/null >"$said" 2>&1 || true
  found=$(grep -aE "seed [0-9]+ FAILED: .*($expect)" "$said" | head -n 1 || true)
  if [ -n "$found" ]; then
    say "found  $name ($((SECONDS - from)) s): ${found:0:160}"
  else
    say "MISSED $name: see $said"
    missed+=("$name")
  fi
  cp "$file" "$work/tree/$file"
done <tests/data/sim/sabotage.txt
[ ${#missed[@]} = 0 ] || die "${#missed[@]} bugs were not found"
