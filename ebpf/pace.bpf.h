// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Uploads of TCP are paced by the sockets themselves (SO_MAX_PACING_RATE): nothing is dropped, and the bucket behind it
 * (police.bpf.h) has only the rest to do. Pacing is per socket and the limit is per rule, so the rule has a *share*, the
 * rate of each sending socket, steered so that what they send together meets the limit:
 *
 *   egress          epoch over?  share *= limit / offered, damped, and a little more or less to keep the bucket just
 *                   ahead of its rate (next_share)
 *   RTT callback    a socket that sends gets ACKs: takes the share over
 *
 * One busy socket among many silent ones thus has the whole limit; counting sockets and dividing would give it a part.
 */
#ifndef CHADTHROTTLE_PACE_BPF_H
#define CHADTHROTTLE_PACE_BPF_H

#include "helpers.bpf.h"
#include "police.bpf.h"
#include "throttle.h"
#include "types.bpf.h"
#include "uapi.bpf.h"

/*
 * An epoch holds some buffers of each sending socket, or the measurement is noise and the answer comes before what it
 * answers to: a wait that is scheduled is not shortened by a new rate.
 */
#define EPOCH_NS 50000000ULL
#define EPOCH_MOST_NS 1000000000ULL
#define EPOCH_BYTES 6000ULL

/*
 * The bucket is kept a little ahead of the rate: while it is never empty, what passes is exactly the limit, whatever
 * the shares' errors. A deviation is made up for over several epochs.
 */
#define AHEAD_TARGET_NS 20000000LL
#define AHEAD_MOST_NS 400000000LL
#define CATCH_UP_EPOCHS 8

/*
 * Bounds of one correction, in 1/1024, of which half is made: sockets follow up to an epoch late, and a whole one then
 * swings between a half and twice the limit for good.
 */
#define SHARE_ONE 1024
#define SHARE_LEAST 256
#define SHARE_MOST 3072
/*
 * And no more than 5/4 of it, or a socket that was silent would begin with a burst. At high rates a busy one may need
 * more: TCP's timer, asked for every 50 us, comes late where processors are busy, and only half a buffer's time is made
 * up for. Then the share grows until it does not bind any more, and the bucket holds the limit.
 */
#define BUSY_TIMER_BYTES_PER_S 125000000
#define BUSY_SHARE_MOST 4
/* No socket gets less than this part of the limit, or it would not notice that there is room again. */
#define SHARE_FLOOR_SHIFT 10

/* SO_MAX_PACING_RATE takes 32 bits from BPF; all ones is the kernel's "no limit" (~34 Gbit/s is the most we pace). */
#define PACING_UNLIMITED 0xffffffffU

/* IP and TCP headers with timestamps: pacing counts payload, limits count what is on the wire. */
#define HEADERS_IPV4 52
#define HEADERS_IPV6 72

static __always_inline __u64 epoch_length(__u64 share)
{
	__u64 filling = EPOCH_BYTES * NS_PER_S / (share ? share : 1);

	if (filling > EPOCH_MOST_NS)
		return EPOCH_MOST_NS;
	return filling > EPOCH_NS ? filling : EPOCH_NS;
}

/* The next share, after an epoch in which so many bytes/s were offered and at whose end the rule is so far ahead. */
static __always_inline __u64 next_share(__u64 share, __u64 limit, __u64 offered, __u64 ahead_ns, __u64 epoch_ns)
{
	__s64 ahead = ahead_ns < AHEAD_MOST_NS ? ahead_ns : AHEAD_MOST_NS;
	__u64 catch_up = epoch_ns * CATCH_UP_EPOCHS;
	__u64 most = limit + limit / 4;
	__u64 wanted, correction;

	if (limit >= BUSY_TIMER_BYTES_PER_S && offered > limit / 2)
		most = limit * BUSY_SHARE_MOST;
	if (ahead < AHEAD_TARGET_NS)
		wanted = limit + limit * ((AHEAD_TARGET_NS - ahead) * SHARE_ONE / catch_up) / SHARE_ONE;
	else
		wanted = limit - limit * ((ahead - AHEAD_TARGET_NS) * SHARE_ONE / catch_up) / SHARE_ONE;
	correction = offered ? wanted * SHARE_ONE / offered : SHARE_MOST;
	if (correction < SHARE_LEAST)
		correction = SHARE_LEAST;
	else if (correction > SHARE_MOST)
		correction = SHARE_MOST;
	share = share * ((correction + SHARE_ONE) / 2) / SHARE_ONE;
	if (share < limit >> SHARE_FLOOR_SHIFT)
		share = limit >> SHARE_FLOOR_SHIFT;
	if (share > most)
		share = most;
	return share ? share : 1;
}

/* Counts what is offered; the packet that finds the epoch over sets the next share. */
static __always_inline void pace_measure(struct throttle_meter *meter, __u64 limit, __u64 now, __u64 ahead_ns,
					 __u64 bytes)
{
	__u64 began = *(volatile __u64 *)&meter->epoch_ns;
	__u64 share = *(volatile __u64 *)&meter->share;
	__u64 length = epoch_length(share);
	__u64 elapsed = now - began;
	__u64 offered;

	__sync_fetch_and_add(&meter->epoch_bytes, bytes);
	if (now < began + length || __sync_val_compare_and_swap(&meter->epoch_ns, began, now) != began)
		return;
	/* From here on this CPU is alone until the next epoch is over. In microseconds nothing overflows. */
	offered = __sync_lock_test_and_set(&meter->epoch_bytes, 0) * 1000000 / (elapsed / 1000);
	meter->share = next_share(share, limit, offered, ahead_ns, length);
}

/* What to set for a socket whose segments carry mss bytes, under a share. */
static __always_inline __u32 pacing_for(__u64 share, __u32 mss, __u32 family)
{
	__u32 headers = family == AF_INET6 ? HEADERS_IPV6 : HEADERS_IPV4;
	__u64 payload = mss ? share * mss / (mss + headers) : share;

	if (payload < 1)
		payload = 1;
	return payload < PACING_UNLIMITED ? payload : PACING_UNLIMITED;
}

/*
 * Takes the share over. socket is what the helpers take: the sock_ops context, or a socket in an iterator. What the
 * application set itself, before or since, is kept, and binds if it is less.
 */
static __always_inline void pace_socket(void *socket, struct throttle_tag *tag, __u32 wanted)
{
	__u32 current = 0;

	if (bpf_getsockopt(socket, SOL_SOCKET, SO_MAX_PACING_RATE, &current, sizeof(current)))
		return;
	if (!tag->our_pacing || current != tag->our_pacing)
		tag->own_pacing = current;
	if (wanted > tag->own_pacing)
		wanted = tag->own_pacing;
	if (wanted != current && bpf_setsockopt(socket, SOL_SOCKET, SO_MAX_PACING_RATE, &wanted, sizeof(wanted)))
		return;
	tag->our_pacing = wanted;
}

/*
 * A socket's congestion window bounds the buffers it sends: half of it at most (tcp_cwnd_test()). Over a path with a
 * round trip below 0.5 ms they would be 64 KiB at any pacing rate (tcp_tso_autosize()), at 1 Mbit/s one in half a
 * second, and no new share would be taken over in between. So the window is clamped to what a round trip needs, twice,
 * and some milliseconds for the receiver to answer. Where large buffers do no harm it is left alone.
 */
#define WINDOW_ANSWER_US 8000ULL
#define WINDOW_LEAST 4
/* A socket this slow sends one segment at a time: two are a wait of 2 s and more among 64 at 1 Mbit/s. */
#define WINDOW_SLOW 2
#define SLOW_BYTES_PER_S 65536
#define WINDOW_MOST 256
#define WINDOW_UNLIMITED 0x7fffffffU
#define WINDOW_RTT_MOST 8000000U /* 1 s, as srtt_us counts */

static __always_inline __u32 window_for(__u64 share, __u32 mss, __u32 srtt_eighths_us)
{
	__u64 rtt = srtt_eighths_us < WINDOW_RTT_MOST ? srtt_eighths_us : WINDOW_RTT_MOST;
	__u64 segments = share * (rtt / 4 + WINDOW_ANSWER_US) / 1000000 / (mss ? mss : 1);
	__u32 least = share < SLOW_BYTES_PER_S ? WINDOW_SLOW : WINDOW_LEAST;

	if (segments < least)
		return least;
	return segments > WINDOW_MOST ? WINDOW_UNLIMITED : segments;
}

/*
 * A connection that is there already has large buffers, and a pacing rate set now would make it wait for the next one
 * as long as the last takes at that rate: 0.5 s at 1 Mbit/s, and all of them at once. So the window shrinks first,
 * which takes about one round trip, and the rate follows with the RTT callback, or when the time for that is over.
 */
static __always_inline bool is_shrinking(const struct throttle_meter *meter, __u64 now, __u32 window, __u32 snd_cwnd)
{
	return now < meter->settled_ns && window != WINDOW_UNLIMITED && snd_cwnd > window;
}

/*
 * A wait for the pacing timer is not shortened by a new rate, nor by the end of the limit: a window that has not shrunk
 * (nothing was sent meanwhile) still makes a buffer of 64 KiB, a minute at 1 kB/s, and the least share makes minutes of
 * a single segment. So no buffer waits longer than this, and the bucket does the rest.
 */
#define LONGEST_WAIT_S 2
#define LARGEST_BUFFER 65536

static __always_inline __u32 pacing_now(__u32 pacing, __u32 snd_cwnd, __u32 mss)
{
	__u64 buffer = (__u64)snd_cwnd * mss;
	__u32 least = (buffer < LARGEST_BUFFER ? buffer : LARGEST_BUFFER) / LONGEST_WAIT_S;

	return pacing < least ? least : pacing;
}

/* Clamps the window; a change of less than a third is not worth it, for slow start begins where it is set. */
static __always_inline void bound_window(void *socket, struct throttle_tag *tag, __u32 wanted, __u32 ssthresh)
{
	__u32 before = tag->our_window;

	if (!before && wanted == WINDOW_UNLIMITED)
		return;
	if (before && (ssthresh <= before || before == WINDOW_UNLIMITED) && wanted / 4 * 3 <= before &&
	    before / 4 * 3 <= wanted)
		return;
	if (!bpf_setsockopt(socket, IPPROTO_TCP, TCP_BPF_SNDCWND_CLAMP, &wanted, sizeof(wanted)))
		tag->our_window = wanted;
}

static __always_inline void lift_window(void *socket, struct throttle_tag *tag)
{
	__u32 unlimited = WINDOW_UNLIMITED;

	if (tag->our_window)
		bpf_setsockopt(socket, IPPROTO_TCP, TCP_BPF_SNDCWND_CLAMP, &unlimited, sizeof(unlimited));
	tag->our_window = 0;
}

/* Puts back what the application had; a rate that is not ours is the application's already. */
static __always_inline void pace_lift(void *socket, struct throttle_tag *tag)
{
	__u32 current = 0;

	if (!tag->our_pacing)
		return;
	if (!bpf_getsockopt(socket, SOL_SOCKET, SO_MAX_PACING_RATE, &current, sizeof(current)) &&
	    current == tag->our_pacing)
		bpf_setsockopt(socket, SOL_SOCKET, SO_MAX_PACING_RATE, &tag->own_pacing, sizeof(tag->own_pacing));
	tag->our_pacing = 0;
}

#endif
