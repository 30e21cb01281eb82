// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Thirty-two programs in three sections: several entry programs in one section, each with a map reference relocated
 * at its own offset, and a function that all of them have appended.
 */
#include "helpers.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} runs SEC(".maps");

static __noinline void note(__u32 number)
{
	__u64 *run = bpf_map_lookup_elem(&runs, &number);

	if (run)
		__sync_fetch_and_add(run, 1);
}

/* Of different lengths, so that no two start at a multiple of one size. */
#define PROGRAM(section, number) \
	SEC(section) \
	int program_##number(struct __sk_buff *skb) \
	{ \
		if (number % 3 == 0) \
			skb->mark = 0x##number; \
		if (number % 5 == 0) \
			skb->priority = skb->mark; \
		note(number); \
		return 1; \
	}

#define TEN_PROGRAMS(section, ten) \
	PROGRAM(section, ten##0) \
	PROGRAM(section, ten##1) \
	PROGRAM(section, ten##2) \
	PROGRAM(section, ten##3) \
	PROGRAM(section, ten##4) \
	PROGRAM(section, ten##5) \
	PROGRAM(section, ten##6) \
	PROGRAM(section, ten##7) \
	PROGRAM(section, ten##8) \
	PROGRAM(section, ten##9)

TEN_PROGRAMS("cgroup_skb/egress", 1)
TEN_PROGRAMS("cgroup_skb/ingress", 2)
TEN_PROGRAMS("tc", 3)
PROGRAM("tc", 40)
PROGRAM("cgroup_skb/egress", 41)

LICENSE("Dual MIT/GPL");
