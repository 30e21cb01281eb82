// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Sections "tcx/…" give the type of "tc" and an attach type of their own (Linux 6.6). bpftool 7.1 does not know the
 * names; tcx_as_tc.bpf.c has the same code under "tc", so its tags are the ones to expect here.
 */
#include "helpers.bpf.h"

/* TCX_NEXT of linux/bpf.h: the verdict of the next program counts. */
#define TCX_NEXT (-1)

SEC("tcx/ingress")
int from_network(struct __sk_buff *skb)
{
	skb->priority = 1;
	return TCX_NEXT;
}

SEC("tcx/egress")
int to_network(struct __sk_buff *skb)
{
	skb->priority = 2;
	return TCX_NEXT;
}

LICENSE("Dual MIT/GPL");
