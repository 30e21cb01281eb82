// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * A program at the start of a kernel function. Loads on ordinary kernels; on some (this project's test machines) every
 * such program gets EPERM and no log at all, and the error has to be of use all the same.
 */
#include "helpers.bpf.h"

SEC("fentry/schedule")
int on_schedule(void *arguments)
{
	(void)arguments;
	return 0;
}

LICENSE("Dual MIT/GPL");
