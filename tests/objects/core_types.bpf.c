// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * CO-RE relocations of types and enum values: existence, size, local and kernel type id, value; and, from clang 15 on,
 * 64-bit enums and whether a type matches. Several relocations in consecutive instructions.
 */
#include "core.bpf.h"
#include "helpers.bpf.h"

struct task_struct {
	int tgid;
} __core;

struct no_such_struct {
	int field;
} __core;

typedef int pid_t;

enum pid_type {
	PIDTYPE_SID = 77, /* 3 in the kernel */
	PIDTYPE_NEVER_SEEN = 78,
};

/* 1 + 2 + 4 + 8 = 15 */
SEC("tc")
int type_facts(struct __sk_buff *skb)
{
	int result = 0;

	(void)skb;
	if (bpf_core_type_exists(struct task_struct))
		result += 1;
	if (!bpf_core_type_exists(struct no_such_struct))
		result += 2;
	if (bpf_core_type_size(struct task_struct) > sizeof(struct task_struct) && bpf_core_type_size(pid_t) == 4)
		result += 4;
	if (bpf_core_type_id_local(struct task_struct) != bpf_core_type_id_kernel(struct task_struct))
		result += 8;
	return result;
}

/* The kernel's value, 3, and 10 for what it does not know: 13 */
SEC("tc")
int enum_facts(struct __sk_buff *skb)
{
	int result = 0;

	(void)skb;
	if (bpf_core_enum_value_exists(enum pid_type, PIDTYPE_SID))
		result += bpf_core_enum_value(enum pid_type, PIDTYPE_SID);
	if (!bpf_core_enum_value_exists(enum pid_type, PIDTYPE_NEVER_SEEN))
		result += 10;
	return result;
}

#if __clang_major__ >= 15

/* Unsigned 64-bit in the kernel since there are such enums in BTF (6.0); in an older kernel's BTF cut to 32 bits. */
enum perf_callchain_context {
	PERF_CONTEXT_HV = 0x100000000ULL, /* -32 in the kernel, as an unsigned number */
};

/* All it says about task_struct is true, except the name of the field. */
struct task_struct___mismatch {
	int no_such_field;
} __core;

/* 1 + 2 + 4 = 7 */
SEC("tc")
int newer_facts(struct __sk_buff *skb)
{
	int result = 0;

	(void)skb;
	if (bpf_core_enum_value(enum perf_callchain_context, PERF_CONTEXT_HV) == (__u64)-32)
		result += 1;
	if (bpf_core_type_matches(struct task_struct))
		result += 2;
	if (!bpf_core_type_matches(struct task_struct___mismatch))
		result += 4;
	return result;
}

#endif

LICENSE("Dual MIT/GPL");
