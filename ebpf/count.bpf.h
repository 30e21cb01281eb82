// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/* What a rule's meter says of packets: on many CPUs at once, each of them counted once. */
#ifndef CHADTHROTTLE_COUNT_BPF_H
#define CHADTHROTTLE_COUNT_BPF_H

#include "throttle.h"
#include "types.bpf.h"
#include "wire.bpf.h"

/* What is achieved is measured over at least this long. */
#define WINDOW_NS 1000000000ULL

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

/* What is achieved is measured from when the rule was armed. */
static __always_inline void begin_measuring(struct throttle_count *count, __u64 armed_ns)
{
	__u64 began = *(volatile __u64 *)&count->window_ns;

	if (began < armed_ns && __sync_val_compare_and_swap(&count->window_ns, began, armed_ns) == began) {
		__sync_lock_test_and_set(&count->window_bytes, 0);
		count->bytes_per_s = 0;
	}
}

static __always_inline void count_dropped(struct throttle_count *count, const struct wire_size *wire)
{
	__sync_fetch_and_add(&count->dropped_packets, wire->packets);
	__sync_fetch_and_add(&count->dropped_bytes, wire->bytes);
}

#endif
