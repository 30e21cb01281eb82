// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * ebpf/judge.bpf.h on packets made by hand: rule, meter, tag and time come from the map "given", for a packet of
 * BPF_PROG_TEST_RUN has a socket that nobody can tag, and the clock cannot be set. That socket is no TCP socket either:
 * "connection_egress" and "connection_ingress" judge for the connection in "given", a real one.
 */
#include "helpers.bpf.h"
#include "judge.bpf.h"
#include "throttle.h"
#include "types.bpf.h"
#include "uapi.bpf.h"


struct given {
	struct throttle_rule rule;
	struct throttle_meter meter;
	struct throttle_tag tag;
	__u64 now_ns;
	__u64 step_ns;       /* how much later the next packet is */
	__u32 connection[3]; /* struct bpf_sock_tuple: the peer's address, ours, both ports */
	__u32 padding;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct given);
} given SEC(".maps");

static __always_inline struct given *what_is_given(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&given, &zero);
}

/* As throttle() does it, which has all this from elsewhere. */
static __always_inline int judge_given(struct __sk_buff *skb, struct bpf_sock *sk, struct given *its,
				       enum throttle_direction direction)
{
	__u64 now = __sync_fetch_and_add(&its->now_ns, its->step_ns);

	if (!is_in_force(&its->rule, now))
		return PASS;
	return judge(skb, sk, &its->tag, &its->rule, &its->meter, now, direction);
}

static __always_inline int judge_for_own_socket(struct __sk_buff *skb, enum throttle_direction direction)
{
	struct bpf_sock *sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
	struct given *its = what_is_given();

	return sk && its ? judge_given(skb, sk, its, direction) : PASS;
}

static __always_inline int judge_for_connection(struct __sk_buff *skb, enum throttle_direction direction)
{
	struct given *its = what_is_given();
	struct bpf_sock *sk;
	int verdict;

	if (!its)
		return PASS;
	sk = bpf_sk_lookup_tcp(skb, its->connection, sizeof(its->connection), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return PASS;
	verdict = judge_given(skb, sk, its, direction);
	bpf_sk_release(sk);
	return verdict;
}

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	return judge_for_own_socket(skb, THROTTLE_UP);
}

SEC("cgroup_skb/ingress")
int ingress(struct __sk_buff *skb)
{
	return judge_for_own_socket(skb, THROTTLE_DOWN);
}

SEC("cgroup_skb/egress")
int connection_egress(struct __sk_buff *skb)
{
	return judge_for_connection(skb, THROTTLE_UP);
}

SEC("cgroup_skb/ingress")
int connection_ingress(struct __sk_buff *skb)
{
	return judge_for_connection(skb, THROTTLE_DOWN);
}

LICENSE("Dual MIT/GPL");
