// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused by the verifier: no kernel has a helper of that number.
 * Expected: "invalid func unknown#9999".
 */
#include "helpers.bpf.h"

BPF_HELPER(9999, long, bpf_no_such_helper, void);

SEC("cgroup_skb/ingress")
int call(struct __sk_buff *skb)
{
	(void)skb;
	return bpf_no_such_helper() & 1;
}

LICENSE("Dual MIT/GPL");
