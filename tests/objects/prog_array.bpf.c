// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Tail calls through a program array whose slots are filled at load, after the programs are loaded: "values" refers to
 * functions. One target is defined before the array, one after it.
 */
#include "helpers.bpf.h"

int late(struct __sk_buff *skb);

/* 100 */
SEC("tc")
int early(struct __sk_buff *skb)
{
	(void)skb;
	return 100;
}

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, sizeof(__u32));
	__array(values, int(struct __sk_buff *));
} jumps SEC(".maps") = {
	.values = {[1] = &early, [3] = &late},
};

/* 100, by way of slot 1 */
SEC("tc")
int jump_to_early(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &jumps, 1);
	return -1;
}

/* 300, by way of slot 3 */
SEC("tc")
int jump_to_late(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &jumps, 3);
	return -1;
}

/* 2: an empty slot makes the call return */
SEC("tc")
int jump_to_nowhere(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &jumps, 0);
	return 2;
}

SEC("tc")
int late(struct __sk_buff *skb)
{
	(void)skb;
	return 300;
}

LICENSE("Dual MIT/GPL");
