"""Maps on the running kernel: every kind of access, sizes and flags, and what is said when it is refused."""

import errno
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from chadthrottle.bpf import attr, trials
from chadthrottle.bpf.constants import BpfCmd, BtfKind, ElemFlag, MapFlag, MapType, ProgType
from chadthrottle.bpf.errors import ENOTSUPP, BpfError, IncompatibleMapError
from chadthrottle.bpf.map_compat import NO_BTF_MAP_TYPES, adjusted_max_entries
from chadthrottle.bpf.maps import Map, kernel_name
from chadthrottle.bpf.memlock import retry_unlocked
from chadthrottle.bpf.percpu import possible_cpus
from chadthrottle.bpf.syscall import bpf
from chadthrottle.errors import KernelCannotError
from tests.support import raw_programs as raw
from tests.support.children import in_child, keep_capabilities, refuse_bpf

HASH = MapType.BPF_MAP_TYPE_HASH
ARRAY = MapType.BPF_MAP_TYPE_ARRAY
LRU = MapType.BPF_MAP_TYPE_LRU_HASH
TRIE = MapType.BPF_MAP_TYPE_LPM_TRIE
PERCPU_HASH = MapType.BPF_MAP_TYPE_PERCPU_HASH
PERCPU_ARRAY = MapType.BPF_MAP_TYPE_PERCPU_ARRAY
NO_PREALLOC = MapFlag.BPF_F_NO_PREALLOC


def u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def u64(number: int) -> bytes:
    return number.to_bytes(8, "little")


@pytest.fixture
def rules() -> Iterator[Map]:
    with Map.create("rules", HASH, 4, 8, 1000) as created:
        yield created


@pytest.fixture
def types() -> Iterator[int]:
    """BTF with int (id 1), a 64-bit integer (2) and a key for tries (3)."""
    wide = trials.btf_type(BtfKind.BTF_KIND_INT, 0, 8, 64)
    key = trials.btf_type(BtfKind.BTF_KIND_STRUCT, 2, 8, 1, 1, 0, 1, 1, 32)
    fd, number = trials._load_btf(trials.INT, wide, key)
    assert number == 0
    yield fd
    os.close(fd)


class TestElements:
    def test_update_lookup_delete(self, rules: Map) -> None:
        assert rules.lookup(u32(7)) is None
        rules.update(u32(7), u64(70))
        assert rules.lookup(u32(7)) == u64(70)
        assert rules.delete(u32(7))
        assert not rules.delete(u32(7))
        assert rules.lookup(u32(7)) is None

    def test_flags_of_updates(self, rules: Map) -> None:
        with pytest.raises(BpfError, match="rules: ENOENT"):
            rules.update(u32(1), u64(1), ElemFlag.BPF_EXIST)
        rules.update(u32(1), u64(1), ElemFlag.BPF_NOEXIST)
        with pytest.raises(BpfError, match="rules: EEXIST"):
            rules.update(u32(1), u64(1), ElemFlag.BPF_NOEXIST)

    @pytest.mark.parametrize("size", [0, 3, 5, 4096])
    def test_wrong_sizes_never_reach_the_kernel(self, rules: Map, size: int) -> None:
        for attempt in (rules.lookup, rules.delete, rules.lookup_and_delete):
            with pytest.raises(ValueError, match=f"a key of map rules has 4 bytes, not {size}"):
                attempt(bytes(size))
        with pytest.raises(ValueError, match=f"a value of map rules has 8 bytes, not {size}"):
            rules.update(u32(1), bytes(size))
        with pytest.raises(ValueError, match="map rules has"):
            rules.update_batch([(u32(1), u64(1)), (u32(2), bytes(size))])
        with pytest.raises(ValueError, match="map rules has"):
            rules.delete_batch([u32(1), bytes(size)])
        assert list(rules.items()) == []

    def test_a_full_map_says_so(self) -> None:
        with Map.create("small", HASH, 4, 4, 1) as small:
            small.update(u32(1), u32(1))
            with pytest.raises(BpfError, match="max_entries is 1") as caught:
                small.update(u32(2), u32(2))
            assert caught.value.errno == errno.E2BIG

    def test_lookup_and_delete(self, rules: Map) -> None:
        rules.update(u32(1), u64(10))
        assert rules.lookup_and_delete(u32(1)) == u64(10)
        assert rules.lookup_and_delete(u32(1)) is None

    @pytest.mark.parametrize(
        ("map_type", "order"), [(MapType.BPF_MAP_TYPE_QUEUE, "abc"), (MapType.BPF_MAP_TYPE_STACK, "cba")]
    )
    def test_queue_and_stack_have_no_keys(self, map_type: MapType, order: str) -> None:
        with Map.create("line", map_type, 0, 1, 3) as line:
            for letter in b"abc":
                line.update(b"", bytes([letter]))
            assert line.lookup(b"") == order[0].encode()
            popped = [line.lookup_and_delete(b"") for _ in range(4)]
            assert popped == [*(letter.encode() for letter in order), None]
            with pytest.raises(ValueError, match="has 0 bytes"):
                line.lookup(b"x")

    def test_a_frozen_map_refuses_writes_from_here(self, rules: Map) -> None:
        rules.update(u32(1), u64(1))
        rules.freeze()
        with pytest.raises(BpfError, match="frozen") as caught:
            rules.update(u32(1), u64(2))
        assert caught.value.errno == errno.EPERM
        assert caught.value.exit_code == 5  # nothing that sudo would cure
        assert rules.lookup(u32(1)) == u64(1)

    def test_a_closed_map_is_not_asked(self) -> None:
        rules = Map.create("rules", HASH, 4, 8, 100)
        rules.update_batch([(u32(n), u64(n)) for n in range(50)])
        items, keys = rules.items(batch=1), rules.keys()
        next(items)
        next(keys)
        rules.close()
        # A map that takes over the descriptor's number, with values larger than the walk's buffers.
        with Map.create("large", HASH, 4, 4096, 100) as large:
            large.update_batch([(u32(n), bytes(4096)) for n in range(50)])
            for walk in (items, keys):
                with pytest.raises(ValueError, match="closed"):
                    list(walk)


class TestWalks:
    def test_keys_and_items_of_every_element(self, rules: Map) -> None:
        expected = {u32(n): u64(n * n) for n in range(900)}
        rules.update_batch(expected.items())
        assert sorted(rules.keys()) == sorted(expected)
        for batch in (1, 7, 512, 100_000):
            items = list(rules.items(batch))
            assert len(items) == 900
            assert dict(items) == expected

    def test_an_array_is_walked_by_index(self) -> None:
        with Map.create("table", ARRAY, 4, 8, 5) as table:
            table.update_batch([(u32(n), u64(n)) for n in range(5)])
            assert list(table.keys()) == [u32(n) for n in range(5)]
            assert dict(table.items()) == {u32(n): u64(n) for n in range(5)}

    def test_the_caller_may_delete_as_it_goes(self, rules: Map) -> None:
        rules.update_batch([(u32(n), u64(n)) for n in range(500)])
        walk = rules.keys()
        assert sum(rules.delete(key) for key in walk) == 500
        assert list(rules.keys()) == []

    def test_deletions_by_others_lose_no_key_that_stays(self, rules: Map) -> None:
        """Deleting the key fetched ahead sends the kernel's walk back to its start, each time."""
        rules.update_batch([(u32(n), u64(n)) for n in range(200)])
        stays = {u32(n) for n in range(0, 200, 2)}
        seen: list[bytes] = []
        walk = rules.keys()
        for key in walk:
            seen.append(key)
            for number in range(1, 200, 2):
                if rules.delete(u32(number)):
                    break
        assert stays <= set(seen)
        assert len(seen) == len(set(seen))

    def test_a_walk_that_never_ends_is_given_up(self) -> None:
        """Every key fetched ahead goes away, so the kernel starts over again and again."""
        with Map.create("churn", HASH, 4, 4, 64) as churn:
            numbers = iter(range(64, 1_000_000))
            for number in range(64):
                churn.update(u32(number), u32(0))

            def replace_all() -> None:
                walk = churn.keys()
                for _ in walk:
                    churn.delete_batch(list(churn.keys()))
                    churn.update_batch([(u32(next(numbers)), u32(0)) for _ in range(64)])

            with pytest.raises(BpfError, match="restarts the kernel's walk") as caught:
                replace_all()
            assert caught.value.errno == errno.EAGAIN

    def test_a_trie(self) -> None:
        with Map.create("routes", TRIE, 8, 4, 10, NO_PREALLOC) as routes:
            lan, host = u32(8) + bytes([10, 0, 0, 0]), u32(32) + bytes([10, 1, 2, 3])
            routes.update_batch([(lan, u32(1)), (host, u32(2))])
            assert routes.lookup(u32(32) + bytes([10, 9, 9, 9])) == u32(1)
            assert dict(routes.items()) == {lan: u32(1), host: u32(2)}
            assert routes.delete_batch([lan, host]) == 2

    def test_a_kernel_without_batches(self, rules: Map) -> None:
        def everything() -> list[int]:
            rules.update_batch([(u32(n), u64(n)) for n in range(100)])
            first = len(dict(rules.items()))
            deleted = rules.delete_batch([u32(n) for n in range(50, 150)])
            return [first, deleted, len(list(rules.items()))]

        assert in_child(everything) == [100, 50, 50]
        rules.delete_batch(list(rules.keys()))
        assert in_child(everything, before=refuse_bpf(errno.EINVAL, BpfCmd.BPF_MAP_LOOKUP_BATCH)) == [100, 50, 50]

    def test_a_type_that_cannot_be_walked(self, types: int) -> None:
        with (
            sk_storage(types, 0) as tags,
            pytest.raises(BpfError, match="BPF_MAP_TYPE_SK_STORAGE have no such operation") as caught,
        ):
            list(tags.items())
        assert caught.value.errno == ENOTSUPP


class TestBatches:
    def test_deleting_passes_over_absent_keys(self, rules: Map) -> None:
        rules.update_batch([(u32(n), u64(n)) for n in range(0, 100, 3)])
        assert rules.delete_batch([u32(n) for n in range(100)]) == 34
        assert rules.delete_batch([]) == 0

    def test_how_far_an_update_got(self) -> None:
        with Map.create("small", HASH, 4, 4, 5) as small:
            with pytest.raises(BpfError, match="5 of 9 elements were done") as caught:
                small.update_batch([(u32(n), u32(n)) for n in range(9)])
            assert caught.value.errno == errno.E2BIG
            assert len(list(small.items())) == 5

    def test_an_empty_update_is_nothing(self, rules: Map) -> None:
        rules.update_batch([])
        assert list(rules.items()) == []

    @pytest.mark.parametrize("map_type", [HASH, ARRAY, LRU, PERCPU_HASH, PERCPU_ARRAY])
    def test_this_kernel_has_them(self, map_type: MapType) -> None:
        """Else the tests above show the way one by one only."""
        with Map.create("x", map_type, 4, 8, 4) as created:
            list(created._items(4))
            assert created._batch_reads


class TestPerCpu:
    @pytest.mark.parametrize("map_type", [PERCPU_HASH, PERCPU_ARRAY, MapType.BPF_MAP_TYPE_LRU_PERCPU_HASH])
    @pytest.mark.parametrize("size", [1, 5, 8, 12])
    def test_a_value_for_each_possible_cpu(self, map_type: MapType, size: int) -> None:
        values = [bytes([cpu + 1]) * size for cpu in range(possible_cpus())]
        with Map.create("counters", map_type, 4, size, 4) as counters:
            counters.update_percpu(u32(2), values)
            assert counters.lookup_percpu(u32(2)) == values
            assert dict(counters.items_percpu())[u32(2)] == values
            if map_type != PERCPU_ARRAY:
                assert counters.lookup_and_delete_percpu(u32(2)) == values
                assert counters.lookup_percpu(u32(2)) is None

    def test_the_kernel_agrees_on_the_number(self) -> None:
        online = len(os.sched_getaffinity(0))
        assert possible_cpus() >= online

    def test_wrong_shapes(self) -> None:
        with Map.create("counters", PERCPU_HASH, 4, 8, 4) as counters:
            with pytest.raises(ValueError, match="one per possible CPU"):
                counters.update_percpu(u32(1), [u64(1)] * (possible_cpus() + 1))
            with pytest.raises(ValueError, match="has 8 bytes, not 4"):
                counters.update_percpu(u32(1), [u32(1)] * possible_cpus())
            with pytest.raises(ValueError, match="is per-CPU"):
                counters.lookup(u32(1))
            with pytest.raises(ValueError, match="is per-CPU"):
                counters.update(u32(1), u64(1))
        with Map.create("plain", HASH, 4, 8, 4) as plain, pytest.raises(ValueError, match="not per-CPU"):
            plain.lookup_percpu(u32(1))


class TestMapsOfDescriptors:
    def test_a_map_of_maps_is_written_by_descriptor_and_read_by_id(self, rules: Map) -> None:
        outer_type = MapType.BPF_MAP_TYPE_HASH_OF_MAPS
        with Map.create("outer", outer_type, 4, 4, 4, inner_map_fd=rules.fd) as outer:
            outer.update(u32(1), u32(rules.fd))
            found = outer.lookup(u32(1))
            assert found == u32(rules.info().id)
            assert dict(outer.items()) == {u32(1): found}

    def test_a_prog_array(self) -> None:
        with (
            Map.create("calls", MapType.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 3) as calls,
            raw.load(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, raw.returning(0)) as program,
        ):
            calls.update(u32(1), u32(program.fd))
            assert dict(calls.items()) == {u32(1): u32(program.info().id)}
            assert calls.delete(u32(1))
            with pytest.raises(BpfError, match="calls: EBADF"):
                calls.update(u32(0), u32(0xFFFFFFFF))

    def test_socket_storage_is_keyed_by_descriptor(self, types: int) -> None:
        with sk_storage(types, 0) as tags, socket.socket() as plain:
            assert tags.lookup(u32(plain.fileno())) is None
            tags.update(u32(plain.fileno()), u32(42))
            assert tags.lookup(u32(plain.fileno())) == u32(42)
            assert tags.delete(u32(plain.fileno()))
            with pytest.raises(BpfError, match="tags: EBADF"):
                tags.lookup(u32(0xFFFFFFFF))


def sk_storage(btf_fd: int, flags: int) -> Map:
    return Map.create(
        "tags",
        MapType.BPF_MAP_TYPE_SK_STORAGE,
        4,
        4,
        0,
        flags | NO_PREALLOC,
        btf_fd=btf_fd,
        btf_key_type_id=1,
        btf_value_type_id=1,
    )


class TestCreation:
    @pytest.mark.parametrize(
        ("name", "known_as"),
        [
            ("rules", "rules"),
            ("my-map", "my_map"),
            (".rodata.str1.1", ".rodata.str1.1"),
            ("a" * 40, "a" * 15),
            ("größe", "gr__e"),
            ("a b/c", "a_b_c"),
            ("", ""),
        ],
    )
    def test_names_the_kernel_takes(self, name: str, known_as: str) -> None:
        with Map.create(name, ARRAY, 4, 4, 1) as created:
            assert created.info().name == known_as == kernel_name(name).decode()
            assert created.name == name

    def test_info(self, types: int) -> None:
        with Map.create(
            "tags", HASH, 4, 8, 9, NO_PREALLOC, btf_fd=types, btf_key_type_id=1, btf_value_type_id=2, numa_node=0
        ) as created:
            info = created.info()
        assert (info.type, info.key_size, info.value_size, info.max_entries) == (HASH, 4, 8, 9)
        assert info.flags == NO_PREALLOC | MapFlag.BPF_F_NUMA_NODE == created.flags
        assert (info.btf_key_type_id, info.btf_value_type_id) == (1, 2)

    def test_a_refusal_names_map_and_type(self) -> None:
        with pytest.raises(BpfError, match=r"map odd \(BPF_MAP_TYPE_ARRAY\): EINVAL"):
            Map.create("odd", ARRAY, 8, 4, 1)
        with pytest.raises(BpfError, match="does not know 9999"):
            Map.create("odd", 9999, 4, 4, 1)

    @pytest.mark.parametrize(("asked", "made"), [(1, 4096), (4096, 4096), (4097, 8192), (12288, 16384)])
    def test_ring_buffers_are_rounded_up(self, asked: int, made: int) -> None:
        if os.sysconf("SC_PAGE_SIZE") != 4096:
            asked, made = asked * 16, made * 16
        with Map.create("events", MapType.BPF_MAP_TYPE_RINGBUF, 0, 0, asked) as events:
            assert events.info().max_entries == made == events.max_entries

    def test_a_perf_array_of_0_has_an_entry_per_cpu(self) -> None:
        with Map.create("events", MapType.BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 0) as events:
            assert events.info().max_entries == possible_cpus()
        assert adjusted_max_entries(HASH, 0) == 0

    def test_which_types_take_btf(self, types: int, rules: Map) -> None:
        """The table of types without key and value BTF is what this kernel says, type by type."""
        shapes = [(4, 4, 4, 0, 0), (4, 8, 4, 0, 0), (8, 8, 4, 1, 0), (0, 8, 4, 0, 0), (8, 8, 0, 0, 0)]
        shapes.append((4, 4, 4, 0, rules.fd))
        ids, tried = {0: 0, 4: 1, 8: 2}, 0
        for map_type in MapType:
            for key, value, entries, flags, inner in shapes:
                try:
                    Map.create("x", map_type, key, value, entries, flags, inner_map_fd=inner).close()
                except BpfError:
                    continue
                tried += 1
                key_id = 3 if map_type == TRIE else ids[key]
                try:
                    Map.create(
                        "x",
                        map_type,
                        key,
                        value,
                        entries,
                        flags,
                        inner_map_fd=inner,
                        btf_fd=types,
                        btf_key_type_id=key_id,
                        btf_value_type_id=ids[value],
                    ).close()
                    takes = True
                except BpfError:
                    takes = False
                assert takes == (map_type not in NO_BTF_MAP_TYPES), map_type.name
                break
        assert tried >= 20

    def test_the_memory_limit_of_old_kernels(self) -> None:
        """EPERM, once, when the limit is used up; the kernel here has none, so the call plays it."""

        def run() -> list[bool]:
            _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
            low = (4096, hard)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, low)
            seen = []

            def charged() -> tuple[int, int]:
                soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
                seen.append(soft)
                return (-1, errno.EPERM) if soft == 4096 else (0, 0)

            helped = retry_unlocked(charged) == (0, 0) and len(seen) == 2
            resource.setrlimit(resource.RLIMIT_MEMLOCK, low)
            not_the_cause = retry_unlocked(lambda: (-1, errno.EPERM)) == (-1, errno.EPERM)
            restored = resource.getrlimit(resource.RLIMIT_MEMLOCK) == low
            other = retry_unlocked(lambda: (-1, errno.EINVAL)) == (-1, errno.EINVAL)
            return [helped, not_the_cause, restored, other]

        assert in_child(run) == [True] * 4

    def test_without_capabilities_the_cure_is_named(self) -> None:
        def attempt() -> list[object]:
            try:
                Map.create("x", HASH, 4, 4, 1).close()
            except BpfError as error:
                return [error.exit_code, str(error)]
            return []

        code, text = in_child(attempt, before=keep_capabilities())
        assert code == 3
        assert "map x (BPF_MAP_TYPE_HASH): EPERM" in text
        assert "sudo" in text


class TestPins:
    def test_pinned_and_opened_again(self, rules: Map, bpffs: Path) -> None:
        rules.update(u32(1), u64(1))
        rules.pin(bpffs / "rules")
        with Map.open_pinned(bpffs / "rules") as again:
            assert again.lookup(u32(1)) == u64(1)
            assert (again.name, again.map_type, again.max_entries) == ("rules", HASH, 1000)
        with Map.by_id(rules.info().id) as again:
            assert again.lookup(u32(1)) == u64(1)

    def test_read_only(self, rules: Map, bpffs: Path) -> None:
        rules.pin(bpffs / "rules")
        with Map.open_pinned(bpffs / "rules", file_flags=MapFlag.BPF_F_RDONLY) as reader:
            assert reader.lookup(u32(1)) is None
            with pytest.raises(BpfError, match="opened read-only"):
                reader.update(u32(1), u64(1))

    def test_what_is_not_there_or_not_a_map(self, bpffs: Path) -> None:
        with pytest.raises(BpfError, match="ENOENT"):
            Map.open_pinned(bpffs / "absent")
        with raw.load(ProgType.BPF_PROG_TYPE_SOCKET_FILTER, raw.returning(0)) as program:
            program.pin(bpffs / "program")
            with pytest.raises(BpfError, match="not a map but bpf-prog") as caught:
                Map.open_pinned(bpffs / "program")
            assert caught.value.errno == errno.EINVAL
        with pytest.raises(BpfError, match="ENOENT"):
            Map.by_id(0x7FFFFFFE)

    def test_pinning_outside_a_bpffs(self, rules: Map, tmp_path: Path) -> None:
        with pytest.raises(BpfError):
            rules.pin(tmp_path / "rules")


class TestCompatibility:
    @pytest.mark.parametrize(
        ("map_type", "key", "value", "entries", "flags"),
        [
            (HASH, 4, 8, 10, 0),
            (HASH, 4, 8, 10, NO_PREALLOC),
            (HASH, 4, 8, 10, MapFlag.BPF_F_RDONLY),
            (ARRAY, 4, 8, 10, MapFlag.BPF_F_MMAPABLE),
            (MapType.BPF_MAP_TYPE_DEVMAP, 4, 4, 10, 0),
            (MapType.BPF_MAP_TYPE_DEVMAP_HASH, 4, 4, 10, 0),
            (LRU, 4, 8, 11, MapFlag.BPF_F_NO_COMMON_LRU),
            (MapType.BPF_MAP_TYPE_RINGBUF, 0, 0, 5000, 0),
            (MapType.BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 0, 0),
        ],
    )
    def test_a_map_suits_its_own_declaration(
        self, map_type: MapType, key: int, value: int, entries: int, flags: int
    ) -> None:
        """Whatever the kernel made of sizes and flags."""
        with Map.create("m", map_type, key, value, entries, flags) as created:
            created.check_compatible(map_type, key, value, entries, flags)

    def test_every_difference_is_named(self, rules: Map, bpffs: Path) -> None:
        with pytest.raises(IncompatibleMapError) as caught:
            rules.check_compatible(LRU, 8, 16, 5, NO_PREALLOC, where=bpffs / "rules")
        text = str(caught.value)
        for part in (
            f"pinned at {bpffs / 'rules'}",
            "type BPF_MAP_TYPE_HASH instead of BPF_MAP_TYPE_LRU_HASH",
            "key size 4 instead of 8",
            "value size 8 instead of 16",
            "max_entries 1000 instead of 5",
            "flags 0x0 instead of 0x1",
        ):
            assert part in text
        with pytest.raises(IncompatibleMapError, match=r"declares: value size 8 instead of 12\n"):
            rules.check_compatible(HASH, 4, 12, 1000)


class TestCpuList:
    def test_the_list_of_possible_cpus(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from chadthrottle.bpf import percpu

        for text, count in (("0", 1), ("0-1", 2), ("0-3,8-11,15", 9), ("0-8191", 8192)):
            assert percpu._count(text) == count
        for damaged in ("", "x", "3-1", "0-1-2", "-1", "0,,1"):
            with pytest.raises(KernelCannotError, match="not a list of CPUs"):
                percpu._count(damaged)
        monkeypatch.setattr(percpu, "_POSSIBLE", tmp_path / "absent")
        percpu.possible_cpus.cache_clear()
        try:
            with pytest.raises(KernelCannotError, match="mount sysfs"):
                possible_cpus()
        finally:
            percpu.possible_cpus.cache_clear()


def test_buffers_are_as_large_as_what_the_kernel_fills() -> None:
    """A value room one byte short would be written past: the kernel fills exactly as much as we say."""
    for map_type, size in ((HASH, 5), (ARRAY, 5), (LRU, 5), (PERCPU_HASH, 5), (PERCPU_ARRAY, 5)):
        with Map.create("m", map_type, 4, size, 2) as created:
            room = created._value_room
            buffer = attr.buffer_from(b"\xa5" * (room + 64))
            filled = b"\xff" * room
            created._write(u32(0), filled, 0)
            key = attr.buffer_from(u32(0))
            request = attr.MapElem(map_fd=created.fd, key=attr.address(key), value=attr.address(buffer))
            bpf(BpfCmd.BPF_MAP_LOOKUP_ELEM, request)
            assert buffer.raw[room:] == b"\xa5" * 64
            assert buffer.raw[room - 8 : room].startswith(b"\xff") or size == room
