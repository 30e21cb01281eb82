// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * What becomes of one packet of a rule's socket, and what is counted.
 *
 *   this direction limited? ─ no ─> count, pass
 *          │ yes
 *   held by a queue (queue.bpf.c)? ─ yes ─> charge, count, pass
 *          │ no
 *   over the limit? (police.bpf.h) ─ no ─> charge, count, pass
 *          │ yes
 *   egress:  drop, tell TCP to slow down (2); the guard below lets a connection live
 *   ingress: CE mark where ECN was negotiated, charge, pass; else, or far over, drop (0)
 *
 * What a queue holds and has waited in it long is marked or dropped too, now and then (queued.bpf.h).
 */
#ifndef CHADTHROTTLE_JUDGE_BPF_H
#define CHADTHROTTLE_JUDGE_BPF_H

#include "count.bpf.h"
#include "helpers.bpf.h"
#include "pace.bpf.h"
#include "police.bpf.h"
#include "queued.bpf.h"
#include "scope.bpf.h"
#include "tags.bpf.h"
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

#define TCP_SEQUENCE 4

/* What TCP has sent again since the last packet, by its own count. What it did before the rule is not the rule's. */
static __always_inline void count_sent_again(struct bpf_sock *sk, struct throttle_tag *tag, struct throttle_count *count)
{
	struct bpf_tcp_sock *tcp = tcp_of(sk);
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
	if (!is_tcp(sk) || sk->state == TCP_LISTEN)
		return;
	if (!find_transport(skb, &transport) || transport.protocol != IPPROTO_TCP)
		return;
	header = transport.offset + transport_header(skb, &transport);
	if (header == transport.offset || skb->len <= header)
		return;
	if (load_network(skb, transport.offset + TCP_SEQUENCE, &sequence, sizeof(sequence)))
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
	struct bpf_tcp_sock *tcp = tcp_of(sk);

	/* A refused SYN is tried again every 500 ms (TCP_RESOURCE_PROBE_INTERVAL) and given up after some ten. */
	if (is_tcp(sk) && sk->state == TCP_SYN_SENT)
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
	tcp = tcp_of(sk);
	return tcp && tcp->snd_cwnd > tag->our_window;
}

/* One packet, and what it is judged by. */
struct judgement {
	struct __sk_buff *skb;
	struct bpf_sock *sk;
	struct throttle_tag *tag;
	const struct throttle_rule *rule;
	const struct throttle_rate *rate;
	struct throttle_meter *meter;
	struct throttle_count *count;
	__u64 *ahead_until;
	__u64 *other_until;
	__u64 *tcp_ns;
	__u64 now;
	__u64 ticks;
	bool armed;
	bool tcp;
	struct wire_size wire;
};

/* Tells the sender that there is congestion, by a mark where ECN was negotiated. False: by the loss of this packet. */
static __always_inline bool is_marked(struct judgement *it)
{
	if (bpf_skb_ecn_set_ce(it->skb) != 1)
		return false;
	__sync_fetch_and_add(&it->count->marked_packets, it->wire.packets);
	return true;
}

/* It passes the bucket. What passed before the rule was armed is not held against it. */
static __always_inline void charge(struct judgement *it, enum throttle_direction direction)
{
	it->tag->refused = 0;
	if (it->armed) {
		begin_measuring(it->count, it->rule->armed_ns);
		police_charge(it->ahead_until, it->wire.bytes, it->rate->bytes_per_s);
		if (!it->tcp)
			police_charge(it->other_until, it->wire.bytes, it->rate->bytes_per_s / 2);
		if (is_to_be_queued(it->rule, direction))
			__sync_fetch_and_add(&it->count->policed_bytes, it->wire.bytes);
	}
	count_passed(it->count, &it->wire, it->now);
}

static __always_inline void charge_queued(struct judgement *it)
{
	begin_measuring(it->count, it->rule->armed_ns);
	count_queued(it->count, it->rate, it->ahead_until, &it->wire, it->now, it->ticks);
}

/*
 * What is not TCP gives no way, and the bucket is one. While TCP has something to send, the rest has half of the rate for
 * sure, and more only where TCP leaves some: while the rule is less ahead than pacing aims at.
 */
#define CONTENDED_NS NS_PER_S
#define OTHERS_AHEAD_NS (AHEAD_TARGET_NS / 2)

static __always_inline bool others_had_half(struct judgement *it)
{
	return police_ahead(it->other_until, it->ticks) >= it->rate->burst_ns / 2 * TICKS_PER_NS;
}

static __always_inline bool others_have_their_part(struct judgement *it, __u64 ahead_ns)
{
	if (it->wire.bytes <= SMALL_PACKET_BYTES || it->now - *(volatile __u64 *)it->tcp_ns > CONTENDED_NS)
		return false;
	return ahead_ns >= OTHERS_AHEAD_NS && others_had_half(it);
}

/* A queue takes all that they offer, and gives them half while TCP has something to send: that much is measured. */
static __always_inline bool others_take_their_part(struct judgement *it)
{
	if (others_had_half(it))
		return false;
	police_charge(it->other_until, it->wire.bytes, it->rate->bytes_per_s / 2);
	return true;
}

static __always_inline bool is_over(struct judgement *it, __u64 ahead_ns)
{
	if (!it->tcp && others_have_their_part(it, ahead_ns))
		return true;
	return police(it->rate, it->ahead_until, it->ticks, it->wire.bytes) != POLICE_PASS;
}

static __always_inline int judge_upload(struct judgement *it, __u64 ahead_ns)
{
	bool queued = goes_through_queue(it->tag, it->rule);
	/* What others offer and do not get is no reason for TCP to send less. */
	bool offers = it->armed && (it->tcp || (queued && others_take_their_part(it)));

	count_sent_again(it->sk, it->tag, it->count);
	if (offers)
		pace_measure(it->meter, pacing_limit(it->rate->bytes_per_s, queued), it->now,
			     queued ? AHEAD_TARGET_NS : ahead_ns, it->wire.bytes);
	if (queued) {
		charge_queued(it);
	} else if (it->armed && is_over(it, ahead_ns) && !must_live(it->sk, it->tag)) {
		count_dropped(it->count, &it->wire);
		return DROP_EGRESS;
	} else {
		charge(it, THROTTLE_UP);
		if (it->armed && !it->tcp)
			pace_measure(it->meter, it->rate->bytes_per_s, it->now, ahead_ns, it->wire.bytes);
	}
	return window_too_large(it->sk, it->tag) ? PASS_SLOWER : PASS;
}

static __always_inline bool is_to_be_told(struct judgement *it, bool queued, __u64 ahead_ns)
{
	if (queued)
		return has_waited_long(it->skb, it->tag, it->rate, it->count, &it->wire, it->now);
	if (!it->armed)
		return is_to_settle(it->sk, it->tag, it->rate, it->count, it->now);
	return is_over(it, ahead_ns);
}

static __always_inline int judge_download(struct judgement *it, __u64 ahead_ns)
{
	bool queued = came_through_queue(it->skb, it->rule);

	count_received_again(it->skb, it->sk, &it->wire, it->tag, it->count);
	if (is_to_be_told(it, queued, ahead_ns)) {
		/* Marks do not hold back who does not heed them. */
		bool far_over = !queued && it->armed &&
				police(it->rate, it->ahead_until, it->ticks, it->wire.bytes) == POLICE_FAR_OVER;

		if (far_over || !is_marked(it)) {
			count_dropped(it->count, &it->wire);
			return DROP_INGRESS;
		}
	}
	if (queued)
		charge_queued(it);
	else
		charge(it, THROTTLE_DOWN);
	return PASS;
}

/* Returns what the program at the hook is to return. The rule is in force. */
static __always_inline int judge(struct __sk_buff *skb, struct bpf_sock *sk, struct throttle_tag *tag,
				 const struct throttle_rule *rule, struct throttle_meter *meter, __u64 now,
				 enum throttle_direction direction)
{
	struct judgement it = {
		.skb = skb,
		.sk = sk,
		.tag = tag,
		.rule = rule,
		.rate = &rule->rate[direction],
		.meter = meter,
		.count = &meter->count[direction],
		.ahead_until = &meter->ahead_until[direction],
		.other_until = &meter->other_until[direction],
		.tcp_ns = &meter->tcp_ns[direction],
		.now = now,
		.ticks = (now - meter->base_ns) * TICKS_PER_NS,
		.armed = now >= rule->armed_ns,
		.tcp = is_tcp(sk),
	};
	__u64 ahead_ns;

	if (!packet_in_scope(skb, rule, direction))
		return PASS;
	wire_size(skb, &it.wire);
	if (!is_limit(it.rate)) {
		count_passed(it.count, &it.wire, now);
		return PASS;
	}
	if (it.tcp && it.wire.bytes > SMALL_PACKET_BYTES)
		*it.tcp_ns = now;
	ahead_ns = police_ahead(it.ahead_until, it.ticks) / TICKS_PER_NS;
	return direction == THROTTLE_UP ? judge_upload(&it, ahead_ns) : judge_download(&it, ahead_ns);
}

#endif
