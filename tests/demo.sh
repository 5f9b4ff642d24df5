#!/usr/bin/env bash
# The main job on a fresh machine: builds skep, starts a node, runs a first service and shows that it
# answers, scales and heals. Leaves the node running; --clean stops it and removes every trace.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
. tests/lib/tools.sh

port=${PORT:-8080}
case ${1:-} in
  '' | --clean) ;;
  -h | --help)
    say "usage: tests/demo.sh [--clean]   (PORT=8080 is where the service is published)"
    exit 0
    ;;
  *) die "unknown argument: $1 (usage: tests/demo.sh [--clean])" ;;
esac
need_root tests/demo.sh

skep=/usr/local/bin/skep
data=/var/lib/skep
exec=/run/skep

# The daemon's process, 0 when none runs.
daemon_pid() {
  local pid
  pid=$(cat "$data/lock" 2>/dev/null || :)
  case $(tr '\0' ' ' 2>/dev/null <"/proc/${pid:-0}/cmdline" || :) in
    *"skep daemon "*) echo "$pid" ;;
    *) echo 0 ;;
  esac
}

clean() {
  if [ -S "$exec/skep.sock" ]; then
    "$skep" leave --force || say "no swarm to leave"
  fi
  if [ -d /run/systemd/system ] && [ -e /etc/systemd/system/skep.service ]; then
    systemctl disable --quiet --now skep.service skep-tasks.service
    rm -f /etc/systemd/system/skep.service /etc/systemd/system/skep-tasks.service
    systemctl daemon-reload
  fi
  local pid deadline=$((SECONDS + 15))
  pid=$(daemon_pid)
  if [ "$pid" != 0 ]; then
    kill "$pid"
    while [ -d "/proc/$pid" ]; do
      [ $SECONDS -lt $deadline ] || die "the daemon (process $pid) does not end"
      sleep 0.1
    done
  fi
  ! grep -q " $exec/" /proc/mounts || die "containers still have mounts below $exec: stop them first"
  local left="no file of skep"
  if grep -qsx binary "$mine"; then
    rm -f "$skep"
  elif [ -e "$skep" ]; then
    left="of its files only $skep, which was there before,"
  fi
  rm -rf "$data" "$exec"
  say "clean: no process, no container, $left is left"
}

# What this script made: a line `binary` when it installed one, and which node.
mine=$data/.demo
node() {
  printf 'node %s\n' "$(sha256sum <"$data/node/identity")"
}
# What somebody has made for another purpose is neither used nor removed.
if [ -e "$data" ] && [ ! -e "$mine" ]; then
  die "this machine has a folder $data that this script did not make: it stays untouched"
fi
if [ -e "$data/node/identity" ] && ! grep -qsxF "$(node)" "$mine"; then
  die "this machine has a node that this script did not make: it stays untouched"
fi

if [ "${1:-}" = --clean ]; then
  clean
  exit 0
fi

need_packages gcc:gcc make:make ip:iproute2 nft:nftables runc:runc curl:curl
need_rust
say "building (some minutes the first time)"
cargo build --release --quiet
built=$(cargo build --release --quiet --message-format=json | sed -n 's/.*"executable":"\([^"]*\/skep\)".*/\1/p' | tail -n 1)
mkdir -p -m 700 "$data"
[ -e "$mine" ] || { [ -e "$skep" ] || echo binary; } >"$mine"
install -m 755 "$built" "$skep"

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

# Waits until the published port has answered from this many different host names.
answers_from() {
  local wanted=$1 deadline=$((SECONDS + 60)) names=
  while :; do
    names=$(for _ in $(seq 20); do curl -s -m 2 "http://127.0.0.1:$port/" || :; done | sort -u)
    [ "$(printf '%s\n' "$names" | grep -c .)" -ge "$wanted" ] && break
    [ $SECONDS -lt $deadline ] || die "the service did not answer from $wanted replicas; got: $names"
  done
  printf '%s\n' "$names"
}

if "$skep" node ls >/dev/null 2>&1; then
  say "a node runs already; using it"
  "$skep" service rm website >/dev/null 2>&1 || :
else
  run "$skep" init
  node >>"$mine"
fi
run "$skep" service create --name website --publish "$port:80" skep/hello
run curl -s "http://127.0.0.1:$port/"
run "$skep" service scale website=3
printf '\n$ curl http://127.0.0.1:%s/   # twenty times: three replicas answer\n' "$port"
answers_from 3
run "$skep" service ps website

victim=$("$skep" service ps -q --no-trunc --filter desired-state=running website | head -n 1)
pid=$(curl -s --unix-socket "$exec/skep.sock" "http://localhost/tasks/$victim" | sed -n 's/.*"PID":\([0-9]*\).*/\1/p')
[ -n "$pid" ] || die "the task $victim has no process"
run kill -9 "$pid"
deadline=$((SECONDS + 60))
until "$skep" service ps -q --no-trunc --filter desired-state=running website | grep -qv "$victim" &&
  [ "$("$skep" service ls --filter name=website --format '{{.Replicas}}')" = 3/3 ]; do
  [ $SECONDS -lt $deadline ] || die "the killed container was not replaced within 60 s"
done
run "$skep" service ps website
answers_from 3

cat <<TEXT

The node is running, and the service answers on port $port of every address of this machine.
  look around:  sudo skep service ls; sudo skep service ps website; sudo skep service logs website
  stop it:      sudo tests/demo.sh --clean
TEXT
