#!/bin/sh
# Runs a command, as root, with a root directory that is a mount.
#
#   tools/own_root.sh COMMAND...
#
# In a plain chroot it is none. ip(8) and unshare(1) then refuse to change namespaces ("mount --make-rslave /:
# Invalid argument"), which the kernel tests do all the time. So: the same files, mounted once more, for as long as
# the command takes.
set -eu

root=
cleanup() {
    [ -z "$root" ] || umount --lazy "$root" 2>/dev/null || true
    [ -z "$root" ] || rmdir "$root"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

root=$(mktemp -d /tmp/chadthrottle-root-XXXXXX)
mount --rbind / "$root"
# A slave: what is mounted and unmounted in there shows nowhere else.
mount --make-rslave "$root"
# shellcheck disable=SC2016 # for the inner shell
chroot "$root" sh -c 'cd "$1" && shift && exec "$@"' sh "$PWD" "$@"
