// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * A section name that begins with "?": the program is not loaded unless asked for by name, the rest of the object is.
 */
#include "helpers.bpf.h"

SEC("cgroup_skb/egress")
int always(struct __sk_buff *skb)
{
	(void)skb;
	return 1;
}

SEC("?cgroup_skb/egress")
int when_asked(struct __sk_buff *skb)
{
	skb->priority = 1;
	return 1;
}

LICENSE("Dual MIT/GPL");
