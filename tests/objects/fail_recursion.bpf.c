// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused by the verifier, and must not make the loader go round in circles: two functions that call each
 * other.
 * Expected: "the call stack of 9 frames is too deep".
 */
#include "helpers.bpf.h"

static __noinline int odd(__u32 number);

static __noinline int even(__u32 number)
{
	asm volatile("" : "+r"(number));
	return number ? odd(number - 1) + 1 : 0;
}

static __noinline int odd(__u32 number)
{
	asm volatile("" : "+r"(number));
	return number ? even(number - 1) + 2 : 1;
}

SEC("tc")
int enter(struct __sk_buff *skb)
{
	return even(skb->len);
}

LICENSE("Dual MIT/GPL");
