// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused, naming task_struct and no_such_field: an access to a field that no kernel has is reached.
 * Expected: of the kernel, "invalid func unknown#195896080", the instruction that stands for a failed relocation; of
 * the loader, the names.
 */
#include "core.bpf.h"

struct task_struct {
	int no_such_field;
} __core;

SEC("raw_tp/sched_process_exit")
int read_field(__u64 *arguments)
{
	struct task_struct *task = (struct task_struct *)arguments[0];
	int value = 0;

	bpf_core_read(&value, task->no_such_field);
	return value;
}

LICENSE("Dual MIT/GPL");
