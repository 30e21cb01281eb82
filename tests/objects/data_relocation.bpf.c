// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * A pointer in .data that ought to hold another variable's address: a relocation against .data, which no loader can
 * do, for a map's value holds no pointers. libbpf passes over it without a word; the pointer stays 0.
 */
#include "helpers.bpf.h"

__u32 target = 42;
__u32 *volatile pointer = &target;

/* 0: not set */
SEC("tc")
int is_set(struct __sk_buff *skb)
{
	(void)skb;
	return pointer != NULL;
}

LICENSE("Dual MIT/GPL");
