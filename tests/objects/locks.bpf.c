// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * struct bpf_spin_lock in a map's value: the kernel finds it by name in the value's BTF, so a map made without BTF
 * would have no lock. (struct bpf_timer, likewise: callbacks.bpf.c.)
 */
#include "helpers.bpf.h"

struct account {
	__u32 hits;
	struct bpf_spin_lock lock;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct account);
} accounts SEC(".maps");

SEC("cgroup_skb/egress")
int charge(struct __sk_buff *skb)
{
	struct account *account;
	__u32 mark = skb->mark;
	__u32 len = skb->len;

	account = bpf_map_lookup_elem(&accounts, &mark);
	if (!account)
		return 1;
	bpf_spin_lock(&account->lock);
	account->hits++;
	account->bytes += len;
	bpf_spin_unlock(&account->lock);
	return 1;
}

LICENSE("Dual MIT/GPL");
