// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is loaded: a kernel function that no kernel has, and not weak.
 * Expected: an error that names "bpf_no_such_kfunc".
 */
#include "helpers.bpf.h"

extern void bpf_no_such_kfunc(void) __ksym;

SEC("tc")
int call(struct __sk_buff *skb)
{
	(void)skb;
	bpf_no_such_kfunc();
	return 0;
}

LICENSE("Dual MIT/GPL");
