// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * CO-RE relocations of fields: their offset through nested structs, unions and arrays, existence, size, signedness and
 * bitfields; flavours; in a subprogram too. The local layouts are wrong on purpose (few fields, other order, other
 * widths): only the kernel's answers make these programs right, or loadable at all.
 */
#include "core.bpf.h"
#include "helpers.bpf.h"

struct in6_addr {
	union {
		__u32 u6_addr32[4];
	} in6_u;
} __core;

struct sock_common {
	/* In the kernel: a bitfield of unsigned char at another place; the answers are the kernel's. */
	int skc_reuse : 5;
	unsigned int skc_reuseport : 1;
	__u16 skc_family;
	/* In the kernel within an anonymous struct in an anonymous union. */
	__u32 skc_daddr;
	struct in6_addr skc_v6_daddr;
} __core;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_type;
} __core;

struct rlimit {
	__u64 rlim_cur;
} __core;

struct signal_struct {
	struct rlimit rlim[16];
} __core;

struct task_struct {
	struct signal_struct *signal;
	struct task_struct *real_parent;
	int tgid;
	int exit_code;
	char comm[16];
	unsigned int sched_reset_on_fork : 1;
} __core;

/* Another view of the same kernel struct, as some kernel never had it. */
struct task_struct___old {
	int tgid;
	int no_such_field;
} __core;

/* A relocation within an appended function moves along with it. */
static __noinline int parent_group(struct task_struct *task)
{
	struct task_struct *parent = NULL;
	int tgid = 0;

	bpf_core_read(&parent, task->real_parent);
	bpf_core_read(&tgid, parent->tgid);
	return tgid;
}

SEC("tp_btf/sched_process_fork")
int tasks(__u64 *arguments)
{
	struct task_struct *parent = (struct task_struct *)arguments[0];
	struct task_struct *child = (struct task_struct *)arguments[1];

	if (parent->signal->rlim[7].rlim_cur > 1024 && child->comm[3] == 'd')
		return parent->tgid;
	return parent_group(child) + bpf_core_bitfield(child, sched_reset_on_fork);
}

SEC("tp_btf/inet_sock_set_state")
int sockets(__u64 *arguments)
{
	struct sock *sk = (struct sock *)arguments[0];

	if (sk->__sk_common.skc_family == 2)
		return sk->__sk_common.skc_daddr;
	return sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[3] + sk->sk_type +
	       bpf_core_bitfield(&sk->__sk_common, skc_reuse) + bpf_core_bitfield(&sk->__sk_common, skc_reuseport);
}

/* The branch that is not for this kernel accesses a field it lacks: poisoned, but never reached. */
SEC("raw_tp/sched_process_exit")
int flavours(__u64 *arguments)
{
	struct task_struct *task = (struct task_struct *)arguments[0];
	struct task_struct___old *old = (struct task_struct___old *)arguments[0];
	int result = 0;

	if (bpf_core_field_exists(old->no_such_field))
		bpf_core_read(&result, old->no_such_field);
	else
		bpf_core_read(&result, task->tgid);
	return result;
}

/* 1 + 2 + 16 + 4 + 32 = 55 on every kernel: what is asked does not depend on its version. */
SEC("tc")
int field_facts(struct __sk_buff *skb)
{
	int result = 0;

	(void)skb;
	if (bpf_core_field_exists(core_field(struct task_struct, tgid)))
		result += 1;
	if (!bpf_core_field_exists(core_field(struct task_struct___old, no_such_field)))
		result += 2;
	result += bpf_core_field_size(core_field(struct task_struct, comm));
	result += bpf_core_field_size(core_field(struct task_struct, exit_code));
	if (bpf_core_field_signed(core_field(struct task_struct, exit_code)) &&
	    !bpf_core_field_signed(core_field(struct sock_common, skc_reuse)))
		result += 32;
	return result;
}

LICENSE("Dual MIT/GPL");
