"""Which of the capabilities that limits take this process lacks: root in a container, or in a service, may have few."""

__all__ = ["NEEDED", "effective", "lacking", "missing"]

# include/uapi/linux/capability.h
CAP_NET_ADMIN = 12
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
CAP_PERFMON = 38
CAP_BPF = 39

NEEDED = {
    "CAP_SYS_ADMIN": CAP_SYS_ADMIN,  # entering network namespaces
    "CAP_SYS_PTRACE": CAP_SYS_PTRACE,  # looking at other users' processes
    "CAP_BPF": CAP_BPF,
    "CAP_NET_ADMIN": CAP_NET_ADMIN,
    "CAP_PERFMON": CAP_PERFMON,
}
# CAP_SYS_ADMIN stands in for these (Linux 5.8; before, it was the only one).
STOOD_IN_FOR = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON")


def missing() -> list[str]:
    """Their names; none if /proc does not tell."""
    has = effective()
    return [] if has is None else lacking(has)


def effective() -> int | None:
    """This process's effective set as bits; None if /proc does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            line = next((line for line in status if line.startswith("CapEff:")), None)
    except OSError:
        return None
    return None if line is None else int(line.split()[1], 16)


def lacking(effective: int) -> list[str]:
    """As `missing`, of a set as /proc/PID/status writes it (proc_pid_status(5))."""
    has_admin = bool(effective & 1 << CAP_SYS_ADMIN)
    return [
        name for name, bit in NEEDED.items() if not effective & 1 << bit and not (has_admin and name in STOOD_IN_FOR)
    ]
