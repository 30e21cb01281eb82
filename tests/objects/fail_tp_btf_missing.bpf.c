// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is loaded: there is no such tracepoint to attach to.
 * Expected: an error that names "no_such_tracepoint", before any program is loaded.
 */
#include "helpers.bpf.h"

SEC("tp_btf/no_such_tracepoint")
int program(void *arguments)
{
	(void)arguments;
	return 0;
}

LICENSE("Dual MIT/GPL");
