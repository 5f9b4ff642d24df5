#!/usr/bin/env bash
# What a node costs: PSS and threads of daemon, proxy and shims, size of the binary, idle CPU, and the
# bytes and fsyncs of an idle minute; the shim after 1 KB and after 1 GB of log.
#   usage: sudo tests/bench/footprint.sh [IDLE_SECONDS]   (default 60; SKEP=path skips the release build)
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tests/lib/tools.sh"
. "$top/tests/lib/node.sh"
idle=${1:-60}
need_root tests/bench/footprint.sh
need_packages ip:iproute2 nft:nftables runc:runc busybox:busybox-static strace:strace curl:curl
need_rust
skep=${SKEP:-$(release_binary)}

node_start "$skep"
"$skep" init --advertise-addr 127.0.0.1 >/dev/null
busybox_archive "$node_dir/busybox.tar" busybox:bench
"$skep" image load -q -i "$node_dir/busybox.tar" >/dev/null

# Processes of one face that belong to this node.
pids() {
  local dir
  for dir in /proc/[0-9]*; do
    tr '\0' ' ' 2>/dev/null <"$dir/cmdline" | grep -q "^[^ ]* $1 .*$node_dir" && echo "${dir#/proc/}"
  done
  return 0
}
pss() { awk '/^Pss:/ { print $2 }' "/proc/$1/smaps_rollup"; }
threads() { awk '/^Threads:/ { print $2 }' "/proc/$1/status"; }
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
disk_bytes() { awk '/^write_bytes/ { print $2 }' "/proc/$1/io"; }

"$skep" service create -q -d --no-resolve-image --name quiet --replicas 5 --publish 8080:80 busybox:bench httpd -f -p 80 >/dev/null
deadline=$((SECONDS + 60))
until [ "$("$skep" service ls --format '{{.Replicas}}')" = 5/5 ]; do
  [ $SECONDS -lt $deadline ] || die "the replicas did not run"
  sleep 0.2
done
sleep 5

echo "binary: $(stat -c %s "$(readlink -f "$skep")") bytes"
total=0
for face in daemon proxy shim; do
  for pid in $(pids $face); do
    kib=$(pss "$pid")
    total=$((total + kib))
    echo "$face $pid: PSS $kib KiB, $(threads "$pid") threads"
  done
done
echo "sum of PSS with 5 containers: $total KiB (budget $((12 * 1024 + 5 * 717)))"

all=$(for face in daemon proxy shim; do pids $face; done)
sum() { local pid n=0; for pid in $all; do n=$((n + $($1 "$pid"))); done; echo $n; }
before=$(sum ticks)
written=$(sum disk_bytes)
sleep "$idle"
awk -v t=$(($(sum ticks) - before)) -v hz="$(getconf CLK_TCK)" -v s="$idle" \
  'BEGIN { printf "idle CPU over %d s: %.3f %% of a core (budget 0.1)\n", s, 100 * t / hz / s }'
echo "idle: $(($(sum disk_bytes) - written)) bytes to disk over $idle s (budget 0)"
strace -f -qq -e signal=none -e trace=fsync,fdatasync,sync_file_range,syncfs,write,pwrite64,pwritev -o "$node_dir/trace" -p "$node_pid" &
tracer=$!
sleep "$idle"
kill "$tracer"
wait "$tracer" 2>/dev/null || :
echo "idle: $(grep -c sync "$node_dir/trace" || :) fsyncs, $(grep -c write "$node_dir/trace" || :) writes of the daemon over $idle s (budget 0)"

"$skep" service create -q -d --no-resolve-image --name loud --log-opt max-size=1m --log-opt max-file=2 busybox:bench \
  sh -c 'head -c 1024 /dev/zero | tr "\0" x; echo; sleep 20
         yes "$(head -c 99 /dev/zero | tr "\0" y)" | head -c 1073741824; echo; echo loud-done; sleep 100000' >/dev/null
shim=
deadline=$((SECONDS + 30))
until [ -n "$shim" ]; do
  shim=$(comm -13 <(printf '%s\n' $all | sort) <(pids shim | sort) | head -n 1)
  [ $SECONDS -lt $deadline ] || die "no shim of the loud service"
  sleep 0.2
done
sleep 5
echo "shim after 1 KB of log: PSS $(pss "$shim") KiB"
deadline=$((SECONDS + 900))
until "$skep" service logs --raw --tail 3 loud 2>&1 | grep -q loud-done; do
  [ $SECONDS -lt $deadline ] || die "1 GB of log took too long"
  sleep 1
done
echo "shim after 1 GB of log: PSS $(pss "$shim") KiB"
