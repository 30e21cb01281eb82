// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused by the verifier: 2 (drop, and say so to TCP) exists on egress only.
 * Expected: "At program exit the register R0 has ... should have been in [0, 1]".
 */
#include "helpers.bpf.h"

SEC("cgroup_skb/ingress")
int up_to_two(struct __sk_buff *skb)
{
	return skb->len > 1000 ? 2 : 1;
}

LICENSE("Dual MIT/GPL");
