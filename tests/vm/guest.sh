#!/bin/bash
# Runs in the virtual machine once it is up; what it says on the console tests/vm.sh reads.
# /dev/vdb holds what must be true of the services after the last power cut.
exec >/dev/ttyS0 2>&1
set -u
tell() { echo "VMTEST $*"; }
fail() {
  tell "FAILED $*"
  systemctl status --no-pager skep | head -20
  journalctl -b --no-pager -u skep -o cat | tail -40
  skep service ls
  skep service ps website --no-trunc
  skep node ls
  ps -eo pid,ppid,args 2>/dev/null | grep -v '\]$' || :
  find /sys/fs/cgroup/system.slice/skep* -type d
  tell "END"
  systemctl --force --force poweroff
}

answers() { # answers SECONDS: the published port answers within that time
  local until=$((SECONDS + $1))
  until curl -fsS --max-time 5 http://127.0.0.1:80/ >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || return 1
    read -rt 0.2 <> <(:) || :
  done
}
containers() { runc --root "$(find /run/skep -maxdepth 2 -name runc -type d | head -1)" list -q 2>/dev/null | sort; }
pids() { for p in /sys/fs/cgroup/system.slice/skep-tasks.service/*/*/cgroup.procs; do cat "$p"; done | sort -n; }

phase=$(sed -n 's/.*vmtest=\([a-z]*\).*/\1/p' /proc/cmdline)
modprobe virtio_net
ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0 && ip route add default via 10.0.2.2
tell "up after $(cut -d' ' -f1 /proc/uptime) s, $(systemctl --version | head -1), phase $phase"
[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] || fail "cgroups are not version 2"

first() {
  skep init || fail "skep init"
  systemctl is-active -q skep && systemctl is-enabled -q skep || fail "the unit is not active and enabled"
  skep service create -d --name website --replicas 2 --publish 80:80 --limit-memory 64M skep/hello ||
    fail "service create"
  answers 300 || fail "no answer on port 80"
  tell "answers"
  tasks=/sys/fs/cgroup/system.slice/skep-tasks.service
  [ "$(find $tasks -mindepth 2 -maxdepth 2 -type d | wc -l)" = 2 ] || fail "not two tasks in $tasks"
  grep -qx 67108864 $tasks/*/*/memory.max || fail "the memory limit is not set"
  grep -q skep.service /proc/$(systemctl show -P MainPID skep)/cgroup || fail "the daemon left its unit"
  tell "cgroup v2 tree: $(cd /sys/fs/cgroup && find system.slice/skep*.service -type d | tr '\n' ' ')"
  # A restart by systemd, and a death, keep every container.
  before=$(pids)
  systemctl restart skep || fail "systemctl restart"
  [ "$(pids)" = "$before" ] || fail "a restart changed the containers: $before; $(pids)"
  answers 20 || fail "no answer after the restart"
  kill -9 "$(systemctl show -P MainPID skep)"
  answers 30 || fail "no answer after the kill"
  until skep node ls >/dev/null 2>&1; do [ $SECONDS -lt 600 ] || fail "the daemon does not come back"; done
  [ "$(pids)" = "$before" ] || fail "a kill changed the containers: $before; $(pids)"
  systemctl daemon-reload
  [ "$(pids)" = "$before" ] || fail "a reload changed the containers"
  tell "OK first"
}

again() {
  local from=$SECONDS
  answers 300 || fail "the service does not run again"
  tell "answers again after $(cut -d' ' -f1 /proc/uptime) s of uptime"
  until skep node ls >/dev/null 2>&1; do [ $SECONDS -lt 600 ] || fail "the daemon does not answer"; done
  local have name must
  have=$(skep service ls --format '{{.Name}}') || fail "service ls"
  while read -r name must; do
    case $must in
    present) grep -qx "$name" <<<"$have" || fail "lost: $name was acknowledged and is gone" ;;
    absent) ! grep -qx "$name" <<<"$have" || fail "back: $name was removed and is there" ;;
    esac
  done < <(tr -d '\0' </dev/vdb | grep .)
  tell "OK again"
}

churn() {
  local name n=0
  for name in $(skep service ls --format '{{.Name}}' | grep '^s-'); do
    tell "begin rm $name"
    skep service rm "$name" >/dev/null && tell "acked rm $name"
  done
  tell "writing"
  while :; do
    n=$((n + 1))
    name=s-$(cut -c1-8 /proc/sys/kernel/random/uuid)
    tell "begin create $name"
    skep service create -d --name "$name" --replicas $((n % 2)) skep/hello >/dev/null && tell "acked create $name"
    if [ $((n % 3)) = 0 ]; then
      tell "begin rm $name"
      skep service rm "$name" >/dev/null && tell "acked rm $name"
    fi
    skep service update -d --env-add "N=$n" website >/dev/null || :
  done
}

case $phase in
first) first ;;
again) again; churn ;;
last) again ;;
esac
tell "END"
# The host measures how long the machine takes to go down: nothing may ignore its SIGTERM.
systemctl poweroff
