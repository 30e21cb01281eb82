// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * A kernel variable with a type: found by name in the kernel's BTF, its id put into the load instruction. The kernel
 * then looks its address up among its symbols, where it has variables only with CONFIG_KALLSYMS_ALL.
 */
#include "helpers.bpf.h"

extern const int bpf_prog_active __ksym;

/* 1: the counter of this CPU is not negative */
SEC("tc")
int read_variable(struct __sk_buff *skb)
{
	const int *active = bpf_this_cpu_ptr(&bpf_prog_active);

	(void)skb;
	return *active >= 0;
}

LICENSE("Dual MIT/GPL");
