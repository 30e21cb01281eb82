// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Uploads of TCP are paced by the sockets themselves (SO_MAX_PACING_RATE): nothing is dropped, and the bucket behind it
 * (police.bpf.h) has only the rest to do. Pacing is per socket and the limit is per rule, so the rule has a *share*, the
 * rate of each sending socket, steered so that what they send together meets the limit:
 *
 *   egress          epoch over?  share *= limit / offered;  an eighth less if packets were refused;  at most the limit
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

/* An epoch is long enough to hold some large buffers, or the measurement is noise. */
#define EPOCH_NS 50000000ULL
#define EPOCH_BYTES 131072ULL
/* After that many epochs without traffic what was measured means nothing. */
#define STALE_EPOCHS 4

/* Bounds of one correction, in 1/1024: one large buffer more or less in an epoch is no news. */
#define SHARE_ONE 1024
#define SHARE_LEAST 256
#define SHARE_MOST 2048
/* No socket gets less than this part of the limit, or it would not notice that there is room again. */
#define SHARE_FLOOR_SHIFT 10

/* SO_MAX_PACING_RATE takes 32 bits from BPF; all ones is the kernel's "no limit" (~34 Gbit/s is the most we pace). */
#define PACING_UNLIMITED 0xffffffffU

/* IP and TCP headers with timestamps: pacing counts payload, limits count what is on the wire. */
#define HEADERS_IPV4 52
#define HEADERS_IPV6 72

static __always_inline __u64 epoch_length(__u64 bytes_per_s)
{
	__u64 filling = EPOCH_BYTES * NS_PER_S / bytes_per_s;

	return filling > EPOCH_NS ? filling : EPOCH_NS;
}

/* Counts what is offered; the packet that finds the epoch over sets the next share. */
static __always_inline void pace_measure(struct throttle_meter *meter, __u64 limit, __u64 now, __u64 bytes)
{
	__u64 began = *(volatile __u64 *)&meter->epoch_ns;
	__u64 length = epoch_length(limit);
	__u64 elapsed = now - began;
	__u64 offered, correction, share;

	__sync_fetch_and_add(&meter->epoch_bytes, bytes);
	if (elapsed < length || __sync_val_compare_and_swap(&meter->epoch_ns, began, now) != began)
		return;
	/* From here on this CPU is alone until the next epoch is over. */
	offered = __sync_lock_test_and_set(&meter->epoch_bytes, 0) * NS_PER_S / elapsed;
	share = meter->share;
	correction = offered ? limit * SHARE_ONE / offered : SHARE_MOST;
	if (correction > SHARE_MOST || elapsed > STALE_EPOCHS * length)
		correction = SHARE_MOST;
	if (correction < SHARE_LEAST)
		correction = SHARE_LEAST;
	share = share * correction / SHARE_ONE;
	if (__sync_lock_test_and_set(&meter->epoch_drops, 0))
		share -= share / 8;
	if (share < limit >> SHARE_FLOOR_SHIFT)
		share = limit >> SHARE_FLOOR_SHIFT;
	if (share > limit)
		share = limit;
	meter->share = share;
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
