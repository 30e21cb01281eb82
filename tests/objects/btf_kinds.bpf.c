// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * The BTF kinds, above all those that a kernel may lack: VAR and DATASEC (5.2), global FUNC (5.6), FLOAT (5.13),
 * DECL_TAG (5.16), TYPE_TAG (5.17), signed ENUM and ENUM64 (6.0). On a kernel without a kind the loader puts another
 * in its place.
 */
#include "helpers.bpf.h"

/* FWD of a struct and of a union: never defined. */
struct only_declared;
union only_declared_union;

#if __clang_major__ >= 15
enum wide { WIDE_NEGATIVE = -0x100000000LL, WIDE_POSITIVE = 0x100000000LL };
enum wide_unsigned { WIDE_TOP = 0xffffffffffffffffULL };
#endif
enum narrow { NARROW_NEGATIVE = -1, NARROW_POSITIVE = 1 };

typedef int (*callback_t)(const struct only_declared *object, union only_declared_union *other);

union choice {
	__u64 number;
	char text[8];
	double real;
};

struct everything {
	float single;
	double real;
	_Bool truth;
	enum narrow narrow;
#if __clang_major__ >= 15
	enum wide wide;
	enum wide_unsigned wide_unsigned;
#endif
	__u32 low : 3;
	__u32 : 0;
	int high : 5;
	callback_t callback;
	union choice choice;
	struct {
		__u16 inner;
	};
	const volatile int *pointer;
	char *restrict exclusive;
	int __attribute__((btf_type_tag("user"))) *tagged;
	int marked __attribute__((btf_decl_tag("member")));
	__u8 grid[2][3];
	int open_ended[];
};

struct everything everything __attribute__((btf_decl_tag("variable")));

/* An argument's tag refers to it by its position. */
__attribute__((btf_decl_tag("function"))) __noinline int tagged_function(
	int first, int second __attribute__((btf_decl_tag("argument"))))
{
	asm volatile("" : "+r"(first));
	return first + second;
}

/* 0 + 1 + 2 = 3 */
SEC("tc")
int use_kinds(struct __sk_buff *skb)
{
	(void)skb;
	return everything.low + tagged_function(1, 2);
}

LICENSE("Dual MIT/GPL");
