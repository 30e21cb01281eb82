// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * How many bytes a socket buffer is on the wire.
 *
 *   one buffer (skb->len)      | IP | TCP | payload ............................ |
 *   leaves the machine as      | IP | TCP | gso_size |
 *                              | IP | TCP | gso_size |       gso_segs segments,
 *                              | IP | TCP | the rest |       each with headers of its own
 *
 *   wire bytes = len - never sent + (segments - 1) * headers of one segment
 *
 * Received buffers that GRO put together look the same. "Never sent" is the jumbo header of BIG TCP on IPv6, by which
 * the kernel marks a buffer over 64 KiB for itself and which it takes off when segmenting.
 *
 * Counted from the IP header on, without the link's own. IP fragments are not seen: the kernel shows a datagram before
 * it is cut and after it has been put together, so it counts as one packet.
 *
 * Offsets are from the IP header on: cgroup_skb programs see a packet from there, tc programs from the link's header.
 */
#ifndef CHADTHROTTLE_WIRE_BPF_H
#define CHADTHROTTLE_WIRE_BPF_H

#include "helpers.bpf.h"
#include "types.bpf.h"
#include "uapi.bpf.h"

/* uapi linux/in.h and linux/in6.h; IPV6_TLV_JUMBO is the kernel's net/ipv6.h (RFC 2675). */
#define IPPROTO_HOPOPTS 0
#define IPPROTO_UDP 17
#define IPPROTO_ROUTING 43
#define IPPROTO_DSTOPTS 60
#define IPV6_TLV_JUMBO 194

/* linux/bpf.h */
#define BPF_HDR_START_MAC 0
#define BPF_HDR_START_NET 1

#define load_network(skb, offset, to, len) bpf_skb_load_bytes_relative(skb, offset, to, len, BPF_HDR_START_NET)

#define IPV4_MIN_HEADER 20
#define IPV4_LENGTH_OFFSET 2
#define IPV4_PROTOCOL_OFFSET 9
#define IPV6_HEADER 40
#define IPV6_LENGTH_OFFSET 4
#define IPV6_NEXT_HEADER_OFFSET 6
#define TCP_MIN_HEADER 20
#define TCP_DATA_OFFSET 12
#define UDP_HEADER 8

/* More extension headers than this in front of TCP or UDP are nobody's traffic; the verifier needs a bound. */
#define IPV6_MAX_EXTENSIONS 4

struct wire_size {
	__u32 packets;
	__u32 bytes;
};

/* Where the transport header starts, and what the kernel takes off before sending. */
struct transport {
	__u32 offset;
	__u32 never_sent;
	__u8 protocol;
};

/* What all IPv6 extension headers of interest begin with, as far as the first option. */
struct ipv6_extension {
	__u8 next_header;
	__u8 length; /* in units of 8 bytes, the first 8 not counted */
	__u8 option;
};

static __always_inline bool ipv4_transport(struct __sk_buff *skb, __u8 version_and_length, struct transport *transport)
{
	transport->offset = (version_and_length & 0x0f) * 4;
	transport->never_sent = 0;
	return transport->offset >= IPV4_MIN_HEADER &&
	       !load_network(skb, IPV4_PROTOCOL_OFFSET, &transport->protocol, sizeof(transport->protocol));
}

static __always_inline bool ipv6_transport(struct __sk_buff *skb, struct transport *transport)
{
	struct ipv6_extension extension;

	transport->offset = IPV6_HEADER;
	transport->never_sent = 0;
	if (load_network(skb, IPV6_NEXT_HEADER_OFFSET, &transport->protocol, sizeof(transport->protocol)))
		return false;

	for (int i = 0; i < IPV6_MAX_EXTENSIONS; i++) {
		__u32 length;

		if (transport->protocol != IPPROTO_HOPOPTS && transport->protocol != IPPROTO_ROUTING &&
		    transport->protocol != IPPROTO_DSTOPTS)
			return true;
		if (load_network(skb, transport->offset, &extension, sizeof(extension)))
			return false;
		length = (extension.length + 1) * 8;
		if (transport->protocol == IPPROTO_HOPOPTS && extension.option == IPV6_TLV_JUMBO)
			transport->never_sent += length;
		transport->offset += length;
		transport->protocol = extension.next_header;
	}
	return true;
}

/* Length of the TCP or UDP header; 0 for anything else, which is not known to be cut into segments. */
static __always_inline __u32 transport_header(struct __sk_buff *skb, const struct transport *transport)
{
	__u8 data_offset;

	if (transport->protocol == IPPROTO_UDP)
		return UDP_HEADER;
	if (transport->protocol != IPPROTO_TCP)
		return 0;
	if (load_network(skb, transport->offset + TCP_DATA_OFFSET, &data_offset, sizeof(data_offset)))
		return 0;
	data_offset = (data_offset >> 4) * 4;
	return data_offset < TCP_MIN_HEADER ? 0 : data_offset;
}

/* False when the packet is neither IPv4 nor IPv6, or too short. */
static __always_inline bool find_transport(struct __sk_buff *skb, struct transport *transport)
{
	__u8 version_and_length;

	if (load_network(skb, 0, &version_and_length, sizeof(version_and_length)))
		return false;
	switch (version_and_length >> 4) {
	case 4:
		return ipv4_transport(skb, version_and_length, transport);
	case 6:
		return ipv6_transport(skb, transport);
	default:
		return false;
	}
}

/*
 * Fills in what the buffer is on the wire. False when a GSO buffer is neither TCP nor UDP or is malformed: then it
 * is taken for one packet of skb->len bytes. skb has to start at its IP header, as it does in cgroup_skb programs.
 */
static __always_inline bool wire_size(struct __sk_buff *skb, struct wire_size *wire)
{
	__u32 segments = skb->gso_segs;
	struct transport transport;
	__u32 header;

	wire->packets = 1;
	wire->bytes = skb->len;
	if (!skb->gso_size)
		return true;

	if (!find_transport(skb, &transport))
		return false;
	header = transport_header(skb, &transport);
	if (!header)
		return false;
	header += transport.offset;
	if (header > skb->len)
		return false;

	/* Buffers from other machines (tun, virtio) may come without the number; the kernel works it out likewise. */
	if (!segments)
		segments = (skb->len - header + skb->gso_size - 1) / skb->gso_size;
	if (segments > 1) {
		wire->packets = segments;
		wire->bytes = skb->len - transport.never_sent +
			      (segments - 1) * (header - transport.never_sent);
	}
	return true;
}

#endif
