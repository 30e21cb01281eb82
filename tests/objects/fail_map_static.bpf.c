// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is read: a static map, which could not be found by its name.
 * Expected: an error that names the map "own".
 */
#include "helpers.bpf.h"

static struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} own SEC(".maps");

LICENSE("Dual MIT/GPL");
