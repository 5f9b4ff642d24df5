#!/usr/bin/env bash
# A swarm of three machines: how fast it forms, starts replicas and gets over the loss of a node or of
# its leader; whether lost packets make a node look dead; what a node costs while nothing happens.
#
# The machines are network namespaces of this one, so all of them share its cores and its disk.
#
#   sudo tests/bench/swarm.sh [form|node|leader|loss|idle …]    (default: all)
#   ROUNDS=30   rounds of form, node and leader      LOSS_SECONDS=600      IDLE_SECONDS=60
#   NODES=3     machines of idle                     SKEP=path skips the release build
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tests/lib/tools.sh"
. "$top/tests/lib/node.sh"
. "$top/tests/lib/swarm.sh"
rounds=${ROUNDS:-30}
need_root tests/bench/swarm.sh
need_packages ip:iproute2 nft:nftables runc:runc strace:strace curl:curl jq:jq
[ -n "${SKEP:-}" ] || need_rust
skep=${SKEP:-$(release_binary)}

micros() { printf '%s' "${EPOCHREALTIME/./}"; }

# Median and p99 in milliseconds of the microseconds in a file, as a line named $1.
told() {
  local p50 p99
  read -r p50 p99 < <(awk '{ print $1 / 1000 }' "$2" | percentiles)
  printf '  %-46s p50 %8s ms   p99 %8s ms   (%d rounds)\n' "$1" "$p50" "$p99" "$(wc -l <"$2")"
}

# Number of a service's running tasks, and the microseconds at which the last one got there.
# Machine $1 is asked for service $2; tasks on node $3 do not count.
running() {
  local line
  line=$(api_of "$1" "/tasks?filters=%7B%22service%22%3A%5B%22$2%22%5D%7D" | jq -r --arg not "${3:-}" '
    [.[] | select(.Status.State == "running" and .DesiredState == "running" and .NodeID != $not) | .Status.Timestamp]
    | "\(length) \(max // "-")"')
  case $line in *' -' | '') echo "0 0" ;; *) echo "${line% *} $(date -u -d "${line#* }" +%s%6N)" ;; esac
}

# Waits until $3 tasks of service $2 run, by machine $1; prints the microseconds since $4.
running_after() {
  local count at deadline=$((SECONDS + 120))
  while :; do
    read -r count at < <(running "$1" "$2" "${5:-}")
    [ "$count" -lt "$3" ] || break
    [ $SECONDS -lt $deadline ] || { on "$1" service ps "$2" >&2; die "$3 tasks of $2 did not run"; }
    sleep 0.02
  done
  echo $((at - $4))
}

# Waits until machine $1 shows node $2 in state $3.
state_is() {
  local deadline=$((SECONDS + 60))
  until [ "$(api_of "$1" /nodes | jq -r --arg id "$2" '.[] | select(.ID == $id) | .Status.State')" = "$3" ]; do
    [ $SECONDS -lt $deadline ] || die "node $2 is not $3"
  done
}

no_tasks() {
  local deadline=$((SECONDS + 60))
  until [ "$(api_of 1 /tasks | jq length)" = 0 ]; do
    [ $SECONDS -lt $deadline ] || die "tasks of removed services stay"
    sleep 0.05
  done
}

id_of() { api_of "$1" /info | jq -r .Swarm.NodeID; }

form() {
  echo "form: init, join, first replicas"
  swarm_start "$skep" 3
  local out=$swarm_dir round from token replicas
  for round in $(seq "$rounds"); do
    from=$(micros)
    on 1 init --advertise-addr 10.9.1.1 >/dev/null
    swarm_ready 1
    echo $(($(micros) - from)) >>"$out/init"
    token=$(on 1 join-token -q worker)
    from=$(micros)
    on 2 join --token "$token" 10.9.1.1 >/dev/null
    swarm_ready 2
    echo $(($(micros) - from)) >>"$out/worker"
    token=$(on 1 join-token -q manager)
    from=$(micros)
    on 3 join --token "$token" 10.9.1.1 >/dev/null
    swarm_ready 3
    echo $(($(micros) - from)) >>"$out/manager"
    for replicas in 1 10 50; do
      from=$(micros)
      on 1 service create -q -d --stop-signal KILL --name "s$replicas" --replicas "$replicas" skep/hello >/dev/null
      running_after 1 "s$replicas" "$replicas" "$from" >>"$out/create$replicas"
      on 1 service rm "s$replicas" >/dev/null
      no_tasks
    done
    swarm_reset
  done
  told "init until ready" "$out/init"
  told "join as a worker until ready" "$out/worker"
  told "join as a manager until ready and reachable" "$out/manager"
  for replicas in 1 10 50; do told "create of $replicas replicas until all run" "$out/create$replicas"; done
  swarm_stop
}

node() {
  echo "node: cable pulled, then kill -9 of everything on it"
  swarm_start "$skep" 3
  swarm_init worker worker
  local out=$swarm_dir round from victim pids
  victim=$(id_of 3)
  on 1 service create -q -d --name web --replicas 6 skep/hello >/dev/null
  running_after 1 web 6 0 >/dev/null
  for round in $(seq "$rounds"); do
    on 1 service update -q -d --force web >/dev/null
    # As many as it had before are on the victim again.
    local deadline=$((SECONDS + 90))
    until [ "$(api_of 1 "/tasks?filters=%7B%22service%22%3A%5B%22web%22%5D%2C%22node%22%3A%5B%22$victim%22%5D%7D" |
      jq '[.[] | select(.Status.State == "running" and .DesiredState == "running")] | length')" -ge 2 ] &&
      [ "$(running 1 web | cut -d' ' -f1)" = 6 ]; do
      [ $SECONDS -lt $deadline ] || { on 1 service ps web >&2; die "the tasks do not come back to node 3"; }
      sleep 0.1
    done
    pids=$(machine_pids 3)
    from=$(micros)
    machine_cut 3
    machine_kill 3 $pids
    state_is 1 "$victim" down
    echo $(($(micros) - from)) >>"$out/down"
    running_after 1 web 6 "$from" "$victim" >>"$out/elsewhere"
    machine_plug 3
    machine_start 3
    state_is 1 "$victim" ready
  done
  told "node dies: down" "$out/down"
  told "node dies: its replicas run elsewhere" "$out/elsewhere"
  swarm_stop
}

leader() {
  echo "leader: kill -9 of its daemon, until another manager has taken a change"
  swarm_start "$skep" 3
  swarm_init manager manager
  on 1 service create -q -d --name web skep/hello >/dev/null
  local out=$swarm_dir round from n leads other
  for round in $(seq "$rounds"); do
    leads=
    until [ -n "$leads" ]; do
      leads=$(api_of 1 /nodes | jq -r '.[] | select(.ManagerStatus.Leader) | .ManagerStatus.Addr')
      leads=${leads#10.9.1.} leads=${leads%:*}
    done
    other=$((leads % 3 + 1))
    from=$(micros)
    kill -9 "${swarm_pids[leads]}"
    until on "$other" service update -q -d --label-add "round=$round" web >/dev/null 2>&1; do :; done
    echo $(($(micros) - from)) >>"$out/next"
    wait "${swarm_pids[leads]}" 2>/dev/null || :
    machine_start "$leads"
    swarm_ready 3 "$other"
    for n in 1 2 3; do swarm_ready 3 "$n"; done
  done
  told "leader dies: next service update is accepted" "$out/next"
  swarm_stop
}

loss() {
  local seconds=${LOSS_SECONDS:-600} n downs
  echo "loss: each of three nodes loses 10 % of what it sends and gets, for $seconds s"
  swarm_start "$skep" 3
  swarm_init manager manager
  on 1 service create -q -d --name web --replicas 6 skep/hello >/dev/null
  running_after 1 web 6 0 >/dev/null
  ip netns exec "${swarm_ns}b" nft -f - <<'NFT'
table bridge loss {
  chain lose { type filter hook forward priority 0; numgen random mod 100 < 10 counter drop; }
}
NFT
  local tasks
  tasks=$(on 1 service ps -q --no-trunc web | sort)
  for n in 1 2 3; do wc -l <"$swarm_dir/$n/log" >"$swarm_dir/$n/lines"; done
  sleep "$seconds"
  downs=$(for n in 1 2 3; do tail -n "+$(($(cat "$swarm_dir/$n/lines") + 1))" "$swarm_dir/$n/log"; done | grep -c 'is Down' || :)
  printf '  dropped: %s\n' "$(ip netns exec "${swarm_ns}b" nft list chain bridge loss lose | sed -n 's/.*counter \(packets [0-9]*\).*/\1/p')"
  printf '  nodes held for down: %s (goal 0), changes of the leader: %s, tasks moved: %s\n' "$downs" \
    "$(for n in 1 2 3; do tail -n "+$(($(cat "$swarm_dir/$n/lines") + 1))" "$swarm_dir/$n/log"; done | grep -c 'this node leads' || :)" \
    "$(comm -13 <(echo "$tasks") <(on 1 service ps -q --no-trunc web | sort) | wc -l)"
  swarm_stop
}

idle() {
  local seconds=${IDLE_SECONDS:-60} nodes=${NODES:-3} n face
  echo "idle: $nodes nodes, three of them managers, a service on each, for $seconds s"
  swarm_start "$skep" "$nodes"
  local roles=(manager manager)
  for n in $(seq 4 "$nodes"); do roles+=(worker); done
  swarm_init "${roles[@]}"
  on 1 service create -q -d --name web --mode global skep/hello >/dev/null
  running_after 1 web "$nodes" 0 >/dev/null
  sleep 20
  faces() { # daemon, proxy or shim of a machine
    local dir
    for dir in /proc/[0-9]*; do
      tr '\0' ' ' 2>/dev/null <"$dir/cmdline" | grep -q "^[^ ]*skep $2 .*$swarm_dir/$1/" && echo "${dir#/proc/}"
    done
    return 0
  }
  sum() { # of what an awk program says of a /proc file of a machine's daemon, proxy and shims
    local pid total=0
    for pid in ${all[$1]}; do total=$((total + $(awk "$3" "/proc/$pid/$2"))); done
    echo "$total"
  }
  sent() { ip netns exec "$swarm_ns$1" cat /sys/class/net/eth0/statistics/tx_bytes; }
  local -a all ticks bytes disk
  for n in $(seq "$nodes"); do all[n]=$(for face in daemon proxy shim; do faces "$n" "$face"; done | tr '\n' ' '); done
  for n in $(seq "$nodes"); do
    ticks[n]=$(sum "$n" stat '{ print $14 + $15 }') bytes[n]=$(sent "$n") disk[n]=$(sum "$n" io '/^write_bytes/ { print $2 }')
  done
  sleep "$seconds"
  for n in $(seq "$nodes"); do
    awk -v n="$n" -v role="$([ "$n" -le 3 ] && echo manager || echo worker)" -v hz="$(getconf CLK_TCK)" -v s="$seconds" \
      -v pss="$(sum "$n" smaps_rollup '/^Pss:/ { print $2 }')" -v t="$(($(sum "$n" stat '{ print $14 + $15 }') - ticks[n]))" \
      -v b="$(($(sent "$n") - bytes[n]))" -v d="$(($(sum "$n" io '/^write_bytes/ { print $2 }') - disk[n]))" 'BEGIN {
        printf "  machine %2d (%s): PSS %.1f MiB, CPU %.2f %%, %d bytes sent a second, %d bytes to disk\n", n, role, pss / 1024, 100 * t / hz / s, b / s, d }'
  done
  strace -f -qq -e signal=none -e trace=fsync,fdatasync,sync_file_range,syncfs -o "$swarm_dir/trace" -p "${swarm_pids[1]}" &
  local tracer=$!
  sleep "$seconds"
  kill "$tracer"
  wait "$tracer" 2>/dev/null || :
  echo "  machine 1: $(grep -c sync "$swarm_dir/trace" || :) fsyncs in $seconds s (goal 0)"
  swarm_stop
}

[ $# -gt 0 ] || set -- form node leader loss idle
for part in "$@"; do
  case $part in
    form | node | leader | loss | idle) "$part" ;;
    *) die "unknown part: $part (form, node, leader, loss, idle)" ;;
  esac
done
