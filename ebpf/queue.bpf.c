// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Sends the packets of queued rules through an IFB device, where an HTB class of each rule holds them.
 *
 *   device ─ ingress ─ whose socket? ─ queued rule ─ class into skb->priority ─ redirect ─> IFB ─ HTB ─┐
 *                          │                                                                          │
 *                          └ anything else: as it was     device, as if nothing had been <────────────┘
 *
 *   device ─ egress ── the same, but the redirecting is done by an action behind the filter (mirred): bpf_redirect()
 *                      from egress leaves skb_iif at 0, and IFB drops what came from nowhere
 *
 * Before Linux 6.4 or so IFB drops what any program redirects, for want of skb->redirected: __bpf_tx_skb() in
 * net/core/filter.c. An action redirects there too (queue_by_action).
 *
 * Loaded once for each network namespace with the device of its queue, and with the maps of throttle.bpf.c. What is not
 * found here (fragments, what NAT renames, other namespaces' sockets) is policed when it reaches its socket (judge.bpf.h),
 * which sees by skb->priority what came through the queue. So does a device above another one (a bridge, a bond): a
 * packet is queued once.
 */
#include "helpers.bpf.h"
#include "police.bpf.h"
#include "scope.bpf.h"
#include "tags.bpf.h"
#include "throttle.h"
#include "types.bpf.h"
#include "uapi.bpf.h"
#include "wire.bpf.h"

#define ETHERNET_HEADER 14
#define LONGEST_LINK_HEADER 18
#define IPV4_FRAGMENT_OFFSET 6
#define IPV4_IS_FRAGMENT 0x3fff /* more to come, or not the first */

#define TCP_FLAGS_OFFSET 13
#define TCP_FIN 0x01
#define TCP_RST 0x04

#define PORT_DNS 53
#define PORT_QUIC 443

/* What goes first is counted in packets (shape.py): an answer of 512 bytes (RFC 1035, 4.2.1) does, with its headers. */
#define LONGEST_FIRST 576

/* A filter's answers without direct action. */
#define NO_MATCH 0
#define MATCH (-1)

/* The IFB of this namespace, and the longest packet that its classes take, with a link header and a VLAN's tag. */
const volatile __u32 queue_device;
const volatile __u32 queue_segment;

/* Whether queue_download leaves the redirecting to an action behind it. */
const volatile bool queue_by_action;

/* struct bpf_sock_tuple; its size tells the family. */
struct ipv4_tuple {
	__u32 addresses[2];
	__u16 ports[2];
};
struct ipv6_tuple {
	__u32 addresses[8];
	__u16 ports[2];
};

/* A packet that may have a socket here. */
struct packet {
	struct transport transport;
	__u32 length; /* from the IP header on; of a GSO buffer what its header says, which is not used */
	__u16 ports[2];
	__u8 version;
};

static __always_inline bool read_ipv4(struct __sk_buff *skb, struct packet *packet)
{
	__u16 fragment, length;

	if (load_network(skb, IPV4_FRAGMENT_OFFSET, &fragment, sizeof(fragment)) ||
	    fragment & __builtin_bswap16(IPV4_IS_FRAGMENT))
		return false;
	if (load_network(skb, IPV4_LENGTH_OFFSET, &length, sizeof(length)))
		return false;
	packet->length = __builtin_bswap16(length);
	return true;
}

static __always_inline bool read_ipv6(struct __sk_buff *skb, struct packet *packet)
{
	__u16 length;

	if (load_network(skb, IPV6_LENGTH_OFFSET, &length, sizeof(length)))
		return false;
	packet->length = IPV6_HEADER + __builtin_bswap16(length);
	return true;
}

/* Only TCP and UDP, and no fragments: those have no ports, or not all of them. */
static __always_inline bool read_packet(struct __sk_buff *skb, struct packet *packet)
{
	__u8 version;

	if (load_network(skb, 0, &version, sizeof(version)))
		return false;
	packet->version = version >> 4;
	if (!find_transport(skb, &packet->transport))
		return false;
	if (packet->transport.protocol != IPPROTO_TCP && packet->transport.protocol != IPPROTO_UDP)
		return false;
	if (load_network(skb, packet->transport.offset, packet->ports, sizeof(packet->ports)))
		return false;
	return packet->version == 4 ? read_ipv4(skb, packet) : read_ipv6(skb, packet);
}

/* Established ones, those that are being established by their listener, listeners, UDP sockets. To be released. */
static __always_inline struct bpf_sock *find_socket(struct __sk_buff *skb, const struct packet *packet)
{
	bool tcp = packet->transport.protocol == IPPROTO_TCP;

	if (packet->version == 4) {
		struct ipv4_tuple tuple = {};

		if (load_network(skb, IPV4_SOURCE_OFFSET, tuple.addresses, sizeof(tuple.addresses)))
			return NULL;
		__builtin_memcpy(tuple.ports, packet->ports, sizeof(tuple.ports));
		return tcp ? bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple), BPF_F_CURRENT_NETNS, 0) :
			     bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple), BPF_F_CURRENT_NETNS, 0);
	} else {
		struct ipv6_tuple tuple = {};

		if (load_network(skb, IPV6_SOURCE_OFFSET, tuple.addresses, sizeof(tuple.addresses)))
			return NULL;
		__builtin_memcpy(tuple.ports, packet->ports, sizeof(tuple.ports));
		return tcp ? bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple), BPF_F_CURRENT_NETNS, 0) :
			     bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple), BPF_F_CURRENT_NETNS, 0);
	}
}

/*
 * What goes first: ACKs without data, DNS but its longest answers, small datagrams. Nothing that would overtake data of its own connection, for
 * whoever receives takes that for losses: not a FIN, a reset, the small end of a TCP stream, or QUIC.
 */
static __always_inline bool goes_first(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 header = transport_header(skb, &packet->transport);
	__u8 flags;

	if (skb->gso_size)
		return false;
	if (packet->transport.protocol == IPPROTO_TCP)
		return packet->length == packet->transport.offset + header &&
		       !load_network(skb, packet->transport.offset + TCP_FLAGS_OFFSET, &flags, sizeof(flags)) &&
		       !(flags & (TCP_FIN | TCP_RST));
	if (packet->ports[0] == __builtin_bswap16(PORT_DNS) || packet->ports[1] == __builtin_bswap16(PORT_DNS))
		return packet->length <= LONGEST_FIRST;
	return packet->length <= SMALL_PACKET_BYTES && packet->ports[0] != __builtin_bswap16(PORT_QUIC) &&
	       packet->ports[1] != __builtin_bswap16(PORT_QUIC);
}

static __always_inline __u32 class_of(struct __sk_buff *skb, const struct packet *packet,
				      const struct throttle_rule *rule, enum throttle_direction direction)
{
	bool up = direction == THROTTLE_UP;

	if (goes_first(skb, packet))
		return queue_class(rule, up ? THROTTLE_CLASS_UP_FIRST : THROTTLE_CLASS_DOWN_FIRST);
	if (packet->transport.protocol == IPPROTO_TCP)
		return queue_class(rule, up ? THROTTLE_CLASS_UP_TCP : THROTTLE_CLASS_DOWN_TCP);
	return queue_class(rule, up ? THROTTLE_CLASS_UP_OTHER : THROTTLE_CLASS_DOWN_OTHER);
}

/* The rule by which a socket's packet is to be queued; NULL: it is not. */
static __always_inline struct throttle_rule *queued_rule(struct __sk_buff *skb, const struct throttle_tag *tag,
							 enum throttle_direction direction)
{
	__u64 id = tag->rule;
	struct throttle_rule *rule = bpf_map_lookup_elem(&rules, &id);

	if (!rule || !is_to_be_queued(rule, direction) || !is_in_force(rule, bpf_ktime_get_boot_ns()))
		return NULL;
	/* What is unexpected passes, here as at the socket. */
	if (!is_limit(&rule->rate[direction]) || !bpf_map_lookup_elem(&meters, &id))
		return NULL;
	return packet_in_scope(skb, rule, direction) ? rule : NULL;
}

/* On the wire, from the IP header on; of a GSO buffer one of its segments. */
static __always_inline __u32 longest_packet(struct __sk_buff *skb, const struct packet *packet)
{
	if (!skb->gso_size)
		return packet->length;
	return packet->transport.offset + transport_header(skb, &packet->transport) + skb->gso_size;
}

/*
 * Somebody may have removed the IFB: what is redirected to it would vanish, so it is policed instead. So would a packet
 * that is longer than what devices had for an MTU when the queue was made.
 */
static __always_inline bool queue_takes(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 mtu = 0;

	if (longest_packet(skb, packet) + LONGEST_LINK_HEADER > queue_segment)
		return false;
	return bpf_check_mtu(skb, queue_device, &mtu, 0, 0) >= 0;
}

/*
 * A packet of tun or WireGuard begins with its IP header; IFB takes off as many bytes as a link's header has, and a
 * redirect drops what has none (__bpf_redirect_common() in net/core/filter.c). The bytes at either place are the same
 * only if it is one place: an Ethernet header that repeats itself as the IP header is none.
 */
static __always_inline bool give_link_header(struct __sk_buff *skb)
{
	__u64 link[2], network[2];

	if (bpf_skb_load_bytes_relative(skb, 0, link, sizeof(link), BPF_HDR_START_MAC) ||
	    load_network(skb, 0, network, sizeof(network)))
		return false;
	if (link[0] != network[0] || link[1] != network[1])
		return true;
	return !bpf_skb_change_head(skb, ETHERNET_HEADER, 0);
}

/*
 * A VLAN's packet is left to the VLAN's own device, which sets skb->priority anew (vlan_do_receive()); on the device below
 * it would be queued a second time.
 */
static __always_inline bool is_elsewheres(struct __sk_buff *skb)
{
	return is_queued(skb->priority) || skb->vlan_present || skb->ifindex == LOOPBACK_IFINDEX;
}

static __always_inline int passes(void)
{
	return queue_by_action ? NO_MATCH : TC_ACT_UNSPEC;
}

SEC("tc")
int queue_download(struct __sk_buff *skb)
{
	struct throttle_rule *rule = NULL;
	struct packet packet = {};
	struct throttle_tag *tag;
	struct bpf_sock *sk;
	__u32 class;

	if (is_elsewheres(skb) || !read_packet(skb, &packet))
		return passes();
	sk = find_socket(skb, &packet);
	if (!sk)
		return passes();
	tag = tag_of_socket(sk);
	if (tag)
		rule = queued_rule(skb, tag, THROTTLE_DOWN);
	bpf_sk_release(sk);
	if (!rule || !queue_takes(skb, &packet))
		return passes();
	class = class_of(skb, &packet, rule, THROTTLE_DOWN);
	if (!give_link_header(skb))
		return passes();
	skb->priority = class;
	skb->tc_index = queue_clock(bpf_ktime_get_boot_ns());
	if (queue_by_action)
		return MATCH;
	if (!skb->sk)
		return bpf_redirect(queue_device, 0);
	bpf_clone_redirect(skb, queue_device, 0);
	return TC_ACT_SHOT;
}

SEC("tc")
int queue_upload(struct __sk_buff *skb)
{
	struct throttle_rule *rule;
	struct packet packet = {};
	struct throttle_tag *tag;
	struct bpf_sock *sk;

	if (is_elsewheres(skb))
		return NO_MATCH;
	sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
	if (!sk)
		return NO_MATCH;
	tag = tag_of_socket(sk);
	if (!tag)
		return NO_MATCH;
	rule = queued_rule(skb, tag, THROTTLE_UP);
	if (!rule || !read_packet(skb, &packet) || !queue_takes(skb, &packet))
		return NO_MATCH;
	tag->past_queue = 0;
	skb->priority = class_of(skb, &packet, rule, THROTTLE_UP);
	return MATCH;
}

LICENSE("Dual MIT/GPL");
