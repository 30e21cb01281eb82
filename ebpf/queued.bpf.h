// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * What becomes of packets that a queue holds (queue.bpf.c), when they reach their socket or leave it.
 *
 * The queue bounds what waits, and drops what it has no room for: of a GSO buffer dozens of segments at once. So a sender
 * is told before, by one segment that is marked (ECN) or lost, when packets wait longer than QUEUE_TARGET: here, behind
 * the queue, where segments are single again and each connection has its tag. It then takes back a third of its window
 * (RFC 9438, 4.6), which takes some round trips, the queue's wait among them.
 */
#ifndef CHADTHROTTLE_QUEUED_BPF_H
#define CHADTHROTTLE_QUEUED_BPF_H

#include "count.bpf.h"
#include "helpers.bpf.h"
#include "police.bpf.h"
#include "tags.bpf.h"
#include "throttle.h"
#include "types.bpf.h"
#include "uapi.bpf.h"
#include "wire.bpf.h"

/* A queue counts link-level bytes: Ethernet's header on each packet, which queue.bpf.c gives those that have none. */
#define LINK_HEADER 14

/* Below, a buffer of 64 KiB that finds so much waiting might find no room: 64 KiB are 26 ms at 20 Mbit/s. */
#define QUEUE_TARGET_NS 65000000ULL
#define QUEUE_TARGET_SLOW_NS 50000000ULL
#define QUEUE_SLOW_BYTES_PER_S 2500000

#define TELL_AGAIN_MS 400
/*
 * What is lost here has used the limit already: at most one in so many, counted in segments, for a buffer that the queue
 * has left whole is dozens of them. Where that is too few, with many connections or a low limit, windows are so small
 * that the queue's own drops cost no more.
 */
#define TELL_AGAIN_PACKETS 512

/*
 * Who sends less at a time (a request, the end of an answer) is not who fills the queue, and would wait for a timeout: what
 * it lost is not followed by more.
 */
#define TELL_LEAST_BYTES 1000

/* While a rule is being set up there is no queue yet, and a round trip is short. */
#define SETTLE_AGAIN_MS 10
#define SETTLED_BYTES 65536

/*
 * Charged, so that what comes past the queue (another device, fragments) has only what the queue leaves of the limit.
 * But no further than twice the burst: a queue that drains a little faster than the limit, or still has what waited when
 * the limit was lowered, would be a debt that nothing past the queue ever sees the end of. Nor by the burst alone, where
 * what comes past the queue is refused: it would get what the queue is not charged for.
 */
static __always_inline void count_queued(struct throttle_count *count, const struct throttle_rate *rate,
					 __u64 *ahead_until, struct wire_size *wire, __u64 now, __u64 ticks)
{
	wire->bytes += wire->packets * LINK_HEADER;
	if (police_ahead(ahead_until, ticks) < 2 * rate->burst_ns * TICKS_PER_NS)
		police_charge(ahead_until, wire->bytes, rate->bytes_per_s);
	__sync_fetch_and_add(&count->queued_packets, wire->packets);
	__sync_fetch_and_add(&count->queued_bytes, wire->bytes);
	count_passed(count, wire, now);
}

/* By skb->priority, which IFB leaves as it is: one of the rule's classes for downloads. */
static __always_inline bool came_through_queue(struct __sk_buff *skb, const struct throttle_rule *rule)
{
	__u32 which = skb->priority - queue_class(rule, THROTTLE_CLASS_DOWN_TCP);

	return is_to_be_queued(rule, THROTTLE_DOWN) && which <= THROTTLE_CLASS_DOWN_WHOLE - THROTTLE_CLASS_DOWN_TCP;
}

/* Whether a sender is to be told again, after so long; if so it is taken to be told. */
static __always_inline bool is_time_to_tell(struct throttle_tag *tag, __u64 now, __u32 again_ms)
{
	__u32 now_ms = now / 1000000;

	if (now_ms - tag->told_ms < again_ms)
		return false;
	tag->told_ms = now_ms;
	return true;
}

static __always_inline bool has_waited_long(struct __sk_buff *skb, struct throttle_tag *tag,
					    const struct throttle_rate *rate, struct throttle_count *count,
					    const struct wire_size *wire, __u64 now)
{
	__u64 target = rate->bytes_per_s < QUEUE_SLOW_BYTES_PER_S ? QUEUE_TARGET_SLOW_NS : QUEUE_TARGET_NS;
	__u16 waited = queue_clock(now) - (__u16)skb->tc_index;

	if (!skb->tc_index || waited < target >> QUEUE_CLOCK_SHIFT || wire->bytes < TELL_LEAST_BYTES ||
	    count->passed_packets - count->told_packets < TELL_AGAIN_PACKETS * wire->packets ||
	    !is_time_to_tell(tag, now, TELL_AGAIN_MS))
		return false;
	count->told_packets = count->passed_packets;
	return true;
}

/*
 * A connection that is faster than the limit when the rule is set has megabytes under way on a long path, and all of
 * them would be lost at once. So its sender is told some times, a round trip apart, before the rule is armed.
 */
static __always_inline bool is_to_settle(struct bpf_sock *sk, struct throttle_tag *tag, const struct throttle_rate *rate,
					 const struct throttle_count *count, __u64 now)
{
	__u64 began = count->window_ns;
	__u64 elapsed_us = now > began ? (now - began) / 1000 : 0;

	return is_tcp(sk) && count->window_bytes > SETTLED_BYTES + rate->bytes_per_s * elapsed_us / 1000000 &&
	       is_time_to_tell(tag, now, SETTLE_AGAIN_MS);
}

/*
 * Egress is judged before the packet reaches its device, so that is known of the socket's packets before it: the filter
 * there says when it has seen one. A socket whose packets have gone elsewhere for this long is policed.
 */
#define PAST_QUEUE_MOST 64

static __always_inline bool goes_through_queue(struct throttle_tag *tag, const struct throttle_rule *rule)
{
	if (!is_to_be_queued(rule, THROTTLE_UP) || tag->past_queue >= PAST_QUEUE_MOST)
		return false;
	tag->past_queue++;
	return true;
}

/* While a queue drains at the limit, TCP is paced to a little less, or what the queue holds would stay in it for good. */
static __always_inline __u64 pacing_limit(__u64 bytes_per_s, bool queued)
{
	return queued ? bytes_per_s - bytes_per_s / 40 : bytes_per_s;
}

#endif
