// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * CO-RE: questions about the running kernel's types, answered when the program is loaded.
 *
 * Declare a kernel struct with just the fields in use and __core, and each access to a field is relocated to where the
 * running kernel has it. What follows "___" in a struct's name is not part of it (a "flavour"): two layouts of one
 * kernel struct can be declared side by side, and bpf_core_field_exists() decides between them.
 *
 * Each macro is one clang builtin, and leaves a record in .BTF.ext of which (enum bpf_core_relo_kind of the uapi).
 */
#ifndef CHADTHROTTLE_CORE_BPF_H
#define CHADTHROTTLE_CORE_BPF_H

#include "helpers.bpf.h"
#include "types.bpf.h"

#define __core __attribute__((preserve_access_index))

/* The builtins' second argument, as clang numbers it. */
enum core_field_info {
	CORE_FIELD_BYTE_OFFSET = 0,
	CORE_FIELD_BYTE_SIZE = 1,
	CORE_FIELD_EXISTS = 2,
	CORE_FIELD_SIGNED = 3,
	CORE_FIELD_LSHIFT_U64 = 4,
	CORE_FIELD_RSHIFT_U64 = 5,
};
enum core_type_id { CORE_TYPE_ID_LOCAL = 0, CORE_TYPE_ID_TARGET = 1 };
enum core_type_info { CORE_TYPE_EXISTS = 0, CORE_TYPE_SIZE = 1, CORE_TYPE_MATCHES = 2 };
enum core_enum_value { CORE_ENUM_VALUE_EXISTS = 0, CORE_ENUM_VALUE = 1 };

/* A field without an object at hand. */
#define core_field(type, field) (((type *)0)->field)

#define bpf_core_field_exists(field) __builtin_preserve_field_info(field, CORE_FIELD_EXISTS)
#define bpf_core_field_size(field) __builtin_preserve_field_info(field, CORE_FIELD_BYTE_SIZE)
#define bpf_core_field_offset(field) __builtin_preserve_field_info(field, CORE_FIELD_BYTE_OFFSET)
#define bpf_core_field_signed(field) __builtin_preserve_field_info(field, CORE_FIELD_SIGNED)

#define bpf_core_type_id_local(type) __builtin_btf_type_id(*(type *)0, CORE_TYPE_ID_LOCAL)
#define bpf_core_type_id_kernel(type) __builtin_btf_type_id(*(type *)0, CORE_TYPE_ID_TARGET)
#define bpf_core_type_exists(type) __builtin_preserve_type_info(*(type *)0, CORE_TYPE_EXISTS)
#define bpf_core_type_size(type) __builtin_preserve_type_info(*(type *)0, CORE_TYPE_SIZE)
/* From clang 15 on. */
#define bpf_core_type_matches(type) __builtin_preserve_type_info(*(type *)0, CORE_TYPE_MATCHES)

/* The builtin takes an enumerator disguised as what a pointer to its enum points to. */
#define bpf_core_enum_value_exists(type, value) __builtin_preserve_enum_value(*(type *)value, CORE_ENUM_VALUE_EXISTS)
#define bpf_core_enum_value(type, value) __builtin_preserve_enum_value(*(type *)value, CORE_ENUM_VALUE)

/* Reads a field where the verifier does not follow pointers itself (anything but tp_btf and iterators). */
#define bpf_core_read(to, field) \
	bpf_probe_read_kernel(to, sizeof(*(to)), __builtin_preserve_access_index(&(field)))

/*
 * A bitfield has no address: take the bytes that hold it, then shift it to the top and down again. object must be a
 * pointer that the verifier lets the program read through.
 */
#define bpf_core_bitfield(object, field) \
	({ \
		const void *place = (const char *)(object) + bpf_core_field_offset((object)->field); \
		__u64 bits = 0; \
\
		/* One load of each size, or clang makes one of them all, whose size no relocation can mend. */ \
		asm volatile("" : "+r"(place)); \
		switch (bpf_core_field_size((object)->field)) { \
		case 1: \
			bits = *(const __u8 *)place; \
			break; \
		case 2: \
			bits = *(const __u16 *)place; \
			break; \
		case 4: \
			bits = *(const __u32 *)place; \
			break; \
		case 8: \
			bits = *(const __u64 *)place; \
			break; \
		} \
		bits <<= __builtin_preserve_field_info((object)->field, CORE_FIELD_LSHIFT_U64); \
		if (__builtin_preserve_field_info((object)->field, CORE_FIELD_SIGNED)) \
			bits = (__s64)bits >> __builtin_preserve_field_info((object)->field, CORE_FIELD_RSHIFT_U64); \
		else \
			bits >>= __builtin_preserve_field_info((object)->field, CORE_FIELD_RSHIFT_U64); \
		bits; \
	})

#endif
