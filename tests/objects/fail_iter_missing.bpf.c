// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is loaded: there is nothing of that name to iterate over.
 * Expected: an error that names "no_such_iterator", before any program is loaded.
 */
#include "helpers.bpf.h"

SEC("iter/no_such_iterator")
int program(void *context)
{
	(void)context;
	return 0;
}

LICENSE("Dual MIT/GPL");
