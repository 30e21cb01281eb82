// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * An object without BTF, which loads as long as it has no maps or externs: compiled without -g, as no other.
 */
#include "helpers.bpf.h"

static __noinline int leaf(__u32 value)
{
	asm volatile("" : "+r"(value));
	return value & 1;
}

SEC("cgroup_skb/ingress")
int call(struct __sk_buff *skb)
{
	return leaf(skb->len);
}

LICENSE("Dual MIT/GPL");
