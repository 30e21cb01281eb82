"""All that a bug report needs, as members of one archive: collected, redacted, written.

What is not permitted is said in its member, and the rest is there: without root a report has less in it.
"""

import gzip
import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from chadthrottle import __version__, cgroup
from chadthrottle.bpf.errors import VerifierError, errno_name
from chadthrottle.doctor.finding import Report, Status
from chadthrottle.doctor.redact import Redactor
from chadthrottle.errors import ChadthrottleError, NotPermittedError, UsageError

__all__ = ["collect", "people", "require_free", "write"]

_LIBRARIES = ("click", "pyelftools", "pyroute2", "psutil")
_OBJECTS = ("throttle", "queue", "trial", "traffic")
_PREFIX = "chadthrottle-report"
_MOST_CGROUPS = 2000
_NOT_THERE = "not available"


def people() -> Redactor:
    """A redactor that knows this machine's name and people."""
    import pwd

    node = os.uname().nodename
    hosts = {node, node.partition(".")[0]}
    users, homes = set(), set()
    for each in pwd.getpwall():
        if 1000 <= each.pw_uid < 65534:
            users.add(each.pw_name)
            homes.add(each.pw_dir)
    return Redactor(hosts, users, homes)


def collect(report: Report, text: str, as_json: str, redact: Redactor, pid: int | None = None) -> dict[str, str]:
    """The members, by name, redacted. `text` and `as_json` are doctor's report as the command line tells it."""
    parts: dict[str, Callable[[], str]] = {
        "doctor.txt": lambda: text,
        "doctor.json": lambda: as_json,
        "versions.txt": _versions,
        "kernel-config.txt": _kernel_config,
        "cgroups.txt": lambda: _cgroups(pid),
        "programs.txt": _programs,
        "links.txt": _links,
        "limits.json": _limits,
        "verifier.txt": lambda: _verifier(report),
        "kernel-log.txt": _kernel_log,
    }
    members = {name: _redacted(name, _or_why(part), redact) for name, part in parts.items()}
    return {"README.txt": _readme(members, redact), **members}


def require_free(path: Path) -> None:
    """Raises UsageError when something is at `path`; `write` makes sure."""
    if os.path.lexists(path):
        raise _taken(path)


def write(path: Path, members: dict[str, str]) -> None:
    """A tar.gz for its owner alone. Never over anything: raises UsageError; NotPermittedError, OSError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise _taken(path) from error
    except PermissionError as error:
        raise NotPermittedError(f"{path}: {error.strerror}", hint="Name a file that this user may write.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be made: {error.strerror}", hint="Name a file that can be written.") from error
    try:
        with open(fd, "wb") as file, gzip.GzipFile(filename="", fileobj=file, mode="wb") as packed:
            with tarfile.open(fileobj=packed, mode="w") as archive:
                for name, text in members.items():
                    _add(archive, name, text)
    except BaseException:
        with suppress(FileNotFoundError):
            path.unlink()
        raise


def _taken(path: Path) -> UsageError:
    return UsageError(f"{path} is there already, and is not overwritten", hint="Name another file.")


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode("utf-8", "replace")
    about = tarfile.TarInfo(f"{_PREFIX}/{name}")
    about.size, about.mtime, about.mode = len(data), int(time.time()), 0o600
    archive.addfile(about, io.BytesIO(data))


def _redacted(name: str, text: str, redact: Redactor) -> str:
    """Of JSON each string by itself, so that it stays JSON."""
    if not name.endswith(".json") or text.startswith(_NOT_THERE):
        return redact(text)
    return json.dumps(_in_strings(json.loads(text), redact), indent=1, ensure_ascii=False) + "\n"


def _in_strings(value: object, redact: Redactor) -> object:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_in_strings(each, redact) for each in value]
    if isinstance(value, dict):
        return {key: _in_strings(each, redact) for key, each in value.items()}
    return value


def _or_why(part: Callable[[], str]) -> str:
    try:
        return part()
    except ChadthrottleError as error:
        return f"{_NOT_THERE}: {error.message}\n"
    except OSError as error:
        return f"{_NOT_THERE}: {errno_name(error.errno or 0)}: {error.strerror}\n"


def _readme(members: dict[str, str], redact: Redactor) -> str:
    lines = [f"A report of chadthrottle {__version__}; each file is text.", ""]
    lines += [f"{name:20}{len(text.encode()):8} bytes" for name, text in members.items()]
    return "\n".join([*lines, "", redact.summary(), "No command line of any process was read.", ""])


def _versions() -> str:
    from importlib import metadata

    from chadthrottle.artifacts import flavour, object_path

    lines = [f"chadthrottle {__version__} (objects: {flavour()})", f"Python {platform.python_version()}"]
    for name in _LIBRARIES:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name}: version unknown")
    for name in _OBJECTS:
        try:
            stamp = object_path(name).read_bytes().partition(b"sources=sha256:")
        except ChadthrottleError as error:
            lines.append(error.message)
            continue
        told = (stamp[1] + stamp[2]).partition(b"\0")[0].decode("ascii", "replace") if stamp[1] else "no stamp"
        lines.append(f"{name}.bpf.o: {' '.join(told.split())}")
    about = os.uname()
    lines += [f"Linux {about.release} {about.version} {about.machine}", *_distribution()]
    return "\n".join([*lines, ""])


def _distribution() -> Iterator[str]:
    with suppress(OSError):
        for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
            if line.startswith(("PRETTY_NAME=", "VERSION_ID=")):
                yield line


def _kernel_config() -> str:
    from chadthrottle.bpf.kconfig import running_kconfig

    config = running_kconfig()
    if config.text is None:
        return f"{_NOT_THERE}: there is no {config.where}\n"
    about = ("BPF", "CGROUP", "NET_SCH", "NET_CLS", "NET_ACT", "IFB", "SECURITY_LOCKDOWN", "DEBUG_INFO_BTF", "VETH")
    lines = [line for line in config.text.splitlines() if any(each in line for each in about) and "CONFIG_" in line]
    return "\n".join([f"# from {config.where}", *lines, ""])


def _cgroups(pid: int | None) -> str:
    """Directories from the root down: of the target's branch all, of the others the first two levels."""
    from chadthrottle.bpf.cgroupfs import cgroup2_mounts

    lines = [f"mounted at {each.mount_point} (root {each.root})" for each in cgroup2_mounts()]
    target = None
    if pid is not None:
        with suppress(ChadthrottleError):
            target = cgroup.path_of(pid)
        lines.append(f"process {pid}: {target or 'ended, or not to be seen'}")
    top = cgroup.root()
    for directory, names, _ in os.walk(top):
        here = Path(directory)
        depth = len(here.relative_to(top).parts)
        on_the_way = target is not None and (target.is_relative_to(here) or here.is_relative_to(target))
        if depth >= 2 and not on_the_way:
            names.clear()
        names.sort()
        if len(lines) > _MOST_CGROUPS:
            return "\n".join([*lines, "… and more", ""])
        mark = "  <- the program" if here == target else ""
        lines.append(f"{'  ' * depth}{here.name if depth else here}{_about_cgroup(here)}{mark}")
    return "\n".join([*lines, ""])


def _about_cgroup(path: Path) -> str:
    told = []
    for name in ("cgroup.type", "cgroup.controllers", "cgroup.subtree_control"):
        with suppress(OSError):
            told.append(f"{name.removeprefix('cgroup.')}={(path / name).read_text(encoding='ascii').strip() or '-'}")
    with suppress(OSError):
        told.append(f"owner={path.stat().st_uid}")
    return f"  ({', '.join(told)})"


def _programs() -> str:
    from chadthrottle.bpf.constants import BpfCmd, ProgType
    from chadthrottle.bpf.errors import BpfError
    from chadthrottle.bpf.info import ids
    from chadthrottle.bpf.programs import Program

    lines = []
    for number in ids(BpfCmd.BPF_PROG_GET_NEXT_ID):
        try:
            with Program.by_id(number) as program:
                info = program.info()
        except BpfError as error:
            lines.append(f"{number}: {error.message}")
            continue
        lines.append(
            f"{number} {_named(ProgType, info.type)} {info.name or '-'} tag {info.tag} maps {list(info.map_ids)}"
        )
    return "\n".join([*(lines or ["none"]), ""]) + _attached()


def _attached() -> str:
    """By cgroup: what hangs on it, the root first."""
    from chadthrottle.bpf.cgroupfs import open_cgroup
    from chadthrottle.bpf.constants import AttachType
    from chadthrottle.bpf.errors import BpfError
    from chadthrottle.bpf.query import query_cgroup

    lines = ["", "attached to cgroups:"]
    hooks = [each for each in AttachType if each.name.startswith("BPF_CGROUP_")]
    for number, (directory, _, _) in enumerate(os.walk(cgroup.root())):
        if number >= _MOST_CGROUPS:
            break
        with suppress(BpfError), open_cgroup(directory) as opened:
            for hook in hooks:
                with suppress(BpfError):  # a hook that this kernel does not have
                    found = query_cgroup(opened.fd, hook)
                    lines += [f"{directory} {hook.name} {found.flags!r}: {each}" for each in found.programs]
    return "\n".join([*lines, ""])


def _links() -> str:
    from chadthrottle.bpf.constants import AttachType, BpfCmd, LinkType
    from chadthrottle.bpf.errors import BpfError
    from chadthrottle.bpf.info import ids
    from chadthrottle.bpf.links import Link

    lines = []
    for number in ids(BpfCmd.BPF_LINK_GET_NEXT_ID):
        try:
            with Link.by_id(number) as link:
                info = link.info()
        except BpfError as error:
            lines.append(f"{number}: {error.message}")
            continue
        hook = "" if info.attach_type is None else f" {_named(AttachType, info.attach_type)}"
        where = f" cgroup {info.cgroup_id}" if info.cgroup_id else ""
        where += f" ifindex {info.ifindex}" if info.ifindex else ""
        name = f" {info.name}" if info.name else ""
        lines.append(f"{number} {_named(LinkType, info.type)} program {info.program_id}{hook}{where}{name}")
    return "\n".join([*(lines or ["none"]), ""])


def _named(kind: Callable[[int], object], number: int) -> str:
    try:
        return str(getattr(kind(number), "name", number))
    except ValueError:  # newer than we know
        return str(number)


def _limits() -> str:
    from chadthrottle.limits import listing
    from chadthrottle.model import to_json

    found = listing()
    return json.dumps(to_json(found.rules, found.notes), indent=1) + "\n"


def _verifier(report: Report) -> str:
    """Of each object of ours: loaded, or the verifier's whole log; and what findings have of it."""
    from chadthrottle.artifacts import object_path
    from chadthrottle.bpf.loader import load
    from chadthrottle.bpf.parse import open_object

    lines = []
    for name in _OBJECTS:
        try:
            with load(open_object(object_path(name))):
                lines.append(f"{name}.bpf.o: loaded; the verifier had nothing to say")
        except VerifierError as error:
            lines += [f"{name}.bpf.o: {error.message}", error.log]
        except (ChadthrottleError, OSError) as error:
            lines.append(f"{name}.bpf.o: {error}")
    for each in report.findings:
        if each.outcome.status is Status.FAILED and each.outcome.details:
            lines += ["", f"{each.id}: {each.outcome.summary}", *each.outcome.details]
    return "\n".join([*lines, ""])


def _kernel_log() -> str:
    from chadthrottle.doctor.kernel_log import lines_about, read_log

    return "\n".join(lines_about(read_log()) or ["nothing about BPF or cgroups"]) + "\n"
