// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is read: a map definition as it was before BTF, in section "maps".
 * Expected: an error that says to use BTF-defined maps.
 */
#include "helpers.bpf.h"

struct bpf_map_def {
	__u32 type;
	__u32 key_size;
	__u32 value_size;
	__u32 max_entries;
	__u32 map_flags;
};

struct bpf_map_def numbers SEC("maps") = {
	.type = BPF_MAP_TYPE_ARRAY,
	.key_size = 4,
	.value_size = 8,
	.max_entries = 1,
};

SEC("cgroup_skb/ingress")
int look(struct __sk_buff *skb)
{
	__u32 zero = 0;

	(void)skb;
	return bpf_map_lookup_elem(&numbers, &zero) ? 1 : 0;
}

LICENSE("Dual MIT/GPL");
