// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * What becomes of one packet of a rule's socket, and what is counted.
 *
 *   this direction limited? ─ no ─> count, pass
 *          │ yes
 *   over the limit? (police.bpf.h) ─ no ─> charge, count, pass
 *          │ yes
 *   egress:  drop, tell TCP to slow down (2); the guard below lets a connection live
 *   ingress: CE mark where ECN was negotiated, charge, pass; else, or far over, drop (0)
 */
#ifndef CHADTHROTTLE_JUDGE_BPF_H
#define CHADTHROTTLE_JUDGE_BPF_H

#include "helpers.bpf.h"
#include "pace.bpf.h"
#include "police.bpf.h"
#include "scope.bpf.h"
#include "throttle.h"
#include "types.bpf.h"
#include "uapi.bpf.h"
#include "wire.bpf.h"

/* What cgroup_skb returns (include/linux/bpf-cgroup.h). 0 on egress would fail the sender's call with EPERM. */
#define PASS 1
#define DROP_INGRESS 0
#define PASS_SLOWER 3 /* egress: passed, and TCP enters CWR, which ends with the window we set */
#define DROP_EGRESS 2 /* becomes NET_XMIT_DROP: TCP takes it as congestion, UDP as any full queue */

/*
 * A segment refused while nothing is in flight is retried by the zero-window probe timer only, and after tcp_retries2
 * (15 by default) refusals in a row the connection dies of ETIMEDOUT. So it is refused at most this often.
 */
#define MOST_REFUSALS 7

/* What is achieved is measured over at least this long. */
#define WINDOW_NS 1000000000ULL

#define TCP_SEQUENCE 4

static __always_inline bool is_in_force(const struct throttle_rule *rule, __u64 now)
{
	return !rule->expires_ns || now < rule->expires_ns;
}

static __always_inline void count_passed(struct throttle_count *count, const struct wire_size *wire, __u64 now)
{
	__u64 began = *(volatile __u64 *)&count->window_ns;
	__u64 elapsed = now > began ? now - began : 0; /* another CPU's clock may have been a moment ahead */

	__sync_fetch_and_add(&count->passed_packets, wire->packets);
	__sync_fetch_and_add(&count->passed_bytes, wire->bytes);
	__sync_fetch_and_add(&count->window_bytes, wire->bytes);
	if (elapsed >= WINDOW_NS && __sync_val_compare_and_swap(&count->window_ns, began, now) == began)
		count->bytes_per_s =
			__sync_lock_test_and_set(&count->window_bytes, 0) * 1000 / (elapsed / 1000000);
}

static __always_inline void count_dropped(struct throttle_count *count, const struct wire_size *wire)
{
	__sync_fetch_and_add(&count->dropped_packets, wire->packets);
	__sync_fetch_and_add(&count->dropped_bytes, wire->bytes);
}

/* What TCP has sent again since the last packet, by its own count. What it did before the rule is not the rule's. */
static __always_inline void count_sent_again(struct bpf_sock *sk, struct throttle_tag *tag, struct throttle_count *count)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
	__u32 sent_again;

	if (!tcp)
		return;
	sent_again = tcp->total_retrans;
	if (tag->known & THROTTLE_KNOWS_SENT && sent_again != tag->sent_again)
		__sync_fetch_and_add(&count->retransmitted_packets, sent_again - tag->sent_again);
	tag->sent_again = sent_again;
	tag->known |= THROTTLE_KNOWS_SENT;
}

/*
 * A segment that begins before the furthest byte seen has been sent again, or was overtaken on its way. Of several that
 * GRO put together at least one has.
 */
static __always_inline void count_received_again(struct __sk_buff *skb, struct bpf_sock *sk,
						 const struct wire_size *wire, struct throttle_tag *tag,
						 struct throttle_count *count)
{
	struct transport transport;
	__u32 header, sequence, end;

	/* Data with the last ACK of a handshake is shown for the listener, whose tag all its connections begin with. */
	if (sk->state == TCP_LISTEN)
		return;
	if (!find_transport(skb, &transport) || transport.protocol != IPPROTO_TCP)
		return;
	header = transport.offset + transport_header(skb, &transport);
	if (header == transport.offset || skb->len <= header)
		return;
	if (bpf_skb_load_bytes(skb, transport.offset + TCP_SEQUENCE, &sequence, sizeof(sequence)))
		return;
	sequence = __builtin_bswap32(sequence); /* little-endian only, as the objects are */
	end = sequence + (skb->len - header);
	if (tag->known & THROTTLE_KNOWS_RECEIVED) {
		if ((__s32)(sequence - tag->received_until) < 0)
			__sync_fetch_and_add(&count->retransmitted_packets,
					     (__s32)(end - tag->received_until) <= 0 ? wire->packets : 1);
		if ((__s32)(end - tag->received_until) <= 0)
			return;
	}
	tag->received_until = end;
	tag->known |= THROTTLE_KNOWS_RECEIVED;
}

/* Whether refusing this segment could end the connection. */
static __always_inline bool must_live(struct bpf_sock *sk, struct throttle_tag *tag)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);

	/* A refused SYN is tried again every 500 ms (TCP_RESOURCE_PROBE_INTERVAL) and given up after some ten. */
	if (sk->protocol == IPPROTO_TCP && sk->state == TCP_SYN_SENT)
		return true;
	if (!tcp || tcp->packets_out) {
		tag->refused = 0;
		return false;
	}
	return ++tag->refused > MOST_REFUSALS;
}

/* A window that was larger when it was clamped is not full while the socket is paced, and would stay as it is. */
static __always_inline bool window_too_large(struct bpf_sock *sk, const struct throttle_tag *tag)
{
	struct bpf_tcp_sock *tcp;

	if (!tag->our_window || tag->our_window == WINDOW_UNLIMITED)
		return false;
	tcp = bpf_tcp_sock(sk);
	return tcp && tcp->snd_cwnd > tag->our_window;
}

/* Returns what the program at the hook is to return. The rule is in force. */
static __always_inline int judge(struct __sk_buff *skb, struct bpf_sock *sk, struct throttle_tag *tag,
				 const struct throttle_rule *rule, struct throttle_meter *meter, __u64 now,
				 enum throttle_direction direction)
{
	const struct throttle_rate *rate = &rule->rate[direction];
	struct throttle_count *count = &meter->count[direction];
	__u64 *ahead_until = &meter->ahead_until[direction];
	__u64 ticks = (now - meter->base_ns) * TICKS_PER_NS;
	bool armed = now >= rule->armed_ns;
	enum police_verdict verdict;
	struct wire_size wire;

	if (!packet_in_scope(skb, rule, direction))
		return PASS;
	wire_size(skb, &wire);
	if (!is_limit(rate)) {
		count_passed(count, &wire, now);
		return PASS;
	}
	if (direction == THROTTLE_UP) {
		count_sent_again(sk, tag, count);
		if (armed)
			pace_measure(meter, rate->bytes_per_s, now, police_ahead(ahead_until, ticks) / TICKS_PER_NS,
				     wire.bytes);
	} else {
		count_received_again(skb, sk, &wire, tag, count);
	}
	verdict = police(rate, ahead_until, ticks, wire.bytes);
	if (verdict != POLICE_PASS && armed) {
		if (direction == THROTTLE_UP) {
			if (!must_live(sk, tag)) {
				__sync_fetch_and_add(&meter->epoch_drops, 1);
				count_dropped(count, &wire);
				return DROP_EGRESS;
			}
		} else if (verdict == POLICE_FAR_OVER || bpf_skb_ecn_set_ce(skb) != 1) {
			count_dropped(count, &wire);
			return DROP_INGRESS;
		} else {
			__sync_fetch_and_add(&count->marked_packets, wire.packets);
		}
	}
	tag->refused = 0;
	/* What passed before the rule was armed is not held against it. */
	if (armed)
		police_charge(ahead_until, wire.bytes, rate->bytes_per_s);
	count_passed(count, &wire, now);
	return direction == THROTTLE_UP && window_too_large(sk, tag) ? PASS_SLOWER : PASS;
}

#endif
