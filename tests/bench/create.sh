#!/usr/bin/env bash
# `service create` until the task runs, against plain `runc run` of the same bundle, alternating in one
# run; then the fsyncs of one create.
#   usage: sudo tests/bench/create.sh [ROUNDS]     (default 30; SKEP=path skips the release build)
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tests/lib/tools.sh"
. "$top/tests/lib/node.sh"
rounds=${1:-30}
need_root tests/bench/create.sh
need_packages ip:iproute2 nft:nftables runc:runc busybox:busybox-static strace:strace curl:curl jq:jq
need_rust
skep=${SKEP:-$(release_binary)}

node_start "$skep"
"$skep" init --advertise-addr 127.0.0.1 >/dev/null
busybox_archive "$node_dir/busybox.tar" busybox:bench
"$skep" image load -q -i "$node_dir/busybox.tar" >/dev/null

micros() { printf '%s' "${EPOCHREALTIME/./}"; }
task_of() { api "/tasks?filters=%7B%22service%22%3A%5B%22$1%22%5D%7D"; }

# Waits until the service's task runs; prints the microseconds from $2 to the time it got there.
running_after() {
  local name=$1 from=$2 stamp deadline=$((SECONDS + 30))
  while :; do
    stamp=$(task_of "$name" | jq -r '.[] | select(.Status.State == "running") | .Status.Timestamp')
    [ -z "$stamp" ] || break
    [ $SECONDS -lt $deadline ] || die "$name did not run: $(task_of "$name")"
  done
  printf '%s\n' $(($(date -u -d "$stamp" +%s%6N) - from))
}

# Waits until only the first service's task is left.
only_first() {
  local deadline=$((SECONDS + 30))
  until [ "$(api /tasks | jq length)" = 1 ]; do
    [ $SECONDS -lt $deadline ] || die "tasks of removed services stay"
    sleep 0.1
  done
}

# The bundle of a first task serves the peer: same limits, seccomp and mounts, a rootfs of the same
# files, a cgroup and a network namespace of its own.
"$skep" service create -q -d --no-resolve-image --name first busybox:bench sleep 100000 >/dev/null
running_after first "$(micros)" >/dev/null
bundle=$(find "$node_dir" -name config.json -path '*tasks*' | head -n 1)
[ -n "$bundle" ] || die "no bundle found below $node_dir"
peer=$node_dir/peer
mkdir -p "$peer"
cp -a "$(jq -r .root.path "$bundle")" "$peer/rootfs"
jq '.root.path = "rootfs" | .linux.cgroupsPath = "/skep-bench/peer"
    | .linux.namespaces |= map(if .type == "network" then { type } else . end)
    | .mounts |= map(select(.type != "bind"))' "$bundle" >"$peer/config.json"

ours=$node_dir/ours.us
theirs=$node_dir/theirs.us
: >"$ours" >"$theirs"
for round in $(seq "$rounds"); do
  from=$(micros)
  runc --root "$peer/state" run -d --bundle "$peer" "peer$round" </dev/null >"$peer/said" 2>&1 ||
    die "runc run of the same bundle failed: $(tail -n 1 "$peer/said")"
  printf '%s\n' $(($(micros) - from)) >>"$theirs"
  runc --root "$peer/state" delete -f "peer$round"

  from=$(micros)
  "$skep" service create -q -d --no-resolve-image --stop-signal KILL --name "bench$round" busybox:bench sleep 100000 >/dev/null
  running_after "bench$round" "$from" >>"$ours"
  "$skep" service rm "bench$round" >/dev/null
  # The next round is not to pay for the end of this one.
  only_first
done
read -r our50 our99 < <(awk '{ print $1 / 1000 }' "$ours" | percentiles)
read -r their50 their99 < <(awk '{ print $1 / 1000 }' "$theirs" | percentiles)
echo "rounds $rounds (milliseconds)"
echo "  service create -> running   p50 $our50   p99 $our99"
echo "  runc run of the same bundle p50 $their50   p99 $their99"
awk -v a="$our50" -v b="$their50" -v c="$our99" -v d="$their99" 'BEGIN {
  printf "  difference                  p50 %.1f (budget 50)   p99 %.1f (budget 150)\n", a - b, c - d }'

sleep 2
strace -f -qq -y -e signal=none -e trace=fsync,fdatasync,sync_file_range,syncfs -o "$node_dir/trace" -p "$node_pid" &
tracer=$!
sleep 1
"$skep" service create -q -d --no-resolve-image --name traced busybox:bench sleep 100000 >/dev/null
running_after traced "$(micros)" >/dev/null
sleep 2
kill "$tracer"
wait "$tracer" 2>/dev/null || :
log=$(grep -c '/raft' "$node_dir/trace" || :)
all=$(grep -cE 'fsync|fdatasync|sync_file_range|syncfs' "$node_dir/trace" || :)
echo "fsyncs of one create: $log for the log (budget 3), $((all - log)) for the task (budget 3)"
sed 's/^[0-9]* */    /' "$node_dir/trace"
