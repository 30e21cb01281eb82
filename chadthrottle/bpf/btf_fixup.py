"""Make a compiler's BTF acceptable to the kernel: what is known only once the ELF file is read.

Clang leaves holes in BTF for a linker to fill: section sizes, the places of global variables, the
externs. BPF_BTF_LOAD refuses the holes (kernel/bpf/btf.c: btf_datasec_check_meta, btf_var_resolve,
btf_func_proto_check). Type ids never change here, so .BTF.ext stays valid; new records are only
appended.
"""

import struct

from chadthrottle.bpf.btf import Btf, BtfType
from chadthrottle.bpf.constants import BtfKind, BtfLinkage
from chadthrottle.bpf.elf import SHN_UNDEF, ElfImage
from chadthrottle.bpf.errors import ObjectFormatError
from chadthrottle.bpf.spec import Extern

__all__ = ["KCONFIG", "KSYMS", "BtfEditor", "fix_btf"]

KCONFIG = ".kconfig"
KSYMS = ".ksyms"
_INT_INFO = BtfKind.BTF_KIND_INT << 24
_VAR_INFO = BtfKind.BTF_KIND_VAR << 24
_HIDDEN = ("STV_HIDDEN", "STV_INTERNAL")


class BtfEditor:
    """BTF under edit: words overwritten in place, records and strings appended."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self._types = bytearray(btf.types)
        self._strings = bytearray(btf.strings)
        self._count = len(btf.table)

    def set_word(self, record: BtfType, index: int, value: int) -> None:
        """Overwrite the `index`-th 32-bit word of the record, counted from its start."""
        struct.pack_into("<I", self._types, record.at + 4 * index, value)

    def add_string(self, text: str) -> int:
        """Append a string; its offset comes back."""
        offset = len(self._strings)
        self._strings += text.encode() + b"\0"
        return offset

    def add_type(self, *words: int) -> int:
        """Append a record; its type id comes back."""
        self._types += struct.pack(f"<{len(words)}I", *words)
        self._count += 1
        return self._count

    def finish(self) -> Btf:
        return Btf(bytes(self._types), bytes(self._strings))


def fix_btf(btf: Btf, image: ElfImage, externs: dict[str, Extern]) -> Btf:
    """The same BTF with every hole filled. Raises ObjectFormatError where ELF and BTF disagree."""
    editor = BtfEditor(btf)
    _hide_functions(editor, image)
    placed = {s.name: s for s in image.symbols if s.section != SHN_UNDEF and s.type != "STT_SECTION"}
    sizes = {s.name: s.size for s in image.sections}
    for name, record in btf.datasecs.items():
        if name == KSYMS:
            _fake_ksyms(editor, record)
        elif name == KCONFIG:
            _place_kconfig(editor, record, externs)
        elif name in sizes:
            entries = []
            for entry in btf.entries(record):
                variable = btf.type(entry.type_id)
                offset = entry.offset
                linkage = btf.word(variable, 3) if variable.kind == BtfKind.BTF_KIND_VAR else 0
                symbol = placed.get(btf.string(variable.name_offset))
                # Clang places static variables itself; the others are the linker's to place.
                if linkage != BtfLinkage.BTF_STATIC:
                    if symbol is None:
                        raise ObjectFormatError(
                            f"BTF names a variable {btf.string(variable.name_offset)!r} in {name} "
                            "that no symbol defines"
                        )
                    offset = symbol.value
                    if symbol.visibility in _HIDDEN:
                        editor.set_word(variable, 3, BtfLinkage.BTF_STATIC)
                entries.append((offset, entry.type_id, entry.size))
            entries.sort()
            editor.set_word(record, 2, sizes[name])
            for index, (offset, type_id, size) in enumerate(entries):
                _set_entry(editor, record, index, type_id, offset, size)
        else:
            raise ObjectFormatError(f"BTF describes a section {name!r} that the file lacks")
    return editor.finish()


def _set_entry(editor: BtfEditor, datasec: BtfType, index: int, type_id: int, offset: int, size: int) -> None:
    for word, value in enumerate((type_id, offset, size)):
        editor.set_word(datasec, 3 + 3 * index + word, value)


def _hide_functions(editor: BtfEditor, image: ElfImage) -> None:
    """A hidden global function is verified in its callers' context, as a static one is."""
    functions = editor.btf.functions
    for symbol in image.symbols:
        if symbol.type == "STT_FUNC" and symbol.visibility in _HIDDEN:
            record = functions.get(symbol.name)
            if record is not None and record.vlen == BtfLinkage.BTF_GLOBAL:
                info = BtfKind.BTF_KIND_FUNC << 24 | BtfLinkage.BTF_STATIC
                editor.set_word(record, 1, info)


def _fake_ksyms(editor: BtfEditor, datasec: BtfType) -> None:
    """The kernel knows no externs: each becomes a 4-byte global variable, functions a dummy one."""
    btf = editor.btf
    int_id = next((t.id for t in btf.table if t.kind == BtfKind.BTF_KIND_INT and t.value == 4), None)
    if int_id is None:
        int_id = editor.add_type(editor.add_string("int"), _INT_INFO, 4, 1 << 24 | 32)
    dummy_name = editor.add_string("extern_symbol")
    dummy_id: int | None = None
    named: set[int] = set()  # prototypes: a damaged section may list one function 65535 times
    for index, entry in enumerate(btf.entries(datasec)):
        record, type_id = btf.type(entry.type_id), entry.type_id
        if record.kind == BtfKind.BTF_KIND_FUNC:
            editor.set_word(record, 1, BtfKind.BTF_KIND_FUNC << 24 | BtfLinkage.BTF_GLOBAL)
            if record.value not in named:
                named.add(record.value)
                _name_parameters(editor, btf.type(record.value), dummy_name)
            if dummy_id is None:
                dummy_id = editor.add_type(dummy_name, _VAR_INFO, int_id, BtfLinkage.BTF_GLOBAL)
            type_id = dummy_id
        else:
            editor.set_word(record, 2, int_id)
            editor.set_word(record, 3, BtfLinkage.BTF_GLOBAL)
        _set_entry(editor, datasec, index, type_id, 4 * index, 4)
    editor.set_word(datasec, 2, 4 * datasec.vlen)


def _name_parameters(editor: BtfEditor, proto: BtfType, name: int) -> None:
    """A FUNC's parameters must have names (btf_func_check); an extern declaration may omit them."""
    for index in range(proto.vlen):
        name_word, type_word = 3 + 2 * index, 4 + 2 * index
        if editor.btf.word(proto, type_word) and not editor.btf.word(proto, name_word):
            editor.set_word(proto, name_word, name)


def _place_kconfig(editor: BtfEditor, datasec: BtfType, externs: dict[str, Extern]) -> None:
    entries = []
    end = 0
    for entry in editor.btf.entries(datasec):
        record = editor.btf.type(entry.type_id)
        extern = externs.get(editor.btf.string(record.name_offset))
        if extern is None:
            raise ObjectFormatError("BTF names a .kconfig variable that no symbol declares")
        editor.set_word(record, 3, BtfLinkage.BTF_GLOBAL)
        entries.append((extern.offset, entry.type_id, extern.size))
        end = max(end, extern.offset + extern.size)
    entries.sort()
    for index, (offset, type_id, size) in enumerate(entries):
        _set_entry(editor, datasec, index, type_id, offset, size)
    editor.set_word(datasec, 2, end)
