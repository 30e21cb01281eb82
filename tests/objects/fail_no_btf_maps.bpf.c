// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is read: maps are defined by BTF, and this is compiled without -g, as no other but
 * no_btf. Expected: an error that says the BTF is missing.
 */
#include "helpers.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} numbers SEC(".maps");

SEC("cgroup_skb/ingress")
int look(struct __sk_buff *skb)
{
	__u32 zero = 0;

	(void)skb;
	return bpf_map_lookup_elem(&numbers, &zero) ? 1 : 0;
}

LICENSE("Dual MIT/GPL");
