#!/usr/bin/env bash
# A virtual machine with systemd and cgroup version 2: skep is installed as a unit, a service runs,
# the daemon is restarted and killed; then the power is cut in the middle of writes, round after
# round, and after each boot the service must run and every acknowledged change must be there.
#
#   tests/vm.sh [--rounds N] [--seed N] [--keep]
#
# Needs root (for the packages and the disk image) and about 2 GB below target/vm. The processor is
# emulated; where KVM works, VM_ACCEL=kvm VM_CPU=host makes the boots quicker. The binary is $SKEP_BIN, or the release build. What a power cut leaves of the
# disk: the machine is killed, and the recorded writes are applied to the disk up to the last flush;
# of those after it each sector survives by chance (tests/lib/powercut.py).
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
. tests/lib/tools.sh

rounds=10 seed=$RANDOM keep=
while [ $# -gt 0 ]; do
  case $1 in
  --rounds) rounds=$2; shift 2 ;;
  --seed) seed=$2; shift 2 ;;
  --keep) keep=1; shift ;;
  *) die "unknown argument: $1" ;;
  esac
done
need_root tests/vm.sh
need_packages qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs \
  python3:python3 depmod:kmod cpio:cpio busybox:busybox-static
[ "$(uname -m)" = x86_64 ] || die "tests/vm.sh boots an x86_64 kernel; this machine is $(uname -m)"
bin=${SKEP_BIN:-$(ls target/*/release/skep 2>/dev/null | head -n 1)}
[ -x "$bin" ] || die "no binary: cargo build --release, or set SKEP_BIN"

cache=$top/target/vm boot_seconds_max=${VM_BOOT_SECONDS:-600} disk_mib=1024
work=$cache/run-$$
mkdir -p "$work"
qemu=
cleanup() {
  [ -z "$qemu" ] || kill -9 "$qemu" 2>/dev/null || :
  [ -n "$keep" ] || rm -rf "$work"
}
trap cleanup EXIT

# The kernel of Debian's cloud images, unpacked and not installed.
kernel() {
  [ -e "$cache/kernel/done" ] && return 0
  apt_lists
  say "fetching the kernel"
  rm -rf "$cache/kernel" && mkdir -p "$cache/kernel/deb"
  local package
  package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  (cd "$cache/kernel/deb" && apt-get -qq -o APT::Sandbox::User=root download "$package")
  dpkg-deb -x "$cache"/kernel/deb/*.deb "$cache/kernel/tree"
  rm -rf "$cache/kernel/deb"
  local modules
  modules=$(echo "$cache"/kernel/tree/lib/modules/*)
  (cd "$modules/kernel" && rm -rf sound drivers/{gpu,hid,scsi,ata,infiniband,usb,md,hv,xen,nvme,iio,media,thermal,power,target} \
    fs/{btrfs,xfs,nfs,nfsd,cifs,smb,ceph,f2fs,ocfs2,gfs2,ntfs3,jfs,afs,ubifs,udf,reiserfs} net/{bluetooth,wireless,sctp,rds,tipc,openvswitch})
  depmod -b "$cache/kernel/tree" "$(basename "$modules")"
  touch "$cache/kernel/done"
}

# A minimal Debian with systemd, runc and nft.
system() {
  [ -e "$cache/system.tar" ] && return 0
  say "making the system (a few minutes, once)"
  mmdebstrap --quiet --variant=minbase \
    --include=systemd,systemd-sysv,dbus,udev,runc,nftables,iproute2,curl,kmod \
    "$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")" "$cache/system.new.tar"
  mv "$cache/system.new.tar" "$cache/system.tar"
}

initramfs() {
  local root=$work/initramfs version
  version=$(basename "$cache"/kernel/tree/lib/modules/*)
  mkdir -p "$root"/{bin,dev,proc,sys,root,"lib/modules/$version"}
  cp "$(command -v busybox)" "$root/bin/busybox"
  install -m 755 tests/vm/initramfs.sh "$root/init"
  cp "$cache/kernel/tree/lib/modules/$version"/modules.* "$root/lib/modules/$version/"
  (cd "$cache/kernel/tree/lib/modules/$version" && find kernel -name 'virtio*.ko' |
    cpio --quiet -pdm "$root/lib/modules/$version")
  (cd "$root" && find . | cpio --quiet -o -H newc) | gzip -1 >"$work/initramfs.gz"
}

disk() {
  local root=$work/root unit
  mkdir -p "$root"
  tar -xf "$cache/system.tar" -C "$root" --exclude='./dev/*'
  cp -a "$cache"/kernel/tree/lib/modules "$root/lib/"
  install -m 755 "$bin" "$root/usr/local/bin/skep"
  install -m 755 tests/vm/guest.sh "$root/usr/local/bin/vmtest"
  printf '%s\n' '/dev/vda / ext4 rw,noatime 0 1' >"$root/etc/fstab"
  echo vm >"$root/etc/hostname"
  head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$root/etc/machine-id"
  cat >"$root/etc/systemd/system/vmtest.service" <<'UNIT'
[Unit]
After=basic.target
[Service]
Type=simple
ExecStart=/usr/local/bin/vmtest
[Install]
WantedBy=multi-user.target
UNIT
  mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
  ln -s ../vmtest.service "$root/etc/systemd/system/multi-user.target.wants/vmtest.service"
  # What an emulated processor would spend its first minute on.
  for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
    e2scrub_reap.service systemd-timesyncd.service getty@tty1.service serial-getty@ttyS0.service \
    systemd-logind.service systemd-networkd.service systemd-udevd.service systemd-udev-trigger.service \
    systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-hwdb-update.service \
    systemd-random-seed.service systemd-update-utmp.service systemd-binfmt.service \
    systemd-tmpfiles-clean.timer modprobe@configfs.service modprobe@drm.service \
    modprobe@efi_pstore.service modprobe@fuse.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 -d "$root" "$work/disk.img" "${disk_mib}M"
  rm -rf "$root"
}

# boot PHASE: starts the machine on a copy of the disk, recording its writes; the console is a file.
boot() {
  cp --sparse=always "$work/disk.img" "$work/scratch.img"
  rm -f "$work/writes.log" && truncate -s $((disk_mib * 4))M "$work/writes.log"
  boots=$((boots + 1))
  console=$work/console-$(printf %02d "$boots").txt
  : >"$console"
  truncate -s 64K "$work/expect.raw"
  qemu-system-x86_64 -machine q35 -accel "${VM_ACCEL:-tcg}" -cpu "${VM_CPU:-Nehalem}" -smp 1 -m 768 \
    -display none -monitor none -no-reboot -serial "file:$console" \
    -kernel "$cache"/kernel/tree/boot/vmlinuz-* -initrd "$work/initramfs.gz" \
    -append "console=ttyS0 quiet loglevel=4 systemd.show_status=0 mitigations=off vmtest=$1" \
    -blockdev driver=file,filename="$work/scratch.img",node-name=data-file \
    -blockdev driver=raw,file=data-file,node-name=data \
    -blockdev driver=file,filename="$work/writes.log",node-name=log \
    -blockdev driver=blklogwrites,file=data,log=log,node-name=disk \
    -device virtio-blk-pci,drive=disk,write-cache=on,discard=off,write-zeroes=off \
    -drive if=virtio,format=raw,readonly=on,file="$work/expect.raw" \
    -nic user,restrict=on,model=virtio-net-pci -object rng-random,id=rng,filename=/dev/urandom \
    -device virtio-rng-pci,rng=rng >"$work/qemu.txt" 2>&1 &
  qemu=$!
}

# until_says PATTERN SECONDS: waits for a line of the test on the console.
until_says() {
  local until=$((SECONDS + $2))
  until grep -q "VMTEST $1" "$console"; do
    if grep -q "VMTEST FAILED" "$console"; then failed "the machine says so"; fi
    kill -0 "$qemu" 2>/dev/null || failed "the machine ended: $(cat "$work/qemu.txt")"
    [ $SECONDS -lt $until ] || failed "no \"$1\" on the console after $2 s"
    read -rt 0.2 <> <(:) || :
  done
}

failed() {
  keep=1
  # The machine tells more after its failure.
  local until=$((SECONDS + 60))
  until grep -q "VMTEST END" "$console" || [ $SECONDS -gt $until ] || ! kill -0 "$qemu" 2>/dev/null; do
    read -rt 0.2 <> <(:) || :
  done
  sed 's/\r$//' "$console" | tail -n 120 >&2
  say "vm: FAILED in boot $boots: $1 (seed $seed, console: $console)"
  exit 1
}

# Cuts the power and leaves on the disk what survives it.
cut_power() {
  kill -9 "$qemu"
  wait "$qemu" 2>/dev/null || :
  qemu=
  python3 tests/lib/powercut.py "$work/disk.img" "$work/writes.log" $((seed + boots))
}

# What the consoles so far say must be there: the last word on each service counts.
expectations() {
  sed 's/\r$//' "$work"/console-*.txt 2>/dev/null | awk '
    $1 == "VMTEST" && ($2 == "begin" || $2 == "acked") {
      must[$4] = $2 == "begin" ? "unknown" : $3 == "create" ? "present" : "absent" }
    END { for (name in must) print name, must[name] }' >"$work/expect.raw"
}

kernel
system
initramfs
disk
RANDOM=$seed boots=0
say "vm: seed $seed, $rounds power cuts, binary $bin ($(stat -c %s "$bin") bytes)"
: >"$work/expect.raw"
boot first
until_says "END" "$boot_seconds_max"
grep -a "VMTEST" "$console" >&2
# It powers itself off, which must not hang on a container.
until ! kill -0 "$qemu" 2>/dev/null; do
  [ $SECONDS -lt $((boot_seconds_max * 2)) ] || failed "the machine does not power off"
  read -rt 0.2 <> <(:) || :
done
! grep -a "Waiting for process.*skep" "$console" || failed "a process of skep ignores the end of the machine"
qemu=
cp "$work/scratch.img" "$work/disk.img"
acknowledged=0
for round in $(seq "$rounds"); do
  expectations
  boot again
  until_says "writing" "$boot_seconds_max"
  read -rt "$((RANDOM % 4)).$((RANDOM % 10))" <> <(:) || :
  left=$(cut_power)
  acked=$(grep -ac "VMTEST acked" "$console" || :)
  acknowledged=$((acknowledged + acked))
  say "round $round: $(sed -n 's/.*VMTEST \(answers again.*\)\r*$/\1/p' "$console" | tr -d '\r'), $acked changes acknowledged, then the power cut: $left"
done
expectations
boot last
until_says "OK again" "$boot_seconds_max"
until_says "END" "$boot_seconds_max"
kill -9 "$qemu" && qemu=
echo "vm: passed: systemd and cgroup v2, $rounds power cuts, $acknowledged acknowledged changes, none lost (seed $seed, $((SECONDS / 60)) min $((SECONDS % 60)) s)"
