// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused by the verifier: a loop whose end cannot be shown.
 * Expected: "infinite loop detected".
 */
#include "helpers.bpf.h"

SEC("cgroup_skb/ingress")
int forever(struct __sk_buff *skb)
{
	(void)skb;
	for (;;)
		asm volatile("" ::: "memory");
}

LICENSE("Dual MIT/GPL");
