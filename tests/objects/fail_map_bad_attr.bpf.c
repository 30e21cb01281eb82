// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is read: a member of the map definition that means nothing.
 * Expected: an error that names the map and the member "no_such_attribute".
 */
#include "helpers.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(no_such_attribute, 1);
} odd SEC(".maps");

LICENSE("Dual MIT/GPL");
