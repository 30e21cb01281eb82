"""Where costs are measured: a veth between two private namespaces, a leaf cgroup and a bpffs of our own."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.bpffs import mount_bpffs, unmount_bpffs
from tests.support.cgroups import cgroup2_root, make_cgroup, remove_cgroup
from tests.support.network import veth_pair
from tests.support.throttled import Scene, scene

__all__ = ["place"]


@contextmanager
def place() -> Iterator[tuple[Scene, Path]]:
    """A scene, and the bpffs its pins are in. Ends everything."""
    root = cgroup2_root()
    if root is None:
        raise SystemExit("needs cgroup2, and none is mounted")
    with ExitStack() as stack:
        pair = stack.enter_context(veth_pair())
        cgroup = make_cgroup(root)
        stack.callback(remove_cgroup, cgroup)
        bpffs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ct-cost-")))
        mount_bpffs(bpffs)
        stack.callback(unmount_bpffs, bpffs)
        yield stack.enter_context(scene(pair, cgroup, bpffs)), bpffs
