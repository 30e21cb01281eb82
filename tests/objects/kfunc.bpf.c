// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Kernel functions: a call of an extern in ".ksyms" becomes a call of the BTF id of the kernel's function of that name.
 * A weak one that the kernel lacks has the address 0, and the call of it is never reached.
 */
#include "helpers.bpf.h"

extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;
extern void bpf_no_such_kfunc(void) __ksym __weak;

SEC("tp_btf/sched_process_fork")
int on_fork(void *arguments)
{
	(void)arguments;
	bpf_rcu_read_lock();
	if (bpf_no_such_kfunc)
		bpf_no_such_kfunc();
	bpf_rcu_read_unlock();
	return 0;
}

LICENSE("Dual MIT/GPL");
