// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * No section "license": taken for the empty licence, which suffices where no GPL-only helper is called.
 */
#include "helpers.bpf.h"

SEC("cgroup_skb/ingress")
int pass(struct __sk_buff *skb)
{
	(void)skb;
	return 1;
}
