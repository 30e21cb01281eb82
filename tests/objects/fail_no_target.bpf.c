// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is read or loaded: "tp_btf" without the tracepoint it is for.
 * Expected: an error that names the section.
 */
#include "helpers.bpf.h"

SEC("tp_btf")
int program(void *arguments)
{
	(void)arguments;
	return 0;
}

LICENSE("Dual MIT/GPL");
