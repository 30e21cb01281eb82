// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused by the verifier with a log of a megabyte or more, the reason in its last lines: reads the packet out
 * of bounds, after a loop that the verifier follows through each of its rounds.
 * Expected: "invalid access to packet", and the whole log at hand.
 */
#include "helpers.bpf.h"

SEC("cgroup_skb/ingress")
int after_a_while(struct __sk_buff *skb)
{
	const __u8 *data = (const __u8 *)(unsigned long)skb->data;
	__u64 sum = 0;

	for (__u32 i = 0; i < 5000; i++) {
		sum += skb->len;
		asm volatile("" : "+r"(sum));
	}
	return (data[0] + sum) & 1;
}

LICENSE("Dual MIT/GPL");
