// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Wants the pin of pinning.bpf.c for a map of another value size: loads where there is no pin yet, and must be refused
 * where pinning.bpf.c has left its own.
 */
#include "helpers.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} ct_test_pinned SEC(".maps");

LICENSE("Dual MIT/GPL");
