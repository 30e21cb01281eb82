// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the map is made: an array of no entries.
 * Expected: EINVAL of BPF_MAP_CREATE, for the map "empty".
 */
#include "helpers.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
} empty SEC(".maps");

SEC("cgroup_skb/ingress")
int look(struct __sk_buff *skb)
{
	__u32 zero = 0;

	(void)skb;
	return bpf_map_lookup_elem(&empty, &zero) ? 1 : 0;
}

LICENSE("Dual MIT/GPL");
