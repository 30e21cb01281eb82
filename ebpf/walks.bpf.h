// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Sockets that are older than their rule, found by walking what there is:
 *
 *   iter/task_file   every open file of every process: tags those of limited processes
 *   iter/tcp         every TCP socket of one network namespace: paces tagged ones, or lifts their pacing
 */
#ifndef CHADTHROTTLE_WALKS_BPF_H
#define CHADTHROTTLE_WALKS_BPF_H

#include "helpers.bpf.h"
#include "identity.bpf.h"
#include "judge.bpf.h"
#include "pace.bpf.h"
#include "scope.bpf.h"
#include "throttle.h"
#include "types.bpf.h"
#include "uapi.bpf.h"

struct bpf_iter_meta {
	__bpf_md_ptr(struct seq_file *, seq);
} __core;

struct bpf_iter__tcp {
	__bpf_md_ptr(struct bpf_iter_meta *, meta);
	__bpf_md_ptr(struct sock_common *, sk_common);
};

struct bpf_iter__task_file {
	__bpf_md_ptr(struct bpf_iter_meta *, meta);
	__bpf_md_ptr(struct task_struct *, task);
	__u32 fd;
	__bpf_md_ptr(struct file *, file);
};

/* The meter of the rule by which a tagged connection is to be paced; NULL: it is not. */
static __always_inline struct throttle_meter *pacing_meter(struct tcp_sock *tcp, const struct throttle_tag *tag,
							   __u64 now)
{
	__u64 id = tag->rule;
	struct throttle_rule *rule = bpf_map_lookup_elem(&rules, &id);

	if (!rule || !tcp || !is_in_force(rule, now) || !is_limit(&rule->rate[THROTTLE_UP]))
		return NULL;
	if (is_on_loopback(tcp) || !peer_in_scope(tcp, rule))
		return NULL;
	return bpf_map_lookup_elem(&meters, &id);
}

/* Asks for the RTT callback, or takes that back: the flags are shared with other programs (Linux 6.12). */
static __always_inline void set_callback(struct tcp_sock *tcp, struct throttle_tag *tag, bool on)
{
	int flags = 0;

	if (bpf_getsockopt(tcp, IPPROTO_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags)))
		return;
	if (on == !!(flags & BPF_SOCK_OPS_RTT_CB_FLAG) || (!on && !tag->our_callback))
		return;
	flags ^= BPF_SOCK_OPS_RTT_CB_FLAG;
	if (!bpf_setsockopt(tcp, IPPROTO_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags)))
		tag->our_callback = on;
}

/*
 * While a rule is being made: how many of its connections are sending, for a first share. lsndtime is in jiffies, which
 * are 1, 4 or 10 ms long. A queue says less: over a short path it is empty most of the time.
 */
#define RECENT_JIFFIES 64

static __always_inline void count_sending(const struct throttle_tag *tag, const struct tcp_sock *tcp)
{
	__u64 id = tag->rule;
	struct throttle_meter *meter = bpf_map_lookup_elem(&meters, &id);

	if (meter && (__u32)bpf_jiffies64() - tcp->lsndtime < RECENT_JIFFIES)
		__sync_fetch_and_add(&meter->sending, 1);
}

/* The rule may be about to be made: then it has a meter and no rates yet. */
static __always_inline void pace_open_connection(struct sock_common *common)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(common);
	__u64 now = bpf_ktime_get_boot_ns();
	struct throttle_meter *meter;
	struct throttle_tag *tag;
	__u32 window;

	if (!tcp)
		return;
	tag = tag_of_open_socket(tcp);
	if (!tag)
		return;
	meter = pacing_meter(tcp, tag, now);
	if (!meter && !is_on_loopback(tcp))
		count_sending(tag, tcp);
	set_callback(tcp, tag, meter != NULL);
	if (meter) {
		window = window_for(meter->share, tcp->mss_cache, tcp->srtt_us);
		bound_window(tcp, tag, window, tcp->snd_ssthresh);
		if (!is_shrinking(meter, now, window, tcp->snd_cwnd))
			pace_socket(tcp, tag,
				    pacing_now(pacing_for(meter->share, tcp->mss_cache, common->skc_family),
					       tcp->snd_cwnd, tcp->mss_cache));
	} else {
		pace_lift(tcp, tag);
		lift_window(tcp, tag);
	}
}

/* Not inlined, for then its argument's type is in the object's BTF, where a test looks for it. */
static __noinline void report(struct bpf_iter__task_file *context, struct throttle_socket *found)
{
	bpf_seq_write(context->meta->seq, found, sizeof(*found));
}

/* Whether the file is a socket of the rule in "claim", which `found` then describes. */
static __always_inline bool tag_open_socket(struct task_struct *task, struct file *file, __u32 fd,
					    struct throttle_socket *found)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct throttle_process *process;
	struct throttle_tag *tag;
	struct sock *sk;
	__u32 zero = 0;
	__u64 *rule = bpf_map_lookup_elem(&claim, &zero);

	if (!rule || !socket)
		return false;
	sk = socket->sk;
	if (!sk || !is_inet(sk))
		return false;
	process = limited_process(task);
	if (process && process->rule == *rule)
		tag = tag_socket(sk, *rule);
	else
		tag = bpf_sk_storage_get(&tags, sk, NULL, 0);
	if (!tag || tag->rule != *rule)
		return false;
	found->tgid = task->tgid;
	found->tid = task->pid;
	found->fd = fd;
	found->namespace = sk->__sk_common.skc_net.net->ns.inum;
	return true;
}

#endif
