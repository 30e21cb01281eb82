"""`python -m chadthrottle.bpf check|load|dump OBJ`: the runtime by itself, on anyone's object."""

import argparse
import errno
import os
import sys
from pathlib import Path
from typing import Any

from chadthrottle.bpf import commands, syscall
from chadthrottle.bpf.map_load import DEFAULT_MAP_BYTES_LIMIT
from chadthrottle.bpf.parse import open_object
from chadthrottle.bpf.spec import ObjectSpec
from chadthrottle.errors import ChadthrottleError, UsageError

_EPILOG = """exit status: 0 done, 2 wrong arguments or not a BPF object, 3 not permitted,
5 the kernel refused"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chadthrottle.bpf",
        description="Try, load or show a BPF object file. No libbpf, no compiler.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = sub.add_parser("check", help="load every program by itself, attach nothing, keep nothing")
    load = sub.add_parser("load", help="load the whole object, and pin it")
    dump = sub.add_parser("dump", help="show what the object declares; needs no root")
    for one in (check, load, dump):
        one.add_argument("object", metavar="OBJ", type=Path, help="a compiled object (.bpf.o)")
        one.add_argument("--json", action="store_true", help="machine-readable, schema 1")
    for one in (check, load):
        one.add_argument("program", metavar="PROGRAM", nargs="*", help="only these; default all but ?-sections")
        one.add_argument("--set", metavar="VAR=N", action="append", default=[], help="set a global variable first")
        one.add_argument(
            "--entries", metavar="MAP=N", action="append", default=[], help="set a map's max_entries first"
        )
        one.add_argument(
            "--value-size",
            metavar="MAP=BYTES",
            action="append",
            default=[],
            help="set the size of a map's values first",
        )
        one.add_argument(
            "--map-memory",
            metavar="MIB",
            type=int,
            default=DEFAULT_MAP_BYTES_LIMIT >> 20,
            help="refuse a map that takes more (default: %(default)s)",
        )
        one.add_argument("--debug", action="store_true", help="log each bpf(2) call to standard error")
    check.add_argument("--verbose", action="store_true", help="show the verifier's whole log")
    load.add_argument(
        "--pin",
        metavar="DIR",
        type=Path,
        help="pin programs and maps in this directory of a bpffs, made if missing",
    )
    return parser


def _numbers(pairs: list[str], what: str) -> dict[str, int]:
    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            found[name] = int(text, 0)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise UsageError(f"{what} takes NAME=NUMBER, not {pair!r}")
    return found


def _configured(arguments: argparse.Namespace) -> ObjectSpec:
    spec = open_object(arguments.object)
    spec = spec.with_constants(_numbers(arguments.set, "--set"))
    sizes = _numbers(arguments.value_size, "--value-size")
    return spec.with_map_sizes(_numbers(arguments.entries, "--entries"), sizes)


def _run(arguments: argparse.Namespace) -> tuple[commands.Answer, int]:
    if arguments.command == "dump":
        return commands.dump(open_object(arguments.object)), 0
    if arguments.map_memory < 1:
        raise UsageError(f"--map-memory takes a number of MiB from 1, not {arguments.map_memory}")
    limit = arguments.map_memory << 20
    if arguments.command == "check":
        return commands.check(_configured(arguments), arguments.program, limit, verbose=arguments.verbose)
    return commands.load_and_pin(_configured(arguments), arguments.program, arguments.pin, limit), 0


def _print_json(data: dict[str, Any]) -> None:
    import json  # not for the others: importing it costs milliseconds

    print(json.dumps(data))


def _out_of_the_ordinary(error: OSError | MemoryError) -> ChadthrottleError:
    """What befell this process and not the object: no descriptors left, no memory, a /proc that cannot be read."""
    what = "out of memory" if isinstance(error, MemoryError) else str(error)
    few = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
    hint = "Raise the limit of open files with `ulimit -n` (RLIMIT_NOFILE)." if few else None
    return ChadthrottleError(what, hint=hint)


def _printable(text: str) -> str:
    """Without what a hostile object's names could do to a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status comes back. Nothing is raised but SystemExit by argparse."""
    arguments = _parser().parse_args(argv)
    if getattr(arguments, "debug", False):
        syscall.trace = lambda line: print(line, file=sys.stderr)
    try:
        answer, status = _run(arguments)
    except (ChadthrottleError, OSError, MemoryError) as failed:
        error = failed if isinstance(failed, ChadthrottleError) else _out_of_the_ordinary(failed)
        if arguments.json:
            _print_json(commands.error_answer(error))
        else:
            print(_printable(f"error: {error}"), file=sys.stderr)
        return error.exit_code
    if arguments.json:
        _print_json(answer.data)
    else:
        print(_printable("\n".join(answer.lines())))
    return status


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `… | head`: nobody reads on, which is no error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
