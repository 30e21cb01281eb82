// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused, naming pid_type and PIDTYPE_NEVER_SEEN: the value of an enumerator that no kernel has is reached.
 * Expected: of the kernel, "invalid func unknown#195896080", the instruction that stands for a failed relocation; of
 * the loader, the names.
 */
#include "core.bpf.h"

enum pid_type { PIDTYPE_NEVER_SEEN = 78 };

SEC("tc")
int value(struct __sk_buff *skb)
{
	(void)skb;
	return bpf_core_enum_value(enum pid_type, PIDTYPE_NEVER_SEEN);
}

LICENSE("Dual MIT/GPL");
