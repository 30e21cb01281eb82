"""union bpf_attr, one structure per command, and what BPF_OBJ_GET_INFO_BY_FD returns.

Source: include/uapi/linux/bpf.h; field names verbatim. Each structure ends at the last field we
use: a kernel that knows more takes the rest as zero, one that knows less accepts trailing zeros
(bpf_check_uarg_tail_zero, Linux 4.10). Pointers are plain 64-bit integers, see `address`.
"""

import ctypes
from ctypes import Structure, c_char, c_uint8, c_uint32, c_uint64
from typing import Any

from chadthrottle.bpf.constants import BPF_OBJ_NAME_LEN, BPF_TAG_SIZE

__all__ = ["address", "buffer_from"]


def address(buffer: "ctypes.Array[Any] | None") -> int:
    """The buffer's address for an `__aligned_u64` field; 0 for None. The caller keeps it alive."""
    return 0 if buffer is None else ctypes.addressof(buffer)


def buffer_from(data: bytes) -> "ctypes.Array[c_char]":
    """A C buffer with exactly these bytes (no NUL is added)."""
    return (c_char * len(data)).from_buffer_copy(data) if data else (c_char * 1)()


class MapCreate(Structure):
    """BPF_MAP_CREATE."""

    _fields_ = [
        ("map_type", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("inner_map_fd", c_uint32),
        ("numa_node", c_uint32),
        ("map_name", c_char * BPF_OBJ_NAME_LEN),
        ("map_ifindex", c_uint32),
        ("btf_fd", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("map_extra", c_uint64),
    ]


class MapElem(Structure):
    """BPF_MAP_*_ELEM, BPF_MAP_GET_NEXT_KEY (`value` is `next_key`), BPF_MAP_FREEZE."""

    _fields_ = [
        ("map_fd", c_uint32),
        ("key", c_uint64),
        ("value", c_uint64),
        ("flags", c_uint64),
    ]


class MapBatch(Structure):
    """BPF_MAP_*_BATCH."""

    _fields_ = [
        ("in_batch", c_uint64),
        ("out_batch", c_uint64),
        ("keys", c_uint64),
        ("values", c_uint64),
        ("count", c_uint32),
        ("map_fd", c_uint32),
        ("elem_flags", c_uint64),
        ("flags", c_uint64),
    ]


class ProgLoad(Structure):
    """BPF_PROG_LOAD."""

    _fields_ = [
        ("prog_type", c_uint32),
        ("insn_cnt", c_uint32),
        ("insns", c_uint64),
        ("license", c_uint64),
        ("log_level", c_uint32),
        ("log_size", c_uint32),
        ("log_buf", c_uint64),
        ("kern_version", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_name", c_char * BPF_OBJ_NAME_LEN),
        ("prog_ifindex", c_uint32),
        ("expected_attach_type", c_uint32),
        ("prog_btf_fd", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("func_info", c_uint64),
        ("func_info_cnt", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("line_info", c_uint64),
        ("line_info_cnt", c_uint32),
        ("attach_btf_id", c_uint32),
        ("attach_btf_obj_fd", c_uint32),
        ("core_relo_cnt", c_uint32),
        ("fd_array", c_uint64),
        ("core_relos", c_uint64),
        ("core_relo_rec_size", c_uint32),
        ("log_true_size", c_uint32),
    ]


class Obj(Structure):
    """BPF_OBJ_PIN and BPF_OBJ_GET."""

    _fields_ = [("pathname", c_uint64), ("bpf_fd", c_uint32), ("file_flags", c_uint32)]


class ProgAttach(Structure):
    """BPF_PROG_ATTACH and BPF_PROG_DETACH."""

    _fields_ = [
        ("target_fd", c_uint32),
        ("attach_bpf_fd", c_uint32),
        ("attach_type", c_uint32),
        ("attach_flags", c_uint32),
        ("replace_bpf_fd", c_uint32),
    ]


class ProgTestRun(Structure):
    """BPF_PROG_TEST_RUN."""

    _fields_ = [
        ("prog_fd", c_uint32),
        ("retval", c_uint32),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("data_in", c_uint64),
        ("data_out", c_uint64),
        ("repeat", c_uint32),
        ("duration", c_uint32),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("ctx_in", c_uint64),
        ("ctx_out", c_uint64),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


class GetId(Structure):
    """BPF_*_GET_NEXT_ID (`id` is `start_id`) and BPF_*_GET_FD_BY_ID."""

    _fields_ = [("id", c_uint32), ("next_id", c_uint32), ("open_flags", c_uint32)]


class GetInfo(Structure):
    """BPF_OBJ_GET_INFO_BY_FD."""

    _fields_ = [("bpf_fd", c_uint32), ("info_len", c_uint32), ("info", c_uint64)]


class ProgQuery(Structure):
    """BPF_PROG_QUERY. `prog_attach_flags` since Linux 6.0, `revision` since 6.6."""

    _fields_ = [
        ("target_fd", c_uint32),
        ("attach_type", c_uint32),
        ("query_flags", c_uint32),
        ("attach_flags", c_uint32),
        ("prog_ids", c_uint64),
        ("prog_cnt", c_uint32),
        ("_pad", c_uint32),
        ("prog_attach_flags", c_uint64),
        ("link_ids", c_uint64),
        ("link_attach_flags", c_uint64),
        ("revision", c_uint64),
    ]


class RawTracepointOpen(Structure):
    """BPF_RAW_TRACEPOINT_OPEN."""

    _fields_ = [("name", c_uint64), ("prog_fd", c_uint32), ("_pad", c_uint32)]


class BtfLoad(Structure):
    """BPF_BTF_LOAD."""

    _fields_ = [
        ("btf", c_uint64),
        ("btf_log_buf", c_uint64),
        ("btf_size", c_uint32),
        ("btf_log_size", c_uint32),
        ("btf_log_level", c_uint32),
    ]


class LinkCreate(Structure):
    """BPF_LINK_CREATE. `iter_info` shares its place with the other kinds' own fields, unused here."""

    _fields_ = [
        ("prog_fd", c_uint32),
        ("target_fd", c_uint32),
        ("attach_type", c_uint32),
        ("flags", c_uint32),
        ("iter_info", c_uint64),
        ("iter_info_len", c_uint32),
        ("_pad", c_uint32),
    ]


class TcxLinkCreate(Structure):
    """BPF_LINK_CREATE for a network device; `relative` is `relative_fd` or, with BPF_F_ID, `relative_id`."""

    _fields_ = [
        ("prog_fd", c_uint32),
        ("target_ifindex", c_uint32),
        ("attach_type", c_uint32),
        ("flags", c_uint32),
        ("relative", c_uint32),
        ("_pad", c_uint32),
        ("expected_revision", c_uint64),
    ]


class LinkUpdate(Structure):
    """BPF_LINK_UPDATE."""

    _fields_ = [
        ("link_fd", c_uint32),
        ("new_prog_fd", c_uint32),
        ("flags", c_uint32),
        ("old_prog_fd", c_uint32),
    ]


class LinkFd(Structure):
    """BPF_LINK_DETACH, and BPF_ITER_CREATE with `flags` 0."""

    _fields_ = [("link_fd", c_uint32), ("flags", c_uint32)]


class ProgInfo(Structure):
    """struct bpf_prog_info."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", c_uint8 * BPF_TAG_SIZE),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64),
        ("xlated_prog_insns", c_uint64),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", c_char * BPF_OBJ_NAME_LEN),
        ("ifindex", c_uint32),
        ("gpl_compatible", c_uint32, 1),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("nr_jited_ksyms", c_uint32),
        ("nr_jited_func_lens", c_uint32),
        ("jited_ksyms", c_uint64),
        ("jited_func_lens", c_uint64),
        ("btf_id", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("func_info", c_uint64),
        ("nr_func_info", c_uint32),
        ("nr_line_info", c_uint32),
        ("line_info", c_uint64),
        ("jited_line_info", c_uint64),
        ("nr_jited_line_info", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("jited_line_info_rec_size", c_uint32),
        ("nr_prog_tags", c_uint32),
        ("prog_tags", c_uint64),
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
        ("recursion_misses", c_uint64),
        ("verified_insns", c_uint32),
        ("attach_btf_obj_id", c_uint32),
        ("attach_btf_id", c_uint32),
    ]


class MapInfo(Structure):
    """struct bpf_map_info."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", c_char * BPF_OBJ_NAME_LEN),
        ("ifindex", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("btf_id", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("_pad", c_uint32),
        ("map_extra", c_uint64),
    ]


class BtfInfo(Structure):
    """struct bpf_btf_info."""

    _fields_ = [
        ("btf", c_uint64),
        ("btf_size", c_uint32),
        ("id", c_uint32),
        ("name", c_uint64),
        ("name_len", c_uint32),
        ("kernel_btf", c_uint32),
    ]


class CgroupLinkInfo(Structure):
    """struct bpf_link_info.cgroup."""

    _fields_ = [("cgroup_id", c_uint64), ("attach_type", c_uint32)]


class NetdevLinkInfo(Structure):
    """struct bpf_link_info.tcx (and .netkit)."""

    _fields_ = [("ifindex", c_uint32), ("attach_type", c_uint32)]


class RawTracepointLinkInfo(Structure):
    """struct bpf_link_info.raw_tracepoint."""

    _fields_ = [("tp_name", c_uint64), ("tp_name_len", c_uint32)]


class TracingLinkInfo(Structure):
    """struct bpf_link_info.tracing."""

    _fields_ = [
        ("attach_type", c_uint32),
        ("target_obj_id", c_uint32),
        ("target_btf_id", c_uint32),
    ]


class IterLinkInfo(Structure):
    """struct bpf_link_info.iter, up to the target's name."""

    _fields_ = [("target_name", c_uint64), ("target_name_len", c_uint32)]


class _LinkInfoUnion(ctypes.Union):
    _fields_ = [
        ("cgroup", CgroupLinkInfo),
        ("tcx", NetdevLinkInfo),
        ("raw_tracepoint", RawTracepointLinkInfo),
        ("tracing", TracingLinkInfo),
        ("iter", IterLinkInfo),
        ("_room", c_uint8 * 64),
    ]


class LinkInfo(Structure):
    """struct bpf_link_info."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("detail", _LinkInfoUnion),
    ]


class IterLinkTarget(Structure):
    """union bpf_iter_link_info: one of map, cgroup, task, by the iterator's kind."""

    class _Union(ctypes.Union):
        class _Task(Structure):
            _fields_ = [("tid", c_uint32), ("pid", c_uint32), ("pid_fd", c_uint32)]

        class _Cgroup(Structure):
            _fields_ = [("order", c_uint32), ("cgroup_fd", c_uint32), ("cgroup_id", c_uint64)]

        _fields_ = [("map_fd", c_uint32), ("task", _Task), ("cgroup", _Cgroup)]

    _anonymous_ = ("u",)
    _fields_ = [("u", _Union)]
