// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is read: a function that is declared, defined nowhere and no kernel function.
 * Expected: an error that names "defined_nowhere".
 */
#include "helpers.bpf.h"

extern int defined_nowhere(int value);

SEC("tc")
int call(struct __sk_buff *skb)
{
	return defined_nowhere(skb->len);
}

LICENSE("Dual MIT/GPL");
