// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused by the verifier: an egress program returns at most 3.
 * Expected: "At program exit the register R0 has ... should have been in [0, 3]".
 */
#include "helpers.bpf.h"

SEC("cgroup_skb/egress")
int four(struct __sk_buff *skb)
{
	(void)skb;
	return 4;
}

LICENSE("Dual MIT/GPL");
