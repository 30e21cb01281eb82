// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * A map that asks to be pinned under its own name: a second load finds the pin and uses that map, provided that it is
 * alike (pinning_other has one that is not). The map beside it is each load's own.
 */
#include "helpers.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} ct_test_pinned SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} ct_test_private SEC(".maps");

/* 3 for the first load, 5 for the second, 7 for the third: shared (2 each run) + private (1 each run) */
SEC("tc")
int count(struct __sk_buff *skb)
{
	__u64 *shared, *own;
	__u32 zero = 0;

	(void)skb;
	shared = bpf_map_lookup_elem(&ct_test_pinned, &zero);
	own = bpf_map_lookup_elem(&ct_test_private, &zero);
	if (!shared || !own)
		return 0;
	*shared += 2;
	*own += 1;
	return *shared + *own;
}

LICENSE("Dual MIT/GPL");
