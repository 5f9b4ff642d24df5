#!/usr/bin/env bash
# What takes longer than a change may wait for, a stage at a time. Each stage writes a dated result
# below target/long/ that a note can quote.
#   usage: sudo tests/long.sh STAGE…    STAGE is one of: sim sabotage kills faults vm bench deny clone all
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
. tests/lib/tools.sh

stages=(sim sabotage kills faults bench deny clone vm)
[ $# -gt 0 ] || die "usage: tests/long.sh STAGE…    STAGE is one of: ${stages[*]} all"
[ "$1" != all ] || set -- "${stages[@]}"
need_root tests/long.sh
need_rust
mkdir -p target/long

# Many seeds of the simulation; SEEDS says how many.
stage_sim() { SEEDS=${SEEDS:-20000} cargo test --profile sim --quiet --test sim; }

# The simulation finds classic bugs that are put in one at a time.
stage_sabotage() { tests/sabotage.sh; }

# The kill loops of the integration tests, ROUNDS times with other seeds.
stage_kills() {
  local round
  for round in $(seq "${ROUNDS:-5}"); do
    echo "round $round"
    SEED=$((RANDOM * 32768 + RANDOM)) cargo test --quiet --test it -- --nocapture survival::
  done
}

# Three managers in trouble, ROUNDS times with other seeds, and twenty machines that join at once.
stage_faults() {
  local round
  for round in $(seq "${ROUNDS:-5}"); do
    echo "round $round"
    SEED=$((RANDOM * 32768 + RANDOM)) FAULT_ROUNDS=${FAULT_ROUNDS:-40} STORM=20 \
      cargo test --quiet --test it -- --nocapture cluster::faults::
  done
}

# cgroup v2 under systemd in a virtual machine, and ten power cuts.
stage_vm() { tests/vm.sh; }

# Every benchmark, against its peer.
stage_bench() {
  tests/bench/create.sh
  tests/bench/footprint.sh
  tests/bench/proxy.sh
  tests/bench/election.sh
  tests/bench/swarm.sh
}

# Licences, bans and sources of all dependencies; known holes, where their database can be reached.
stage_deny() {
  command -v cargo-deny >/dev/null || cargo install --quiet --locked cargo-deny
  cargo deny --config .deny.toml check bans licenses sources
  if cargo deny --config .deny.toml fetch db >/dev/null 2>&1; then
    cargo deny --config .deny.toml check advisories
  else
    echo "NOT CHECKED: the database of advisories cannot be reached from here"
  fi
}

# What a change must pass, on a fresh clone with an empty target folder.
stage_clone() {
  local clone
  clone=$(mktemp -d "${TMPDIR:-/tmp}/skepclone.XXXXXX")
  git clone --quiet . "$clone"
  (cd "$clone" && tests/run.sh)
  rm -rf "$clone"
}

for stage in "$@"; do
  declare -F "stage_$stage" >/dev/null || die "no stage '$stage'; there are: ${stages[*]} all"
  result=target/long/$(date -u +%Y-%m-%dT%H%M)-$stage.txt
  say "== $stage (result: $result)"
  from=$SECONDS
  {
    printf 'skep %s, %s, %s\n' "$(git describe --always --dirty)" "$(date -u +%FT%TZ)" "$(uname -srm)"
    # In a shell of its own: inside an `if`, nothing would stop at the first error.
    set +e
    (set -e; "stage_$stage") 2>&1
    [ $? = 0 ] && outcome=passed || outcome=FAILED
    set -e
    printf '%s %s after %d s\n' "$stage" "$outcome" $((SECONDS - from))
  } | tee "$result"
  tail -n 1 "$result" | grep -q ' passed ' || die "stage '$stage' failed, see $result"
done
