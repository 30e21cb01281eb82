// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused by the verifier: uses a register that nothing was written to.
 * Expected: "R3 !read_ok".
 */
#include "helpers.bpf.h"

SEC("cgroup_skb/ingress")
int leftover(struct __sk_buff *skb)
{
	int value;

	(void)skb;
	asm volatile("%0 = r3" : "=r"(value));
	return value & 1;
}

LICENSE("Dual MIT/GPL");
