// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Ways of declaring maps that are met in other people's objects: half of the types given, so that the kernel refuses
 * the BTF and takes the map without; a NUMA node whose flag is missing, which means nothing; a data section whose name
 * the kernel cuts; the kernel's configuration asked for by a function that nobody calls.
 */
#include "helpers.bpf.h"

extern __u32 LINUX_KERNEL_VERSION __kconfig;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__uint(key_size, 4);
	__type(value, __u64);
} key_by_size SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__uint(value_size, 8);
} value_by_size SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__uint(key_size, 4);
	__type(value, __u64);
} array_key_by_size SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 8);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, 8);
	__type(value, __u32);
} trie_key_by_size SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__uint(numa_node, 0);
	__type(key, __u32);
	__type(value, __u32);
} node_without_flag SEC(".maps");

__u32 counted SEC(".data.a_name_longer_than_15");
__u32 plain = 1;

__weak int version(void)
{
	return LINUX_KERNEL_VERSION;
}

SEC("tc")
int count(struct __sk_buff *skb)
{
	__u32 key = 7;
	__u64 *value = bpf_map_lookup_elem(&key_by_size, &key);

	(void)skb;
	counted++;
	return (value != NULL) + counted + plain;
}

LICENSE("Dual MIT/GPL");
