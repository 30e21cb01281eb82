// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused, naming no_such_struct: the field of a type that no kernel has is reached.
 * Expected: of the kernel, "invalid func unknown#195896080", the instruction that stands for a failed relocation; of
 * the loader, the names.
 */
#include "core.bpf.h"

struct no_such_struct {
	int padding;
	int field;
} __core;

SEC("raw_tp/sched_process_exit")
int read_field(__u64 *arguments)
{
	struct no_such_struct *object = (struct no_such_struct *)arguments[0];
	int value = 0;

	bpf_core_read(&value, object->field);
	return value;
}

LICENSE("Dual MIT/GPL");
