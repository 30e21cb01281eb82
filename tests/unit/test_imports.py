"""The house rules of docs/architecture.md: imports go down only, each library has one importer."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "chadthrottle"

# From the top down; a module may import from its own level and those below it.
LEVELS = (
    ("__main__",),
    ("cli", "tui"),
    ("doctor", "prefs"),
    ("limits", "accounting"),
    ("enforce",),
    ("pins", "cgroup", "procs", "sockets", "netlink"),
    ("abi", "bpf", "artifacts"),
    ("model", "units"),
    ("errors",),
)
ONE_IMPORTER = {
    "click": "cli",
    "textual": "tui",
    "psutil": "procs",
    "elftools": "bpf.elf",
    "pyroute2": "netlink",
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level(module: str) -> int:
    top = module.partition(".")[0]
    return next(number for number, names in enumerate(LEVELS) if top in names)


def test_imports_go_down_only() -> None:
    for name, tree in modules():
        if name == "__init__":
            continue
        for target in imported(tree):
            package, _, inside = target.partition(".")
            if package == "chadthrottle" and inside != "__version__":
                assert level(inside) >= level(name), f"{name} imports {target}"


def test_the_runtime_imports_only_errors() -> None:
    for name, tree in modules():
        if name.startswith("bpf"):
            for target in imported(tree):
                if target.startswith("chadthrottle."):
                    assert target.startswith(("chadthrottle.bpf", "chadthrottle.errors")), f"{name} imports {target}"


def test_each_library_has_one_importer() -> None:
    for name, tree in modules():
        for target in imported(tree):
            home = ONE_IMPORTER.get(target.partition(".")[0])
            assert home is None or name == home or name.startswith(home + "."), f"{name} imports {target}"


def loaded_by(statement: str) -> set[str]:
    """The top-level names and our own modules that a fresh interpreter holds after `statement`."""
    script = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        # What commands import that never parse an object: links, maps, queries.
        ("import chadthrottle.bpf.links, chadthrottle.bpf.maps, chadthrottle.bpf.query", "elftools"),
        ("import chadthrottle.bpf.links, chadthrottle.bpf.maps, chadthrottle.bpf.query", "click"),
        ("import chadthrottle.bpf.loader, chadthrottle.bpf.parse", "logging"),
        # Probes are for after a refusal, kernel configuration for objects that ask for it.
        ("import chadthrottle.bpf.loader, chadthrottle.bpf.parse", "chadthrottle.bpf.features"),
        ("import chadthrottle.bpf.loader, chadthrottle.bpf.parse", "chadthrottle.bpf.kconfig"),
        # Commands that open what another pinned, and all their errors.
        ("from chadthrottle.cli import main; main(['list', '--quiet'])", "elftools"),
        ("from chadthrottle.cli import main; main(['list', '--quiet'])", "psutil"),
        ("from chadthrottle.cli import main; main(['list', '--quiet'])", "subprocess"),
        ("from chadthrottle.cli import main; main(['list', '--quiet'])", "socket"),
        ("from chadthrottle.cli import main; main(['list', '--quiet'])", "json"),
        # What explains a refusal, or takes down legacy attachments: for when there is one.
        ("from chadthrottle.cli import main; main(['list', '--quiet'])", "chadthrottle.bpf.cgroup_legacy"),
        ("from chadthrottle.cli import main; main(['list', '--quiet'])", "chadthrottle.bpf.query"),
        ("from chadthrottle.cli import main; main(['release', '4194304'])", "elftools"),
        # The same for a second limit, which finds the hooks in place.
        ("import chadthrottle.cli.throttle, chadthrottle.limits.throttle", "chadthrottle.bpf.loader"),
        ("import chadthrottle.cli.throttle, chadthrottle.limits.throttle", "chadthrottle.bpf.cgroup_legacy"),
        ("import chadthrottle.cli.throttle, chadthrottle.limits.throttle", "socket"),
    ],
)
def test_import_budget(statement: str, unwanted: str) -> None:
    assert unwanted not in loaded_by(statement)
