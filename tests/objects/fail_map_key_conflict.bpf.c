// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is read: the key has four bytes, its type eight.
 * Expected: an error that names the map and both sizes.
 */
#include "helpers.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__type(key, __u64);
	__type(value, __u64);
} contradiction SEC(".maps");

LICENSE("Dual MIT/GPL");
