"""Are the process numbers seen here the kernel's own?"""

import os

from chadthrottle.errors import KernelCannotError

__all__ = ["require_initial_namespaces"]

# include/linux/proc_ns.h (Linux 3.8), include/uapi/linux/nsfs.h since 6.18: the inode numbers of the initial
# namespaces. Others get theirs from PROC_DYNAMIC_FIRST (0xF0000000) up, so nothing else ever has these.
PROC_PID_INIT_INO = 0xEFFF_FFFC
PROC_TIME_INIT_INO = 0xEFFF_FFFA


def require_initial_namespaces() -> None:
    """PIDs and start times seen here are the kernel's own. Raises KernelCannotError (exit 5).

    BPF programs see the initial PID namespace's numbers. In a container's, 1234 is somebody else to
    them, and NSpid of /proc/PID/status, which translates, shows only the namespaces from the reader's
    down. A /proc of another namespace than ours cannot deceive: it either has no /proc/self, or,
    mounted outside of our namespace, shows that our namespace is not the initial one.
    """
    pid_namespace = _namespace_inode("pid")
    if pid_namespace not in (None, PROC_PID_INIT_INO):
        raise KernelCannotError(
            "this is a container: its process numbers are not the kernel's, and a limit on one "
            "would hit another process of that number",
            hint="Run chadthrottle on the host, with the PID the host shows (docker top, `lsns -t pid`), "
            "or give the container the host's PIDs (docker run --pid=host).",
        )
    if _namespace_inode("time") not in (None, PROC_TIME_INIT_INO):
        raise KernelCannotError(
            "this is a time namespace: start times seen here are not the kernel's, so a process cannot be told "
            "from a later one of its number",
            hint="Run chadthrottle outside of it: nsenter --time=/proc/1/ns/time chadthrottle …",
        )


def _namespace_inode(kind: str) -> int | None:
    """None on a kernel without such namespaces: everything is in the initial one, then."""
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino  # noqa: PTH116 # one call on every command needs no pathlib
    except FileNotFoundError:
        try:
            mine = os.readlink("/proc/self")  # noqa: PTH115
        except FileNotFoundError:
            mine = ""
        if mine == str(os.getpid()):
            return None
        raise KernelCannotError(
            "/proc is not mounted here, or shows the processes of another namespace",
            hint="mount -t proc proc /proc",
        ) from None
