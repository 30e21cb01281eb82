// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Functions that stay functions. The loader appends to an entry program what it calls, depth first in the order of the
 * calls, each once, and mends the calls. The order shows in the tag, the linking in what BPF_PROG_TEST_RUN returns.
 *
 *   first:  leaf, outer -> middle -> inner -> leaf        = first, leaf, outer, middle, inner
 *   second: outer -> middle -> inner -> leaf, leaf        = second, outer, middle, inner, leaf
 *   third:  scale, offset_by (weak), concealed (hidden)   = third, scale, offset_by, concealed
 *
 * A call of a global function has a relocation against its symbol; of a static one from another section, one against
 * the section with the place in the instruction; of a static one from within .text, none.
 */
#include "helpers.bpf.h"

/* Keeps clang from working the result out: the functions would be called for nothing, or not at all. */
#define OPAQUE(value) asm volatile("" : "+r"(value))

static __noinline __u64 leaf(__u64 value)
{
	OPAQUE(value);
	return value + 1;
}

static __noinline __u64 inner(__u64 value)
{
	OPAQUE(value);
	return leaf(value) * 2;
}

static __noinline __u64 middle(__u64 value)
{
	OPAQUE(value);
	return inner(value) + 100;
}

static __noinline __u64 outer(__u64 value)
{
	OPAQUE(value);
	return middle(value) * 3;
}

/* Global: the kernel verifies it by itself, for any argument, before any caller. */
__noinline int scale(int value)
{
	OPAQUE(value);
	return value * 10;
}

/* Nobody calls it: not part of any program. */
__noinline int nobody_calls(int value)
{
	OPAQUE(value);
	return scale(value) - 1;
}

__weak __noinline int offset_by(int value, int by)
{
	OPAQUE(value);
	return value + by;
}

/*
 * Hidden: global to the linker, but the loader makes it static in the BTF. Verified by itself, it would be refused:
 * it reads through a pointer that only the caller's context shows to be the stack.
 */
__hidden __noinline int concealed(const int *values)
{
	return values[0] + values[1];
}

/* leaf(1) + outer(1) = 2 + ((1 + 1) * 2 + 100) * 3 = 314 */
SEC("tc")
int first(struct __sk_buff *skb)
{
	__u64 one = 1;

	(void)skb;
	OPAQUE(one);
	return leaf(one) + outer(one);
}

/* outer(2) + leaf(2) = ((2 + 1) * 2 + 100) * 3 + 3 = 321 */
SEC("tc")
int second(struct __sk_buff *skb)
{
	__u64 two = 2;
	__u64 result;

	(void)skb;
	OPAQUE(two);
	result = outer(two);
	return result + leaf(two);
}

/* 50 + 57 + (50 + 57) = 214 */
SEC("tc")
int third(struct __sk_buff *skb)
{
	int values[2];

	(void)skb;
	values[0] = scale(5);
	values[1] = offset_by(values[0], 7);
	return values[0] + values[1] + concealed(values);
}

LICENSE("Dual MIT/GPL");
