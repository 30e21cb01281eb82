// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * A token bucket with debt, as one number: the time until which the rule's rate is used up ("ahead_until").
 *
 *          now                       ahead_until
 *   ────────┼─────────────────────────────┼──────────> time        a packet adds size / rate to ahead_until;
 *           │<──────── at most burst ────>│                        it passes if ahead_until - now < burst before that
 *
 * An idle rule falls behind now: it is pulled up to now first, so that nothing is saved up beyond the burst. A packet is
 * judged by what came before it and then charged in full, so one GSO buffer larger than the whole bucket still passes
 * and is paid back: that is the debt. Only two atomic operations touch the number, a pull-up that at most one CPU wins
 * and an addition that none can lose: on many CPUs at once no charge is lost or made twice. What several CPUs judge in
 * the same moment may all pass; all of it is charged.
 *
 * Time is kept in 1/256 ns since the rule was made: a 64-byte packet at 100 Gbit/s takes 5.12 ns, and a rounding error
 * in each packet's price is an error of the rate (here at most 1 in 1310). 64 bits go round after 834 days; only
 * differences count, so that is no matter, nor is a clock that is behind the rule's beginning.
 */
#ifndef CHADTHROTTLE_POLICE_BPF_H
#define CHADTHROTTLE_POLICE_BPF_H

#include "helpers.bpf.h"
#include "throttle.h"
#include "types.bpf.h"

#define TICKS_PER_NS 256
#define NS_PER_S 1000000000ULL

/* ACKs, DNS and the like: charged as all, but let through when bulk is not. */
#define SMALL_PACKET_BYTES 128
#define SMALL_PACKET_RESERVE_NS 25000000ULL

/* What commands write is within these; anything else is an error of ours, and limits nobody. */
#define POLICE_MOST_BYTES_PER_S 12500000000ULL
#define POLICE_MOST_BURST_NS (10 * NS_PER_S)

static __always_inline bool is_limit(const struct throttle_rate *rate)
{
	return rate->bytes_per_s && rate->bytes_per_s <= POLICE_MOST_BYTES_PER_S && rate->burst_ns &&
	       rate->burst_ns <= POLICE_MOST_BURST_NS;
}

enum police_verdict { POLICE_PASS, POLICE_OVER, POLICE_FAR_OVER };

/*
 * What a packet costs, in ticks. bytes * 10^9 * 256 / rate overflows 64 bits, so it is put together from the whole
 * seconds, the whole nanoseconds and the rest; with rate <= 12.5e9 (100 Gbit/s) each product stays below 2^64.
 */
static __always_inline __u64 police_price(__u64 bytes, __u64 bytes_per_s)
{
	__u64 nanoseconds = bytes % bytes_per_s * NS_PER_S;

	return (bytes / bytes_per_s * NS_PER_S + nanoseconds / bytes_per_s) * TICKS_PER_NS +
	       nanoseconds % bytes_per_s * TICKS_PER_NS / bytes_per_s;
}

/* Nobody owes a day: what looks so is in the past. */
#define AHEAD_MOST_TICKS (86400 * NS_PER_S * TICKS_PER_NS)

/* How far the rule is ahead of its rate, in ticks. */
static __always_inline __u64 police_ahead(__u64 *ahead_until, __u64 now)
{
	__u64 until = *(volatile __u64 *)ahead_until;

	if (until - now > AHEAD_MOST_TICKS) {
		/* Whoever loses this race finds the winner's number or a later one, from about now. */
		__sync_val_compare_and_swap(ahead_until, until, now);
		until = *(volatile __u64 *)ahead_until;
	}
	return until - now > AHEAD_MOST_TICKS ? 0 : until - now;
}

static __always_inline void police_charge(__u64 *ahead_until, __u64 bytes, __u64 bytes_per_s)
{
	__sync_fetch_and_add(ahead_until, police_price(bytes, bytes_per_s));
}

/* Judges and does not charge: what is dropped costs nothing. */
static __always_inline enum police_verdict police(const struct throttle_rate *rate, __u64 *ahead_until, __u64 now,
						  __u64 bytes)
{
	__u64 allowed = rate->burst_ns;
	__u64 ahead = police_ahead(ahead_until, now);

	if (bytes <= SMALL_PACKET_BYTES)
		allowed += SMALL_PACKET_RESERVE_NS;
	allowed *= TICKS_PER_NS;
	if (ahead < allowed)
		return POLICE_PASS;
	return ahead < 2 * allowed ? POLICE_OVER : POLICE_FAR_OVER;
}

#endif
