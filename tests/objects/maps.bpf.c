// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * BTF-defined maps: the types whose creation differs, and every attribute a definition can have but pinning (pinning)
 * and inner maps (map_in_map). A map is created whether or not a program refers to it.
 */
#include "helpers.bpf.h"

struct flow {
	__u32 address;
	__u16 port;
	__u16 protocol;
};

struct prefix {
	__u32 length;
	__u32 address;
};

typedef __u64 counter_t;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 128);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow);
	__type(value, counter_t);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 64);
	__type(key, struct flow);
	__type(value, __u64[3]);
} percpu_flows SEC(".maps");

/* One named struct may define several maps. */
struct percpu_numbers {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
};
struct percpu_numbers sent SEC(".maps"), received SEC(".maps");

/* Sizes instead of types: nothing to tell the kernel about key and value. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__uint(key_size, 4);
	__uint(value_size, 24);
} untyped SEC(".maps");

/* Both, which have to agree. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 100);
	__uint(key_size, sizeof(struct flow));
	__type(key, struct flow);
	__uint(value_size, sizeof(__u64));
	__type(value, __u64);
} recent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NUMA_NODE);
	__uint(numa_node, 0);
	__type(key, __u32);
	__type(value, __u32);
} on_node_zero SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u32);
} networks SEC(".maps");

/* No key. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 5);
	__type(value, __u32);
} first_in_first_out SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 5);
	__uint(value_size, 16);
} last_in SEC(".maps");

/* The number of hash functions travels in map_extra. */
struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, 1000);
	__uint(map_extra, 3);
	__type(value, __u32);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");

/* The kernel wants a power of two of whole pages; the loader rounds this up. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 70000);
} odd_events SEC(".maps");

/* No size: one entry for each possible CPU. Refuses BTF of key and value, even where they are given. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
} samples SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 32);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, 16 * sizeof(__u64));
} stacks SEC(".maps");

/* Longer than the kernel's 15 characters: cut there, pinned under the whole name. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} a_name_longer_than_the_kernel_keeps SEC(".maps");

/* The same goes for a program's name. */
SEC("cgroup_skb/egress")
int use_maps_in_a_program_of_a_long_name(struct __sk_buff *skb)
{
	struct flow flow = {.protocol = skb->protocol};
	__u32 zero = 0;
	__u32 *number;
	counter_t *counter;

	counter = bpf_map_lookup_elem(&flows, &flow);
	if (counter)
		__sync_fetch_and_add(counter, 1);
	number = bpf_map_lookup_elem(&sent, &zero);
	if (number)
		*number += 1;
	number = bpf_map_lookup_elem(&received, &zero);
	if (number)
		*number += 2;
	number = bpf_map_lookup_elem(&a_name_longer_than_the_kernel_keeps, &zero);
	if (number)
		*number += 3;
	return 1;
}

LICENSE("Dual MIT/GPL");
