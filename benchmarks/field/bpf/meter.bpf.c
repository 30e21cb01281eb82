// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Counts what reaches a socket, for every limiter alike: a socket filter runs after netfilter, after tc, and after the
 * programs of the socket's cgroup. What arrives here is past whichever limiter there was.
 *
 *   device ─ tc ─ netfilter ─ cgroup_skb ─ [here] ─ receive queue
 *
 * A socket filter sees the packet from its transport header on; the IP header in front is added. A buffer that GRO, or
 * a veth, left in one piece counts as the packets it stands for, each with headers of its own.
 */
#include "helpers.bpf.h"
#include "types.bpf.h"
#include "uapi.bpf.h"

#define UDP_HEADER 8
#define TCP_DATA_OFFSET 12
#define IPV6_HEADER 40
#define HDR_START_NET 1 /* uapi linux/bpf.h: BPF_HDR_START_NET */
#define ALL_OF_IT 0xffffffff

BPF_HELPER(68, long, load_from_header, const void *skb, __u32 offset, void *to, __u32 len, __u32 start);

struct arrived {
	__u64 wire_bytes; /* from the IP header on */
	__u64 packets;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct arrived);
} meter SEC(".maps");

static __always_inline __u32 ip_header(struct __sk_buff *skb)
{
	__u8 first;

	if (load_from_header(skb, 0, &first, sizeof(first), HDR_START_NET))
		return 0;
	return first >> 4 == 6 ? IPV6_HEADER : (first & 0x0f) * 4;
}

static __always_inline int count(struct __sk_buff *skb, __u32 transport)
{
	__u32 headers = ip_header(skb) + transport, zero = 0;
	__u64 packets = 1, payload;
	struct arrived *total;

	total = bpf_map_lookup_elem(&meter, &zero);
	if (!total || skb->len < transport)
		return ALL_OF_IT;
	payload = skb->len - transport;
	if (skb->gso_size && payload > skb->gso_size)
		packets = (payload + skb->gso_size - 1) / skb->gso_size;
	__sync_fetch_and_add(&total->packets, packets);
	__sync_fetch_and_add(&total->wire_bytes, payload + packets * headers);
	return ALL_OF_IT;
}

SEC("socket")
int count_tcp(struct __sk_buff *skb)
{
	__u8 data_offset;

	if (bpf_skb_load_bytes(skb, TCP_DATA_OFFSET, &data_offset, sizeof(data_offset)))
		return ALL_OF_IT;
	return count(skb, (data_offset >> 4) * 4);
}

SEC("socket")
int count_udp(struct __sk_buff *skb)
{
	return count(skb, UDP_HEADER);
}

LICENSE("Dual MIT/GPL");
