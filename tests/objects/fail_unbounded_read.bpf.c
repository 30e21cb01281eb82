// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused by the verifier: reads the packet without comparing with its end.
 * Expected: "invalid access to packet".
 */
#include "helpers.bpf.h"

SEC("cgroup_skb/ingress")
int first_byte(struct __sk_buff *skb)
{
	const __u8 *data = (const __u8 *)(unsigned long)skb->data;

	return data[0] & 1;
}

LICENSE("Dual MIT/GPL");
