// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * What ebpf/police.bpf.h and ebpf/pace.bpf.h reckon, one program for each function: numbers in by the context, the
 * answer out by the map "answer". "charge" and "offer" do it a hundred times to one meter that all callers share.
 */
#include "helpers.bpf.h"
#include "pace.bpf.h"
#include "police.bpf.h"
#include "throttle.h"
#include "types.bpf.h"

#define TIMES 100

struct numbers {
	__u64 value[5];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} answer SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct throttle_meter);
} meter SEC(".maps");

static __always_inline int tell(__u64 number)
{
	__u32 zero = 0;

	return bpf_map_update_elem(&answer, &zero, &number, BPF_ANY);
}

/* bytes, bytes/s */
SEC("syscall")
int price(struct numbers *in)
{
	return tell(police_price(in->value[0], in->value[1]));
}

/* share, limit, offered, ns ahead, ns of the epoch */
SEC("syscall")
int share(struct numbers *in)
{
	return tell(next_share(in->value[0], in->value[1], in->value[2], in->value[3], in->value[4]));
}

/* share, mss, family */
SEC("syscall")
int pacing(struct numbers *in)
{
	return tell(pacing_for(in->value[0], in->value[1], in->value[2]));
}

/* share, mss, srtt in 1/8 us */
SEC("syscall")
int window(struct numbers *in)
{
	return tell(window_for(in->value[0], in->value[1], in->value[2]));
}

/* share */
SEC("syscall")
int epoch(struct numbers *in)
{
	return tell(epoch_length(in->value[0]));
}

/* ns of burst, ticks until when the rate is used up, ticks now, bytes */
SEC("syscall")
int judge(struct numbers *in)
{
	struct throttle_rate rate = {.burst_ns = in->value[0]};
	__u64 until = in->value[1];

	return tell(police(&rate, &until, in->value[2], in->value[3]));
}

/* ticks now, bytes, bytes/s */
SEC("syscall")
int charge(struct numbers *in)
{
	struct throttle_meter *shared;
	__u32 zero = 0;

	shared = bpf_map_lookup_elem(&meter, &zero);
	if (!shared)
		return 1;
	for (int i = 0; i < TIMES; i++) {
		police_ahead(&shared->ahead_until[THROTTLE_UP], in->value[0]);
		police_charge(&shared->ahead_until[THROTTLE_UP], in->value[1], in->value[2]);
	}
	return 0;
}

/* limit, ns now, bytes, ns later by each */
SEC("syscall")
int offer(struct numbers *in)
{
	struct throttle_meter *shared;
	__u32 zero = 0;

	shared = bpf_map_lookup_elem(&meter, &zero);
	if (!shared)
		return 1;
	for (int i = 0; i < TIMES; i++)
		pace_measure(shared, in->value[0], in->value[1] + i * in->value[3], 0, in->value[2]);
	return 0;
}

LICENSE("Dual MIT/GPL");
