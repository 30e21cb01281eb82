// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Functions handed to a helper: a 16-byte load whose source register says BPF_PSEUDO_FUNC, relocated to the distance to
 * the appended function. They need func_info, and may call functions of their own.
 */
#include "helpers.bpf.h"

struct entry {
	struct bpf_timer timer;
	__u64 value;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct entry);
} entries SEC(".maps");

static __noinline long doubled(__u32 number)
{
	return (long)number * 2;
}

static long add_doubled(__u32 index, long *sum)
{
	*sum += doubled(index);
	return 0;
}

static long add_key(void *map, const __u32 *key, struct entry *entry, long *sum)
{
	(void)map;
	entry->value = *key;
	*sum += *key;
	return 0;
}

static int timer_fired(void *map, __u32 *key, struct entry *entry)
{
	(void)map;
	(void)key;
	entry->value++;
	return 0;
}

/* 2 * (0 + 1 + ... + 9) = 90 */
SEC("tc")
int loop(struct __sk_buff *skb)
{
	long sum = 0;

	(void)skb;
	bpf_loop(10, add_doubled, &sum, 0);
	return sum;
}

/* 0 + 1 + 2 + 3 = 6, and 90 again: two callbacks in one program */
SEC("tc")
int for_each(struct __sk_buff *skb)
{
	long sum = 0;

	(void)skb;
	bpf_for_each_map_elem(&entries, add_key, &sum, 0);
	bpf_loop(10, add_doubled, &sum, 0);
	return sum;
}

/* 0 when the timer was set */
SEC("tc")
int set_timer(struct __sk_buff *skb)
{
	struct entry *entry;
	__u32 zero = 0;

	(void)skb;
	entry = bpf_map_lookup_elem(&entries, &zero);
	if (!entry)
		return -1;
	if (bpf_timer_init(&entry->timer, &entries, CLOCK_MONOTONIC))
		return -2;
	bpf_timer_set_callback(&entry->timer, timer_fired);
	return bpf_timer_start(&entry->timer, 1000000, 0);
}

LICENSE("Dual MIT/GPL");
