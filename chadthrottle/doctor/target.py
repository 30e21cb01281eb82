"""The program asked about: alive, something that can be limited, and in which cgroup; and its sockets in which."""

from chadthrottle import cgroup
from chadthrottle.bpf.errors import errno_name
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.consequences import lack_of_root
from chadthrottle.doctor.delegation import told
from chadthrottle.doctor.finding import Group, Need, Outcome, failed, ok, unknown
from chadthrottle.doctor.socket_cgroups import sockets_of
from chadthrottle.errors import ChadthrottleError, KernelCannotError, NotPermittedError
from chadthrottle.model import ProcessIdentity
from chadthrottle.procs import NoSuchProcessError, ThreadIdError, inspect

__all__ = ["NO_ROOT_CGROUP", "SOCKETS", "TARGET", "TARGET_CGROUP"]

NO_ROOT_CGROUP = "CT-CGROUP-02"

_DOCTOR = "sudo chadthrottle doctor {pid}"
_NONE = "none was asked about: chadthrottle doctor PID looks at one"
_BLOCKED = frozenset({Need.TARGET, Need.TARGET_CGROUP})


def _target(context: Context) -> Outcome:
    if context.pid is None:
        return ok(_NONE)
    try:
        process = inspect(context.pid, allow_ancestors=True, command=_DOCTOR)
    except NotPermittedError as error:
        return unknown(error.message, came_back="EPERM", because=lack_of_root(context))
    except ChadthrottleError as error:
        return _no_target(context.pid, error)
    context.target = ProcessIdentity(process.pid, process.identity.start_ticks, process.name)
    return ok(f"PID {process.pid} ({process.name}) lives, and can be limited")


def _no_target(pid: int, error: ChadthrottleError) -> Outcome:
    if isinstance(error, ThreadIdError):
        cure: tuple[str, ...] = (f"sudo chadthrottle doctor {error.pid}",)
    elif isinstance(error, NoSuchProcessError):
        cure = ("Look up the number it has now, and ask again with that:", "  pgrep -a NAME   or   ss -tunp")
    else:
        cure = ("Ask about a program of user space:", "  pgrep -a NAME   or   ss -tunp")
    return failed(
        error.message,
        tried=f"/proc/{pid}/stat and /proc/{pid}/status",
        came_back="no process" if isinstance(error, NoSuchProcessError) else "a process that cannot be limited",
        means="what depends on the program is not tried; the rest of what is said holds all the same",
        cure=cure,
        blocks=_BLOCKED,
    )


def _target_cgroup(context: Context) -> Outcome:
    if context.target is None:
        return ok(_NONE) if context.pid is None else unknown("not looked up", because="CT-CGROUP-06")
    try:
        path = cgroup.path_of(context.target.pid)
    except NoSuchProcessError as error:
        return unknown(error.message, means="it ended while it was being looked at")
    except KernelCannotError as error:
        return _out_of_sight(context, error)
    return ok(told(path))


def _out_of_sight(context: Context, error: KernelCannotError) -> Outcome:
    try:
        cgroup.root()
    except KernelCannotError:
        return unknown(error.message, because=NO_ROOT_CGROUP)._replace(blocks=frozenset({Need.TARGET_CGROUP}))
    return failed(
        error.message,
        tried=f"the mounts of cgroup2, and every cgroup.procs below them, for {context.pid}",
        came_back="it is listed nowhere",
        means="no program can be attached to its cgroup from here: --at leaf cannot work",
        cure=("Run chadthrottle on the host; or limit it with --at root, the default.",),
        blocks=frozenset({Need.TARGET_CGROUP}),
    )


def _sockets(context: Context) -> Outcome:
    if context.target is None:
        return ok(_NONE) if context.pid is None else unknown("not looked up", because="CT-CGROUP-06")
    pid = context.target.pid
    try:
        found = sockets_of(pid)
        own = cgroup.path_of(pid).stat().st_ino
    except OSError as error:
        return unknown(
            "its sockets could not be looked at",
            tried="SOCK_DIAG_BY_FAMILY in its network namespace",
            came_back=errno_name(error.errno or 0),
            means="it takes the kernel's inet_diag, tcp_diag and udp_diag",
            because=lack_of_root(context),
        )
    except ChadthrottleError as error:
        return unknown(error.message, because=lack_of_root(context))
    if found and not any(found.values()):
        return unknown("this kernel does not tell the cgroups of sockets", means="it does since Linux 5.8")
    strangers = {inode: number for inode, number in found.items() if number not in (0, own)}
    if not strangers:
        return ok(f"{len(found)} TCP and UDP sockets, all of its own cgroup")
    lines = [f"socket:[{inode}] is of {_path(number)}" for inode, number in sorted(strangers.items())]
    return ok(
        f"{len(strangers)} of {len(found)} TCP and UDP sockets belong to another cgroup than the program: made before "
        "it was moved, or passed to it. Hooks at the root, the default, reach them; with --at leaf nothing does",
        details=tuple(lines),
    )


def _path(cgroup_id: int) -> str:
    try:
        path = cgroup.find(cgroup_id)
    except KernelCannotError:
        path = None
    return f"cgroup {cgroup_id}, which is gone or out of sight" if path is None else str(path)


TARGET = Check("CT-CGROUP-06", Group.CGROUPS, "the program", _target, frozenset({Need.TARGET}))
TARGET_CGROUP = Check(
    "CT-CGROUP-07", Group.CGROUPS, "the program's cgroup", _target_cgroup, frozenset({Need.CGROUP2, Need.TARGET})
)
SOCKETS = Check(
    "CT-CGROUP-08", Group.CGROUPS, "the program's sockets", _sockets, frozenset({Need.CGROUP2, Need.TARGET})
)
