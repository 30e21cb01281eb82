// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Kernel symbols without a type: their addresses, from /proc/kallsyms, as plain numbers; 0 for a weak one that the
 * kernel lacks. (Variables with a type: ksym_typed.)
 */
#include "helpers.bpf.h"

extern const void schedule __ksym;
extern const void no_such_symbol __ksym __weak;

/* 1 + 2 = 3 */
SEC("tc")
int addresses(struct __sk_buff *skb)
{
	__u64 function = (__u64)&schedule;
	int result = 0;

	(void)skb;
	/* To clang no symbol's address is 0 unless weak. */
	asm volatile("" : "+r"(function));
	if (function)
		result += 1;
	if (!&no_such_symbol)
		result += 2;
	return result;
}

LICENSE("Dual MIT/GPL");
