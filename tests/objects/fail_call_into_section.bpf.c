// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is read: calls a function in another program section. Only functions in .text can
 * be appended.
 * Expected: an error that names the program "caller" and the function "callee".
 */
#include "helpers.bpf.h"

SEC("tc")
__noinline int callee(struct __sk_buff *skb)
{
	return skb->len;
}

SEC("socket")
int caller(struct __sk_buff *skb)
{
	return callee(skb) + 1;
}

LICENSE("Dual MIT/GPL");
