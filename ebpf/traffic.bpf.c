// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Counts what the sockets of a cgroup send and receive. Never drops anything.
 *
 *   cgroup_skb/egress  ── count_egress ──┐
 *                                        ├─ count(skb, direction) ─ loopback? ─ yes ─> pass
 *   cgroup_skb/ingress ── count_ingress ─┘            │ no
 *                                                     v
 *                                       wire_size(): segments and their bytes
 *                                                     v
 *                                  traffic[direction] of this CPU += ... ─> pass
 *
 * The hooks see a packet at its IP header: on egress after routing and before it is cut into segments, on ingress after
 * GRO has put segments together. Hence the arithmetic in wire.bpf.h.
 */
#include "helpers.bpf.h"
#include "types.bpf.h"
#include "uapi.bpf.h"
#include "traffic.h"
#include "wire.bpf.h"

/* The loopback device's number, in every network namespace. */
#define LOOPBACK_IFINDEX 1

#define PASS 1

/* Loopback passes both hooks: counting it counts each byte twice. The tests want it all the same. */
const volatile bool count_loopback = false;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TRAFFIC_DIRECTIONS);
	__type(key, __u32);
	__type(value, struct traffic_count);
} traffic SEC(".maps");

static __always_inline int count(struct __sk_buff *skb, __u32 direction)
{
	struct traffic_count *total;
	struct wire_size wire;

	if (skb->ifindex == LOOPBACK_IFINDEX && !count_loopback)
		return PASS;
	total = bpf_map_lookup_elem(&traffic, &direction);
	if (!total)
		return PASS;

	/* Atomic although per CPU: a program sending from a process may be interrupted by one sending from softirq. */
	if (!wire_size(skb, &wire))
		__sync_fetch_and_add(&total->errors, 1);
	__sync_fetch_and_add(&total->packets, wire.packets);
	__sync_fetch_and_add(&total->ip_bytes, skb->len);
	__sync_fetch_and_add(&total->wire_bytes, wire.bytes);
	return PASS;
}

SEC("cgroup_skb/egress")
int count_egress(struct __sk_buff *skb)
{
	return count(skb, TRAFFIC_EGRESS);
}

SEC("cgroup_skb/ingress")
int count_ingress(struct __sk_buff *skb)
{
	return count(skb, TRAFFIC_INGRESS);
}

LICENSE("Dual MIT/GPL");
