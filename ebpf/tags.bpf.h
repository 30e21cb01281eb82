// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * What a packet's programs know: the rule that a socket is tagged with, the rule's terms, its meter.
 *
 *   socket ── tags ──> rule id ── rules ──> what is asked
 *                              └─ meters ─> what happened
 *
 * Two objects share these maps: throttle.bpf.c makes them, queue.bpf.c is loaded with the same ones.
 */
#ifndef CHADTHROTTLE_TAGS_BPF_H
#define CHADTHROTTLE_TAGS_BPF_H

#include "core.bpf.h"
#include "helpers.bpf.h"
#include "throttle.h"
#include "types.bpf.h"

/* In every network namespace. */
#define LOOPBACK_IFINDEX 1

struct ns_common {
	unsigned int inum;
} __core;

struct net {
	struct ns_common ns;
} __core;

typedef struct {
	struct net *net;
} __core possible_net_t;

struct in6_addr {
	__u32 word[4];
};

struct sock_common {
	unsigned short skc_family;
	__u32 skc_daddr;
	struct in6_addr skc_v6_daddr;
	possible_net_t skc_net;
} __core;

struct net_device {
	int ifindex;
} __core;

struct dst_entry {
	struct net_device *dev;
} __core;

struct socket;

struct sock {
	struct sock_common __sk_common;
	struct dst_entry *sk_dst_cache;
	struct socket *sk_socket;
} __core;

struct socket {
	struct sock *sk;
} __core;

/* What pacing asks of a connection. */
struct tcp_sock {
	__u32 mss_cache;
	__u32 srtt_us;
	__u32 snd_ssthresh;
	__u32 snd_cwnd;
	__u32 lsndtime;
} __core;

/* The socket an application has; its subflows are TCP sockets of their own. */
struct mptcp_sock {
	struct sock *first;
} __core;

enum bpf_func_id {
	BPF_FUNC_skc_to_mptcp_sock = 196,
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct throttle_tag);
} tags SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THROTTLE_MAX_RULES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct throttle_rule);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THROTTLE_MAX_RULES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct throttle_meter);
} meters SEC(".maps");

static __always_inline bool is_in_force(const struct throttle_rule *rule, __u64 now)
{
	return !rule->expires_ns || now < rule->expires_ns;
}

/* By skb->priority: the packet is or was in the class of a queue. */
static __always_inline bool is_queued(__u32 priority)
{
	return priority >> 16 == THROTTLE_QUEUE_MAJOR;
}

static __always_inline __u32 queue_class(const struct throttle_rule *rule, enum throttle_class class)
{
	return THROTTLE_QUEUE_MAJOR << 16 | (rule->queue * THROTTLE_QUEUE_CLASSES + class);
}

/*
 * When a packet entered the queue, in skb->tc_index: 16 bits of 131 µs, which go round after 8.6 s. Never 0, which is what
 * others write there on its way.
 */
#define QUEUE_CLOCK_SHIFT 17

static __always_inline __u16 queue_clock(__u64 now_ns)
{
	return now_ns >> QUEUE_CLOCK_SHIFT | 1;
}

static __always_inline bool is_to_be_queued(const struct throttle_rule *rule, enum throttle_direction direction)
{
	return rule->queue && rule->queued & 1 << direction;
}

static __always_inline bool is_inet(struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;

	return family == AF_INET || family == AF_INET6;
}

/*
 * Whether a connection goes over loopback, by its cached route; an own address of the machine does, too. The bucket need
 * not ask, it sees the device; pacing does.
 */
static __always_inline bool is_on_loopback(struct tcp_sock *tcp)
{
	struct dst_entry *route = tcp ? ((struct sock *)tcp)->sk_dst_cache : NULL;

	return route && route->dev->ifindex == LOOPBACK_IFINDEX;
}

/*
 * A raw socket may have that protocol and is no TCP socket: the one that the kernel's own resets come from does
 * (ip_send_unicast_reply()). Before Linux 7.1 helpers took it for one, and read what lies behind it in memory
 * (481c2265286e, 7995b216a731), of which a kernel may die: they are not to be asked.
 */
static __always_inline bool is_tcp(const struct bpf_sock *sk)
{
	return sk->protocol == IPPROTO_TCP && sk->type == SOCK_STREAM;
}

static __always_inline struct bpf_tcp_sock *tcp_of(struct bpf_sock *sk)
{
	return is_tcp(sk) ? bpf_tcp_sock(sk) : NULL;
}

/* Claims the socket for the rule; a shared socket belongs to the rule that claimed it last. */
static __always_inline struct throttle_tag *tag_socket(void *sk, __u64 rule)
{
	struct throttle_tag fresh = {.rule = rule};
	struct throttle_tag *tag = bpf_sk_storage_get(&tags, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);

	if (tag && tag->rule != rule) {
		tag->refused = 0;
		tag->known = 0;
		tag->rule = rule;
	}
	return tag;
}

/*
 * The tag of the MPTCP socket that a TCP socket is a subflow of (Linux 5.19; NULL before). The helper takes the socket of
 * an skb or of sock_ops, not the kernel's own pointer that iterators and tracepoints have (its ARG_PTR_TO_SOCK_COMMON).
 */
static __always_inline struct throttle_tag *tag_of_mptcp(struct bpf_sock *sk)
{
	struct mptcp_sock *owner;

	if (!bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_skc_to_mptcp_sock) ||
	    !bpf_core_type_exists(struct mptcp_sock) || !is_tcp(sk))
		return NULL;
	owner = bpf_skc_to_mptcp_sock(sk);
	return owner ? bpf_sk_storage_get(&tags, owner, NULL, 0) : NULL;
}

/* The tag of a socket with traffic. A subflow, which no process has open, follows its MPTCP socket. */
static __always_inline struct throttle_tag *tag_of_socket(struct bpf_sock *sk)
{
	struct throttle_tag *owner = tag_of_mptcp(sk);

	return owner ? tag_socket(sk, owner->rule) : bpf_sk_storage_get(&tags, sk, NULL, 0);
}

/*
 * The tag of a connection that a walk comes by, for which no packet may have asked yet. A subflow has the struct socket of
 * its MPTCP socket (Linux 5.12), any other TCP socket one of its own or none. The owner lives as long as the walk holds the
 * subflow's lock, under which __mptcp_close() takes sk_socket away.
 */
static __always_inline struct throttle_tag *tag_of_open_socket(struct tcp_sock *tcp)
{
	struct socket *socket = ((struct sock *)tcp)->sk_socket;
	struct sock *owner = socket ? socket->sk : NULL;
	struct throttle_tag *tag = owner ? bpf_sk_storage_get(&tags, owner, NULL, 0) : NULL;

	return tag ? tag_socket(tcp, tag->rule) : bpf_sk_storage_get(&tags, tcp, NULL, 0);
}

#endif
