#!/bin/busybox sh
# PID 1 of the guest: makes a root of the host's files below a layer of memory; finish.sh goes on there.
#
# The console is for the kernel and for us; the command has the second serial line to itself. What the
# host believes is "guest: status N", written by finish.sh: without it the guest did not get that far.
set -e
trap 'echo "guest: init failed"; poweroff -f' EXIT

/bin/busybox mkdir -p /proc /sys /dev /host /memory /root
/bin/busybox --install -s /bin
export PATH=/bin

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
modprobe -a virtio_pci 9pnet_virtio 9p overlay tun # nothing else makes /dev/net/tun

# cache=loose: nobody changes what a read-only share shows, not for as long as this takes.
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose host /host
mount -t tmpfs -o size=75% memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /root

mount -t proc proc /root/proc
mount -t sysfs sys /root/sys
mount -t devtmpfs dev /root/dev
mkdir -p /root/dev/shm /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t tmpfs run /root/run
mount -t tmpfs tmp /root/tmp
mount -t bpf bpf /root/sys/fs/bpf
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
cp /boot/config-* /root/boot/ # as the package would have put it
ip link set lo up

stty -F /dev/ttyS1 raw -echo # lines end as the command writes them
# The kernel loads veth, HTB, … when the tests ask for them, and the host may have no modprobe.
mkdir -p /root/lib/modules /root/run/guest
mount --bind /lib/modules /root/lib/modules
cp /bin/busybox /root/run/guest/modprobe
echo /run/guest/modprobe >/proc/sys/kernel/modprobe

# The layer becomes the root of everything, PID 1 included: the tests look at /proc/1/root.
cp /bin/busybox /command /finish /root/run/guest/
cd /root
mount --move . /
exec chroot . /run/guest/busybox sh /run/guest/finish
