"""Every way of failing that tests/objects has ends in an error that says what and why."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from chadthrottle.bpf.errors import (
    BpfError,
    CoreRelocationError,
    ObjectFormatError,
    ObjectNotSupportedError,
    VerifierError,
)
from chadthrottle.bpf.loader import load
from chadthrottle.bpf.parse import open_object
from chadthrottle.bpf.release import kernel_version
from chadthrottle.errors import ChadthrottleError, KernelCannotError
from tests.support.objects import SOURCES

# Expressions, where older kernels put it differently.
VERIFIER = {
    "fail_unbounded_read": "invalid access to packet, off=0 size=1",
    "fail_long_log": "invalid access to packet",
    "fail_uninit_reg": "R3 !read_ok",
    "fail_return_range_ingress": r"should have been in (\[0, 1\]|\(0x0; 0x1\))",
    "fail_return_range_egress": r"should have been in (\[0, 3\]|\(0x0; 0x3\))",
    "fail_return_range_untyped": r"should have been in (\[0, 1\]|\(0x0; 0x1\))",
    "fail_gpl_helper": "cannot call GPL-restricted function",
    "fail_unknown_helper": "invalid func unknown#9999",
    "fail_infinite_loop": "infinite loop detected",
    "fail_stack_size": "combined stack size of 2 calls is 640",
    "fail_recursion": "call stack of 9 frames is too deep|back-edge from insn",
    "fail_global_subprog": "unbounded min value is not allowed",
}
CORE = {
    "fail_core_field": "the offset of struct task_struct.no_such_field",
    "fail_core_type": "the offset of struct no_such_struct.field",
    "fail_core_enum": "the value of enum pid_type::PIDTYPE_NEVER_SEEN",
}
OTHERS: dict[str, tuple[type[ChadthrottleError], str]] = {
    "fail_map_no_entries": (BpfError, "map empty .*EINVAL"),
    "fail_map_bad_attr": (ObjectFormatError, "map odd: unknown member 'no_such_attribute'"),
    "fail_map_key_conflict": (ObjectFormatError, "map contradiction: key size 4 conflicts with 8"),
    "fail_map_no_type": (ObjectFormatError, "map untold: no type"),
    "fail_map_static": (ObjectNotSupportedError, "map own is static"),
    "fail_legacy_maps": (ObjectNotSupportedError, 'legacy section "maps"'),
    "fail_no_btf_maps": (ObjectFormatError, "no BTF"),
    "fail_unknown_section": (ObjectNotSupportedError, "nonsense/foo"),
    "fail_static_entry": (ObjectNotSupportedError, "hidden_entry .*static"),
    "fail_call_into_section": (ObjectNotSupportedError, "caller .*callee"),
    "fail_extern_missing": (ObjectNotSupportedError, "defined_nowhere"),
    "fail_kfunc_missing": (KernelCannotError, "bpf_no_such_kfunc"),
    "fail_kconfig_missing": (KernelCannotError, "CONFIG_NO_SUCH_OPTION"),
    "fail_tp_btf_missing": (KernelCannotError, "no_such_tracepoint"),
    "fail_iter_missing": (KernelCannotError, "no_such_iterator"),
    "fail_no_target": (ObjectNotSupportedError, "names nothing to attach to"),
}
ObjectPath = Callable[[str], Path]


@pytest.mark.parametrize(("name", "words"), VERIFIER.items())
def test_verifier_refusals_end_with_its_words(name: str, words: str, object_path: ObjectPath) -> None:
    with pytest.raises(VerifierError) as caught:
        load(open_object(object_path(name)))
    assert re.search(words, caught.value.message)
    assert re.search(words, caught.value.log)
    assert len(caught.value.message.splitlines()) <= 6
    assert not isinstance(caught.value, CoreRelocationError)


@pytest.mark.parametrize("name", VERIFIER.keys() - {"fail_stack_size"})
def test_verifier_refusals_show_the_source_line(name: str, object_path: ObjectPath) -> None:
    # fail_stack_size is refused as a whole, at no line.
    with pytest.raises(VerifierError) as caught:
        load(open_object(object_path(name)))
    shown = re.findall(r"^\s*(?:;|\d+:) (.*?)(?: @ (.*))?$", caught.value.message, re.MULTILINE)
    source = (SOURCES / f"{name}.bpf.c").read_text(encoding="utf-8").splitlines()
    places = [place for text, place in shown if text in map(str.strip, source)]
    assert places
    # Since Linux 6.9 the log says where that line is.
    if kernel_version() >= (6, 9):
        assert re.fullmatch(rf".*{name}\.bpf\.c:\d+", places[-1])


@pytest.mark.parametrize(("name", "words"), CORE.items())
def test_core_refusals_name_type_field_and_line(name: str, words: str, object_path: ObjectPath) -> None:
    with pytest.raises(CoreRelocationError) as caught:
        load(open_object(object_path(name)))
    assert words in caught.value.message
    assert f"{name}.bpf.c:" in caught.value.message
    assert "195896080" not in caught.value.message


@pytest.mark.parametrize(("name", "kind", "words"), [(n, *e) for n, e in OTHERS.items()])
def test_other_refusals_say_what_is_wrong(
    name: str, kind: type[ChadthrottleError], words: str, object_path: ObjectPath
) -> None:
    with pytest.raises(kind, match=words):
        load(open_object(object_path(name)))


def test_every_failing_object_is_expected_here() -> None:
    here = Path(__file__).parents[1] / "objects"
    failing = {path.name.removesuffix(".bpf.c") for path in here.glob("fail_*.bpf.c")}
    assert failing == VERIFIER.keys() | CORE.keys() | OTHERS.keys()
