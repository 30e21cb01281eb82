// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * A map whose size the loader's user sets: max_entries is 0 in the object, which the kernel refuses for a hash. As it
 * stands the object must not load; with a size set it must.
 */
#include "helpers.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 0);
	__type(key, __u32);
	__type(value, __u64);
} sized_by_user SEC(".maps");

SEC("cgroup_skb/ingress")
int look(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;

	return bpf_map_lookup_elem(&sized_by_user, &mark) ? 1 : 0;
}

LICENSE("Dual MIT/GPL");
