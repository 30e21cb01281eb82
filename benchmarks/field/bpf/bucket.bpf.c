// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Plain policing, as a limiter without further thought does it, to be compared with: tokens for two seconds, a buffer
 * costs its length, and one that the tokens do not cover is dropped.
 */
#include "helpers.bpf.h"
#include "types.bpf.h"
#include "uapi.bpf.h"

#define NS_PER_S 1000000000ULL
#define BURST_S 2
#define PASS 1
#define DROP 0

const volatile __u64 rate_bytes_per_s = 0;

struct bucket {
	struct bpf_spin_lock lock;
	__u64 tokens;
	__u64 filled_at_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bucket);
} bucket SEC(".maps");

static __always_inline int judge(struct __sk_buff *skb)
{
	__u64 now = bpf_ktime_get_boot_ns(), most = BURST_S * rate_bytes_per_s, since;
	__u32 zero = 0, length = skb->len;
	struct bucket *ours;
	int verdict = DROP;

	ours = bpf_map_lookup_elem(&bucket, &zero);
	if (!ours)
		return PASS;
	bpf_spin_lock(&ours->lock);
	/* The first packet of all finds it full, for the clock began long before. Two CPUs may read it out of order. */
	since = now > ours->filled_at_ns ? now - ours->filled_at_ns : 0;
	if (since > BURST_S * NS_PER_S)
		since = BURST_S * NS_PER_S;
	if (since) {
		ours->tokens += since * rate_bytes_per_s / NS_PER_S;
		ours->filled_at_ns = now;
	}
	if (ours->tokens > most)
		ours->tokens = most;
	if (ours->tokens >= length) {
		ours->tokens -= length;
		verdict = PASS;
	}
	bpf_spin_unlock(&ours->lock);
	return verdict;
}

SEC("cgroup_skb/egress")
int police_up(struct __sk_buff *skb)
{
	return judge(skb);
}

SEC("cgroup_skb/ingress")
int police_down(struct __sk_buff *skb)
{
	return judge(skb);
}

LICENSE("Dual MIT/GPL");
