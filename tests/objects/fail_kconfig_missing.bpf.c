// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is loaded: a configuration option that no kernel has, and not weak.
 * Expected: an error that names "CONFIG_NO_SUCH_OPTION".
 */
#include "helpers.bpf.h"

extern __u32 CONFIG_NO_SUCH_OPTION __kconfig;

SEC("tc")
int option(struct __sk_buff *skb)
{
	(void)skb;
	return CONFIG_NO_SUCH_OPTION;
}

LICENSE("Dual MIT/GPL");
