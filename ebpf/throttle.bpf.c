// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Limits what a process and its children send and receive, by the rules in the map "rules".
 *
 *   egress, ingress ─ loopback? ─ no ─ whose socket? ─ rule in force? ─ yes ─ judge.bpf.h
 *                        │                 │                │ no: pass
 *                        └─ yes: pass      └ nobody's: pass
 *
 *   identity.bpf.h   whose a socket is: tags, processes, fork and exit; all maps
 *   scope.bpf.h      whether a peer is one that the rule is about
 *   judge.bpf.h      what becomes of a packet, by the bucket of police.bpf.h
 *   pace.bpf.h       how TCP uploads are paced
 *   walks.bpf.h      sockets that are there already: tagged and paced
 *
 * Whatever is missing or unexpected passes: these programs may sit on the root cgroup, and see the traffic that keeps the
 * machine reachable.
 */
#include "helpers.bpf.h"
#include "identity.bpf.h"
#include "judge.bpf.h"
#include "pace.bpf.h"
#include "throttle.h"
#include "types.bpf.h"
#include "uapi.bpf.h"
#include "walks.bpf.h"

static __always_inline int throttle(struct __sk_buff *skb, enum throttle_direction direction)
{
	struct throttle_meter *meter;
	struct throttle_rule *rule;
	struct throttle_tag *tag;
	struct bpf_sock *sk;
	__u64 now, id;

	if (skb->ifindex == LOOPBACK_IFINDEX)
		return PASS;
	sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
	if (!sk)
		return PASS;
	tag = tag_of_socket(sk);
	if (!tag)
		return PASS;
	id = tag->rule;
	rule = bpf_map_lookup_elem(&rules, &id);
	if (!rule)
		return PASS;
	now = bpf_ktime_get_boot_ns();
	if (!is_in_force(rule, now))
		return PASS;
	meter = bpf_map_lookup_elem(&meters, &id);
	if (!meter)
		return PASS;
	return judge(skb, sk, tag, rule, meter, now, direction);
}

SEC("cgroup_skb/egress")
int throttle_egress(struct __sk_buff *skb)
{
	return throttle(skb, THROTTLE_UP);
}

SEC("cgroup_skb/ingress")
int throttle_ingress(struct __sk_buff *skb)
{
	return throttle(skb, THROTTLE_DOWN);
}

/* A connection of a limited process: paced from its first segment on, and with each round trip. */
SEC("sockops")
int pace_connection(struct bpf_sock_ops *context)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct throttle_meter *meter;
	struct throttle_tag *tag;
	struct bpf_sock *sk;
	__u32 window;

	if (context->op != BPF_SOCK_OPS_RTT_CB && context->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    context->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return PASS;
	sk = context->sk;
	if (!sk)
		return PASS;
	tag = tag_of_socket(sk);
	if (!tag)
		return PASS;
	meter = pacing_meter(bpf_skc_to_tcp_sock(sk), tag, now);
	if (meter) {
		if (!(context->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_RTT_CB_FLAG)) {
			bpf_sock_ops_cb_flags_set(context, context->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG);
			tag->our_callback = 1;
		}
		window = window_for(meter->share, context->mss_cache, context->srtt_us);
		bound_window(context, tag, window, context->snd_ssthresh);
		if (!is_shrinking(meter, now, window, context->snd_cwnd))
			pace_socket(context, tag,
				    pacing_now(pacing_for(meter->share, context->mss_cache, context->family),
					       context->snd_cwnd, context->mss_cache));
	} else {
		pace_lift(context, tag);
		lift_window(context, tag);
		if (tag->our_callback) {
			bpf_sock_ops_cb_flags_set(context, context->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_RTT_CB_FLAG);
			tag->our_callback = 0;
		}
	}
	return PASS;
}

/* Runs in the process that makes the socket. Never refuses one. */
SEC("cgroup/sock_create")
int tag_new_socket(struct bpf_sock *sk)
{
	struct throttle_process *process = limited_process(bpf_get_current_task_btf());

	if (process)
		tag_socket(sk, process->rule);
	return PASS;
}

/*
 * One reading of this iterator, in each network namespace that has tagged sockets, paces the connections that are there
 * already, and lifts the pacing of those whose rule is gone.
 */
SEC("iter/tcp")
int pace_open_connections(struct bpf_iter__tcp *context)
{
	if (context->sk_common)
		pace_open_connection(context->sk_common);
	return 0;
}

/*
 * One reading of this iterator tags the sockets that the processes of the rule in "claim" have open, and writes a
 * struct throttle_socket for each socket of that rule, whoever has it open: its network namespace wants a visit.
 */
SEC("iter/task_file")
int tag_open_sockets(struct bpf_iter__task_file *context)
{
	struct throttle_socket found = {};

	if (context->task && context->file && tag_open_socket(context->task, context->file, context->fd, &found))
		report(context, &found);
	return 0;
}

/*
 * Run by a command (BPF_PROG_TEST_RUN). The command does not write the meter itself: packets, forks and exits count in
 * it meanwhile.
 */
SEC("syscall")
int set_share(struct throttle_sharing *wanted)
{
	__u64 id = wanted->rule;
	struct throttle_meter *meter = bpf_map_lookup_elem(&meters, &id);

	if (!meter)
		return 0;
	meter->share = wanted->share ? wanted->share : 1;
	meter->settled_ns = wanted->settled_ns;
	return 1;
}

/* Run by a command (BPF_PROG_TEST_RUN): a process joins or leaves a rule, counted as fork and exit count. */
SEC("syscall")
int set_membership(struct throttle_membership *wanted)
{
	struct throttle_process entry = {
		.rule = wanted->rule,
		.start_ticks = wanted->start_ticks,
		.inherit = wanted->inherit,
	};
	struct throttle_process *before;
	struct throttle_meter *meter;
	__u32 tgid = wanted->tgid;

	if (entry.rule) {
		meter = bpf_map_lookup_elem(&meters, &entry.rule);
		/* Its children come next: who found no room before is counted again if there still is none. */
		if (meter && tgid == meter->leader)
			meter->untracked = 0;
		return join_rule(tgid, &entry);
	}
	before = bpf_map_lookup_elem(&processes, &tgid);
	if (!before || before->start_ticks != entry.start_ticks)
		return 0;
	return forget_process(tgid, before);
}

SEC("tp_btf/sched_process_fork")
int on_fork(__u64 *arguments)
{
	follow_fork((struct task_struct *)arguments[0], (struct task_struct *)arguments[1]);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int on_exit(__u64 *arguments)
{
	follow_exit((struct task_struct *)arguments[0]);
	return 0;
}

/* connect() and listen(): the subflows of MPTCP are made by the kernel, which tag_new_socket() does not see. */
SEC("tp_btf/inet_sock_set_state")
int on_socket_state(__u64 *arguments)
{
	int state = (int)arguments[2];

	if (state == TCP_SYN_SENT || state == TCP_LISTEN)
		tag_used_socket((struct sock *)arguments[0]);
	return 0;
}

/* Both run in the process that sends or receives, after it did (Linux 6.3). */
SEC("?tp_btf/sock_send_length")
int on_send(__u64 *arguments)
{
	tag_used_socket((struct sock *)arguments[0]);
	return 0;
}

SEC("?tp_btf/sock_recv_length")
int on_receive(__u64 *arguments)
{
	tag_used_socket((struct sock *)arguments[0]);
	return 0;
}

LICENSE("Dual MIT/GPL");
