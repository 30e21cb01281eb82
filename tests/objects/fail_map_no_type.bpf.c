// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused when the object is read or the map is made: nothing says what map it is.
 * Expected: an error that names the map.
 */
#include "helpers.bpf.h"

struct {
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} untold SEC(".maps");

LICENSE("Dual MIT/GPL");
