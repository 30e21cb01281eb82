// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * The smallest object there is: one cgroup_skb program of two instructions, no map, no call.
 */
#include "helpers.bpf.h"

SEC("cgroup_skb/egress")
int pass(struct __sk_buff *skb)
{
	(void)skb;
	return 1;
}

LICENSE("Dual MIT/GPL");
