#!/bin/busybox sh
# Finds the disk and hands over to the system on it. busybox only.
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
for module in virtio_pci virtio_blk; do /bin/busybox modprobe $module; done
# The kernel makes the node as soon as the driver has seen the disk, which modprobe waits for.
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox sh
/bin/busybox umount /proc
/bin/busybox umount /sys
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
