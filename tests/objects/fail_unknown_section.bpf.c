// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is read: no program type has that section name.
 * Expected: an error that names the section "nonsense/foo" (and not the function).
 */
#include "helpers.bpf.h"

SEC("nonsense/foo")
int program(void *context)
{
	(void)context;
	return 0;
}

LICENSE("Dual MIT/GPL");
