# Machines for scripts: network namespaces on one bridge, each with a daemon that has roots of its
# own. Sourced after tools.sh.
#
#   swarm_start BINARY N     machines 1 to N at 10.9.1.1, 10.9.1.2, …, none in a swarm
#   swarm_init ROLE …        machine 1 makes a swarm, the next ones join it as these roles
#   swarm_reset              all leave; daemons go on
#   swarm_stop               ends and removes everything (also at the script's end)
#   on N WORD …              skep's command line on machine N
#   api_of N PATH            what N's API answers
#   machine_start N          starts its daemon, waits until it answers
#   machine_cut N            its cable is pulled;  machine_plug N  and put in again
#   machine_kill N           kill -9 of its daemon, proxy, shims and containers, as a power cut does

swarm_start() {
  swarm_binary=$1 swarm_size=$2
  swarm_dir=$(mktemp -d "${TMPDIR:-/tmp}/skepswarm.XXXXXX")
  swarm_ns=sks$$
  swarm_pids=()
  trap swarm_stop EXIT
  ip netns add "${swarm_ns}b"
  ip -n "${swarm_ns}b" link add br0 type bridge
  ip -n "${swarm_ns}b" link set br0 up
  local n ns
  for n in $(seq "$swarm_size"); do
    ns=$swarm_ns$n
    ip netns add "$ns"
    ip -n "$ns" link set lo up
    ip -n "$ns" link add eth0 type veth peer name "p$n" netns "${swarm_ns}b"
    ip -n "$ns" addr add "10.9.1.$n/24" dev eth0
    ip -n "$ns" link set eth0 up
    ip -n "$ns" route add default via 10.9.1.254
    ip -n "${swarm_ns}b" link set "p$n" master br0
    ip -n "${swarm_ns}b" link set "p$n" up
    mkdir "$swarm_dir/$n"
    machine_start "$n"
  done
}

machine_start() {
  local n=$1 deadline=$((SECONDS + 30))
  nsenter "--net=/run/netns/$swarm_ns$n" -- "$swarm_binary" daemon \
    --data-root "$swarm_dir/$n/data" --exec-root "$swarm_dir/$n/exec" \
    >>"$swarm_dir/$n/log" 2>&1 </dev/null &
  swarm_pids[n]=$!
  until [ "$(api_of "$n" /_ping)" = OK ]; do
    kill -0 "${swarm_pids[n]}" 2>/dev/null || { tail -n 20 "$swarm_dir/$n/log" >&2; die "the daemon of machine $n ended"; }
    [ $SECONDS -lt $deadline ] || die "the daemon of machine $n did not get ready"
    sleep 0.05
  done
}

on() {
  local n=$1
  shift
  SKEP_HOST=unix://$swarm_dir/$n/exec/skep.sock "$swarm_binary" "$@"
}

api_of() { curl -s --unix-socket "$swarm_dir/$1/exec/skep.sock" "http://localhost$2" || :; }

swarm_init() {
  on 1 init --advertise-addr 10.9.1.1 >/dev/null
  local n=1 role
  for role in "$@"; do
    n=$((n + 1))
    on "$n" join --token "$(on 1 join-token -q "$role")" 10.9.1.1 >/dev/null
  done
  swarm_ready $((n))
}

# Waits until this many nodes are ready, and the managers among them reachable.
swarm_ready() {
  local deadline=$((SECONDS + 60))
  until [ "$(api_of "${2:-1}" /nodes | jq '[.[] | select(.Status.State == "ready" and (.ManagerStatus == null or .ManagerStatus.Reachability == "reachable"))] | length')" = "$1" ]; do
    [ $SECONDS -lt $deadline ] || { on "${2:-1}" node ls >&2; die "not all of $1 nodes got ready"; }
    sleep 0.05
  done
}

swarm_reset() {
  local n
  for n in $(seq "$swarm_size" -1 1); do on "$n" leave --force >/dev/null; done
}

machine_cut() { ip -n "${swarm_ns}b" link set "p$1" down; }
machine_plug() { ip -n "${swarm_ns}b" link set "p$1" up; }

# The processes of a machine: those of skep, and what runs in its tasks.
machine_pids() {
  local dir pid
  for dir in /proc/[0-9]*; do
    pid=${dir#/proc/}
    if tr '\0' ' ' 2>/dev/null <"$dir/cmdline" | grep -q "^[^ ]*skep \(daemon\|proxy\|shim\) .*$swarm_dir/$1/"; then
      echo "$pid"
      descendants "$pid"
    fi
  done | sort -un
}

descendants() {
  local child
  for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do
    echo "$child"
    descendants "$child"
  done
}

# Kills processes of machine $1 that machine_pids named before; so the kill itself takes no time.
machine_kill() {
  local n=$1
  shift
  [ $# -gt 0 ] || die "machine $n runs nothing"
  kill -9 "$@" 2>/dev/null || :
  wait "${swarm_pids[n]}" 2>/dev/null || :
}

swarm_stop() {
  trap - EXIT
  local n
  for n in $(seq "$swarm_size"); do
    on "$n" leave --force >/dev/null 2>&1 || :
    kill "${swarm_pids[n]:-}" 2>/dev/null && wait "${swarm_pids[n]}" 2>/dev/null
    ip netns del "$swarm_ns$n" || :
  done
  ip netns del "${swarm_ns}b" || :
  rm -rf "$swarm_dir"
}
