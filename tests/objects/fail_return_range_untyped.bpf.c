// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused by the verifier: "cgroup/skb" says no direction, so the range is that of ingress, although 2 is
 * right on egress. This is the EINVAL at load of whoever forgets expected_attach_type.
 * Expected: "At program exit the register R0 has ... should have been in [0, 1]".
 */
#include "helpers.bpf.h"

SEC("cgroup/skb")
int two(struct __sk_buff *skb)
{
	(void)skb;
	return 2;
}

LICENSE("Dual MIT/GPL");
