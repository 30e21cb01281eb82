// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is read: a static function in a section of programs. An entry program has to be
 * global, and what entry programs call has to be in .text.
 * Expected: an error that names the section and the function "hidden_entry".
 */
#include "helpers.bpf.h"

SEC("cgroup_skb/egress")
static int hidden_entry(struct __sk_buff *skb)
{
	(void)skb;
	return 1;
}

LICENSE("Dual MIT/GPL");
