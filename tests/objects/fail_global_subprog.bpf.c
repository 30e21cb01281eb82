// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused by the verifier: a global function is verified by itself, for any argument, so the bound that its
 * only caller keeps does not help it. (Hidden or static, it would pass.)
 * Expected: "math between map_value pointer and register with unbounded min value is not allowed".
 */
#include "helpers.bpf.h"

int numbers[4] = {1, 2, 3, 4};

__noinline int pick(int index)
{
	return numbers[index];
}

SEC("tc")
int call(struct __sk_buff *skb)
{
	return pick(skb->len & 3);
}

LICENSE("Dual MIT/GPL");
