"""Runs a command as root on another kernel: a Debian package, under qemu, on this machine's files.

    kernels.py      a version ──> its package, unpacked: kernel image, configuration, modules
    initramfs.py    kernel, command ──> what the kernel starts with: busybox, modules, init.sh, finish.sh
    guest.py        both ──> qemu's run: the command's output as it comes, and its exit status

The guest sees the host's files read-only below a layer in memory: nothing it does outlives it. It has
no network but its own loopback. qemu needs no privileges, and sees what the caller may read.
"""
