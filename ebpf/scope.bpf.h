// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Whether a peer is one that a rule is about: everybody, the internet, or what is near.
 *
 * Local is what no router of the internet carries (RFC 6890): private and shared address space, link-local and unique
 * local addresses, multicast and broadcast. A neighbour with a global address counts as internet: nothing in a packet
 * tells. IPv4 addresses inside IPv6 ones (::ffff:0:0/96) count as what they hold.
 */
#ifndef CHADTHROTTLE_SCOPE_BPF_H
#define CHADTHROTTLE_SCOPE_BPF_H

#include "helpers.bpf.h"
#include "tags.bpf.h"
#include "throttle.h"
#include "types.bpf.h"
#include "wire.bpf.h"

#define IPV4_SOURCE_OFFSET 12
#define IPV4_DESTINATION_OFFSET 16
#define IPV6_SOURCE_OFFSET 8
#define IPV6_DESTINATION_OFFSET 24

static __always_inline bool is_local_ipv4(const __u8 *address)
{
	switch (address[0]) {
	case 0:
	case 10:
	case 127:
		return true;
	case 100: /* 100.64.0.0/10, behind a provider's NAT (RFC 6598) */
		return (address[1] & 0xc0) == 64;
	case 169:
		return address[1] == 254;
	case 172:
		return (address[1] & 0xf0) == 16;
	case 192:
		return address[1] == 168;
	default: /* multicast, reserved, broadcast */
		return address[0] >= 224;
	}
}

static __always_inline bool is_local_ipv6(const __u8 *address)
{
	const __u32 *words = (const __u32 *)address;

	if (!words[0] && !words[1]) {
		if (words[2] == __builtin_bswap32(0xffff))
			return is_local_ipv4(address + 12);
		/* :: and ::1; all else in ::/64 is nobody's, but for ::/96, which holds IPv4 too and is not in use. */
		return !words[2];
	}
	return (address[0] & 0xfe) == 0xfc || address[0] == 0xff || (address[0] == 0xfe && (address[1] & 0xc0) == 0x80);
}

static __always_inline bool includes(const struct throttle_rule *rule, bool local)
{
	return local == (rule->scope == THROTTLE_LOCAL);
}

/* By the packet, whose socket may have many peers. What has no address that we can read is not the rule's. */
static __always_inline bool packet_in_scope(struct __sk_buff *skb, const struct throttle_rule *rule,
					    enum throttle_direction direction)
{
	__u32 words[4];
	__u8 *address = (__u8 *)words;
	__u8 version;

	if (rule->scope == THROTTLE_ALL)
		return true;
	if (load_network(skb, 0, &version, sizeof(version)))
		return false;
	if (version >> 4 == 4)
		return !load_network(
			       skb, direction == THROTTLE_UP ? IPV4_DESTINATION_OFFSET : IPV4_SOURCE_OFFSET, words, 4) &&
		       includes(rule, is_local_ipv4(address));
	return version >> 4 == 6 &&
	       !load_network(skb, direction == THROTTLE_UP ? IPV6_DESTINATION_OFFSET : IPV6_SOURCE_OFFSET, words,
				   sizeof(words)) &&
	       includes(rule, is_local_ipv6(address));
}

/* By the connection. */
static __always_inline bool peer_in_scope(struct tcp_sock *tcp, const struct throttle_rule *rule)
{
	struct sock_common *common = &((struct sock *)tcp)->__sk_common;
	__u32 words[4];

	if (rule->scope == THROTTLE_ALL)
		return true;
	if (common->skc_family == AF_INET) {
		words[0] = common->skc_daddr;
		return includes(rule, is_local_ipv4((__u8 *)words));
	}
	if (!bpf_core_field_exists(common->skc_v6_daddr)) /* a kernel without IPv6 */
		return false;
	words[0] = common->skc_v6_daddr.word[0];
	words[1] = common->skc_v6_daddr.word[1];
	words[2] = common->skc_v6_daddr.word[2];
	words[3] = common->skc_v6_daddr.word[3];
	return includes(rule, is_local_ipv6((__u8 *)words));
}

#endif
