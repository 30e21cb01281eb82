"""BPF_BTF_LOAD, and rewriting BTF for kernels that lack a kind.

Each unknown record is replaced in place by one of the same length that older kernels know, so that
type ids and .BTF.ext stay valid. What is lost is names and tags, never a size.
"""

import ctypes
import errno

from chadthrottle.bpf import attr
from chadthrottle.bpf.btf import Btf, BtfType
from chadthrottle.bpf.btf_fixup import BtfEditor
from chadthrottle.bpf.constants import BpfCmd, BtfKind, BtfLinkage
from chadthrottle.bpf.errors import BpfError, errno_name
from chadthrottle.bpf.memlock import retry_unlocked
from chadthrottle.bpf.syscall import bpf_errno, failure

__all__ = ["load_btf", "sanitize"]

_LOG_BYTES = 64 << 10

# Feature → the kinds that kernels without it refuse.
_KINDS = {
    "btf_func": (BtfKind.BTF_KIND_FUNC, BtfKind.BTF_KIND_FUNC_PROTO),
    "btf_datasec": (BtfKind.BTF_KIND_VAR, BtfKind.BTF_KIND_DATASEC),
    "btf_float": (BtfKind.BTF_KIND_FLOAT,),
    "btf_decl_tag": (BtfKind.BTF_KIND_DECL_TAG,),
    "btf_type_tag": (BtfKind.BTF_KIND_TYPE_TAG,),
    "btf_enum64": (BtfKind.BTF_KIND_ENUM64,),
}
_FUNC_GLOBAL = "btf_func_global"


def load_btf(btf: Btf) -> int:
    """Load an object's BTF; its descriptor comes back.

    Kinds this kernel lacks are replaced when it refuses. Raises BpfError with the end of the
    kernel's log.
    """
    fd, number = _attempt(btf)
    if number == errno.EINVAL:
        from chadthrottle.bpf.features import supported  # imported on failure only: it costs ms

        lacking = {f for f in (*_KINDS, _FUNC_GLOBAL) if not supported(f)}
        if lacking:
            btf = sanitize(btf, lacking)
            fd, number = _attempt(btf)
    if number:
        raise _refusal(btf, number)
    return fd


def _attempt(btf: Btf, log: "ctypes.Array[ctypes.c_char] | None" = None) -> tuple[int, int]:
    data = attr.buffer_from(btf.serialize())
    request = attr.BtfLoad(btf=attr.address(data), btf_size=len(data))
    if log is not None:
        request.btf_log_buf, request.btf_log_size = attr.address(log), len(log)
        request.btf_log_level = 1
    return retry_unlocked(lambda: bpf_errno(BpfCmd.BPF_BTF_LOAD, request))


def _refusal(btf: Btf, number: int) -> BpfError:
    log = (ctypes.c_char * _LOG_BYTES)()
    if number not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # not about what is in it
        _attempt(btf, log)
    lines = [line for line in log.value.decode("utf-8", "replace").splitlines() if line.strip()]
    if not lines:
        return failure("BPF_BTF_LOAD", number, "of the object's BTF")
    return BpfError(
        "BPF_BTF_LOAD",
        number,
        f"the kernel refused the object's BTF ({errno_name(number)}): {lines[-1]}",
    )


def sanitize(btf: Btf, lacking: set[str]) -> Btf:
    """The BTF without the kinds that the named features brought."""
    editor = BtfEditor(btf)
    gone = {kind for feature, kinds in _KINDS.items() if feature in lacking for kind in kinds}
    byte_id: int | None = None
    for record in btf.table:
        if record.kind == BtfKind.BTF_KIND_FUNC and _FUNC_GLOBAL in lacking and record.kind not in gone:
            if record.vlen == BtfLinkage.BTF_GLOBAL:
                editor.set_word(record, 1, BtfKind.BTF_KIND_FUNC << 24)
            continue
        if record.kind not in gone:
            continue
        if byte_id is None and record.kind == BtfKind.BTF_KIND_ENUM64:
            byte_id = editor.add_type(editor.add_string("byte"), BtfKind.BTF_KIND_INT << 24, 1, 8)
        _replace(editor, record, byte_id or 0)
    return editor.finish()


def _replace(editor: BtfEditor, record: BtfType, byte_id: int) -> None:
    match record.kind:
        case BtfKind.BTF_KIND_FUNC:
            _retype(editor, record, BtfKind.BTF_KIND_TYPEDEF)
        case BtfKind.BTF_KIND_FUNC_PROTO:
            # A parameter (name, type) becomes an enumerator (name, value): both are two words.
            _retype(editor, record, BtfKind.BTF_KIND_ENUM, record.vlen, 4)
            _name_enumerators(editor, record)
        case BtfKind.BTF_KIND_VAR | BtfKind.BTF_KIND_DECL_TAG:
            # The word behind the record becomes the INT's encoding: one byte.
            _retype(editor, record, BtfKind.BTF_KIND_INT, 0, 1)
            editor.set_word(record, 0, _name(editor, record))
            editor.set_word(record, 3, 8)
        case BtfKind.BTF_KIND_DATASEC:
            # An entry (type, offset, size) becomes a member (name, type, bit offset): three words.
            _retype(editor, record, BtfKind.BTF_KIND_STRUCT, record.vlen, record.value)
            editor.set_word(record, 0, _name(editor, record))
            _set_triples(editor, record, [(0, e.type_id, e.offset * 8) for e in editor.btf.entries(record)])
        case BtfKind.BTF_KIND_FLOAT:
            _retype(editor, record, BtfKind.BTF_KIND_STRUCT, 0, record.value)
        case BtfKind.BTF_KIND_TYPE_TAG:
            editor.set_word(record, 0, 0)
            _retype(editor, record, BtfKind.BTF_KIND_CONST)
        case BtfKind.BTF_KIND_ENUM64:
            # An enumerator (name, low, high) becomes a member (name, type, offset): three words.
            _retype(editor, record, BtfKind.BTF_KIND_UNION, record.vlen, record.value)
            names = [editor.btf.word(record, 3 + 3 * index) for index in range(record.vlen)]
            _set_triples(editor, record, [(name, byte_id, 0) for name in names])


def _retype(editor: BtfEditor, record: BtfType, kind: int, vlen: int = 0, value: int | None = None) -> None:
    editor.set_word(record, 1, kind << 24 | vlen)
    if value is not None:
        editor.set_word(record, 2, value)


def _set_triples(editor: BtfEditor, record: BtfType, triples: list[tuple[int, int, int]]) -> None:
    for index, triple in enumerate(triples):
        for word, value in enumerate(triple):
            editor.set_word(record, 3 + 3 * index + word, value)


def _name(editor: BtfEditor, record: BtfType) -> int:
    """A name valid for the new kind: section names hold dots, tags hold anything."""
    name = editor.btf.string(record.name_offset)
    return editor.add_string("".join(c if c.isalnum() and c.isascii() else "_" for c in f"_{name}"))


def _name_enumerators(editor: BtfEditor, record: BtfType) -> None:
    for index in range(record.vlen):
        if not editor.btf.word(record, 3 + 2 * index):
            editor.set_word(record, 3 + 2 * index, editor.add_string("unnamed"))
