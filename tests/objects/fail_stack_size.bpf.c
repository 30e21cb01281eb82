// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused by the verifier: each function has less than the 512 bytes of stack there are, both together more.
 * Expected: "combined stack size of 2 calls is" and the sum.
 */
#include "helpers.bpf.h"

static __noinline int fill(__u64 value)
{
	__u64 words[40];

	for (int i = 0; i < 40; i++) {
		words[i] = value;
		asm volatile("" ::"r"(&words[i]) : "memory");
	}
	return words[39];
}

SEC("tc")
int nested(struct __sk_buff *skb)
{
	__u64 words[40];

	for (int i = 0; i < 40; i++) {
		words[i] = skb->len;
		asm volatile("" ::"r"(&words[i]) : "memory");
	}
	return fill(words[39]) + words[0];
}

LICENSE("Dual MIT/GPL");
