// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Maps of maps: "values" carries the inner map's definition, which the kernel wants as a prototype when the outer one
 * is made, and the slots to fill at load, as relocations in section ".maps".
 */
#include "helpers.bpf.h"

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
};
struct inner inner_one SEC(".maps"), inner_three SEC(".maps");

/* Slots 0 and 2 stay empty. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, __u32);
	__array(values, struct inner);
} outer_array SEC(".maps") = {
	.values = {[1] = &inner_one, [3] = &inner_three},
};

/* No slot filled, an inner definition of its own. The value size (4) may be left out, as above, or be given. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 8);
	__type(key, __u64);
	__uint(value_size, sizeof(__u32));
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_HASH);
			__uint(max_entries, 16);
			__type(key, __u32);
			__type(value, __u32);
		});
} outer_hash SEC(".maps");

/* 10 + 30 for the slots that lead somewhere, plus 1, 2, 3 ... from the first one's own value: 41 the first time */
SEC("tc")
int follow(struct __sk_buff *skb)
{
	__u32 zero = 0, one = 1;
	int result = 0;
	__u64 *value;
	void *map;

	(void)skb;
	for (int i = 0; i < 4; i++) {
		__u32 slot = i;

		if (bpf_map_lookup_elem(&outer_array, &slot))
			result += i * 10;
	}
	map = bpf_map_lookup_elem(&outer_array, &one);
	if (!map)
		return result;
	value = bpf_map_lookup_elem(map, &zero);
	if (value)
		result += ++*value;
	if (bpf_map_lookup_elem(&outer_hash, &(__u64){0}))
		return -1;
	return result;
}

LICENSE("Dual MIT/GPL");
