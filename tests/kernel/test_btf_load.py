"""BTF for the kernel: fixed up, and rewritten for kernels that lack a kind."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chadthrottle.bpf import btf_load
from chadthrottle.bpf.btf import Btf
from chadthrottle.bpf.constants import BtfKind, BtfLinkage
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.parse import open_object
from tests.support.objects import SAME_AS_LIBBPF

ObjectPath = Callable[[str], Path]
# In the order in which Linux got them: a kernel that lacks one lacks those behind it.
REPLACED = {
    "btf_func": {BtfKind.BTF_KIND_FUNC, BtfKind.BTF_KIND_FUNC_PROTO},
    "btf_datasec": {BtfKind.BTF_KIND_VAR, BtfKind.BTF_KIND_DATASEC},
    "btf_func_global": set[BtfKind](),
    "btf_float": {BtfKind.BTF_KIND_FLOAT},
    "btf_decl_tag": {BtfKind.BTF_KIND_DECL_TAG},
    "btf_type_tag": {BtfKind.BTF_KIND_TYPE_TAG},
    "btf_enum64": {BtfKind.BTF_KIND_ENUM64},
}
FEATURES = list(REPLACED)


def kinds(btf: Btf) -> set[int]:
    return {record.kind for record in btf.table}


def accepted(btf: Btf) -> None:
    os.close(btf_load.load_btf(btf))


@pytest.mark.parametrize("name", [n for n in SAME_AS_LIBBPF if n != "no_btf"])
def test_the_kernel_takes_every_objects_btf_sanitised_or_not(name: str, object_path: ObjectPath) -> None:
    btf = open_object(object_path(name)).btf
    assert btf is not None
    accepted(btf)
    accepted(btf_load.sanitize(btf, set(FEATURES)))


@pytest.mark.parametrize("oldest_lacking", FEATURES)
def test_older_kernels_get_only_kinds_they_know(oldest_lacking: str, object_path: ObjectPath) -> None:
    btf = open_object(object_path("btf_kinds")).btf
    assert btf is not None
    lacking = set(FEATURES[FEATURES.index(oldest_lacking) :])
    gone: set[int] = set().union(*(REPLACED[feature] for feature in lacking))
    # clang 14 has no enum64; every other kind must be in the object, or this tests nothing.
    assert gone - kinds(btf) <= {BtfKind.BTF_KIND_ENUM64}
    plain = btf_load.sanitize(btf, lacking)
    assert not gone & kinds(plain)
    for before, after in zip(btf.table, plain.table, strict=False):
        assert before.at == after.at
        if before.kind not in gone | {BtfKind.BTF_KIND_FUNC}:
            assert before == after
    accepted(plain)


def test_without_global_functions_all_are_static(object_path: ObjectPath) -> None:
    btf = open_object(object_path("subprogs")).btf
    assert btf is not None
    functions = [t for t in btf_load.sanitize(btf, {"btf_func_global"}).table if t.kind == BtfKind.BTF_KIND_FUNC]
    assert functions
    assert {t.vlen for t in functions} == {BtfLinkage.BTF_STATIC}


def test_what_the_kernel_refuses_is_told_in_its_words(object_path: ObjectPath) -> None:
    btf = open_object(object_path("minimal")).btf
    assert btf is not None
    record = next(t for t in btf.table if t.kind == BtfKind.BTF_KIND_INT)
    types = bytearray(btf.types)
    types[record.at + 8 : record.at + 12] = (3).to_bytes(4, "little")  # an int of three bytes
    with pytest.raises(BpfError, match=r"the kernel refused the object's BTF \(EINVAL\): .*int"):
        btf_load.load_btf(Btf(bytes(types), btf.strings))
