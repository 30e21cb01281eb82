// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * The code of tcx.bpf.c under section "tc", for loaders that do not know "tcx/…": same tags, no attach type.
 */
#include "helpers.bpf.h"

/* TCX_NEXT of linux/bpf.h: the verdict of the next program counts. */
#define TCX_NEXT (-1)

SEC("tc")
int from_network(struct __sk_buff *skb)
{
	skb->priority = 1;
	return TCX_NEXT;
}

SEC("tc")
int to_network(struct __sk_buff *skb)
{
	skb->priority = 2;
	return TCX_NEXT;
}

LICENSE("Dual MIT/GPL");
