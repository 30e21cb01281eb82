// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Limits what a process and its children send and receive, by the rules in the map "rules".
 *
 *   egress, ingress ─ loopback? ─ no ─ whose socket? ─ rule armed, not expired, this direction limited?
 *                        │                 │                │ no: pass
 *                        └─ yes: pass      └ nobody's: pass  │ yes
 *                                                            v
 *                       over the limit? (police.bpf.h) ─ no ─> charge, pass
 *                            │ yes
 *              egress:  drop, tell TCP to slow down (2); the guard below lets a connection live
 *              ingress: CE mark where ECN was negotiated, charge, pass; else, or far over, drop (0)
 *
 * All entry points are here, past 400 lines, because they share these maps and verdicts; what they do is in the headers.
 * Walking what is there already (the two iterators) is the part to move out next.
 *
 * Whatever is missing or unexpected passes: these programs may sit on the root cgroup, and see the traffic that keeps the
 * machine reachable.
 */
#include "helpers.bpf.h"
#include "identity.bpf.h"
#include "pace.bpf.h"
#include "police.bpf.h"
#include "throttle.h"
#include "types.bpf.h"
#include "uapi.bpf.h"
#include "wire.bpf.h"

/* What cgroup_skb returns (include/linux/bpf-cgroup.h). 0 on egress would fail the sender's call with EPERM. */
#define PASS 1
#define DROP_INGRESS 0
#define PASS_SLOWER 3 /* egress: passed, and TCP enters CWR, which ends with the window we set */
#define DROP_EGRESS 2 /* NET_XMIT_CN: TCP takes it as congestion, UDP as any full queue */

/*
 * A segment refused while nothing is in flight is retried by the zero-window probe timer only, and after tcp_retries2
 * (15 by default) refusals in a row the connection dies of ETIMEDOUT. So it is refused at most this often.
 */
#define MOST_REFUSALS 7

static __always_inline struct throttle_rule *armed_rule(__u64 id, __u64 now)
{
	struct throttle_rule *rule = bpf_map_lookup_elem(&rules, &id);

	if (!rule || (rule->expires_ns && now >= rule->expires_ns))
		return NULL;
	return rule;
}

/* What is achieved is measured over at least this long. */
#define WINDOW_NS 1000000000ULL

static __always_inline void count_passed(struct throttle_count *count, const struct wire_size *wire, __u64 now)
{
	__u64 began = *(volatile __u64 *)&count->window_ns;
	__u64 elapsed = now - began;

	__sync_fetch_and_add(&count->passed_packets, wire->packets);
	__sync_fetch_and_add(&count->passed_bytes, wire->bytes);
	__sync_fetch_and_add(&count->window_bytes, wire->bytes);
	if (elapsed >= WINDOW_NS && __sync_val_compare_and_swap(&count->window_ns, began, now) == began)
		count->bytes_per_s =
			__sync_lock_test_and_set(&count->window_bytes, 0) * 1000 / (elapsed / 1000000);
}

static __always_inline void count_dropped(struct throttle_count *count, const struct wire_size *wire)
{
	__sync_fetch_and_add(&count->dropped_packets, wire->packets);
	__sync_fetch_and_add(&count->dropped_bytes, wire->bytes);
}

/* Whether refusing this segment could end the connection. */
static __always_inline bool must_live(struct bpf_sock *sk, struct throttle_tag *tag)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);

	if (!tcp || tcp->packets_out) {
		tag->refused = 0;
		return false;
	}
	return ++tag->refused > MOST_REFUSALS;
}

/* A window that was larger when it was clamped is not full while the socket is paced, and would stay as it is. */
static __always_inline bool window_too_large(struct bpf_sock *sk, const struct throttle_tag *tag)
{
	struct bpf_tcp_sock *tcp;

	if (!tag->our_window || tag->our_window == WINDOW_UNLIMITED)
		return false;
	tcp = bpf_tcp_sock(sk);
	return tcp && tcp->snd_cwnd > tag->our_window;
}

static __always_inline int throttle(struct __sk_buff *skb, enum throttle_direction direction)
{
	struct throttle_meter *meter;
	enum police_verdict verdict;
	struct throttle_count *count;
	struct throttle_rate *rate;
	struct throttle_rule *rule;
	struct throttle_tag *tag;
	struct wire_size wire;
	struct bpf_sock *sk;
	__u64 now, ticks, id;
	__u64 *ahead_until;

	if (skb->ifindex == LOOPBACK_IFINDEX)
		return PASS;
	sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
	if (!sk)
		return PASS;
	tag = tag_of_socket(sk);
	if (!tag)
		return PASS;
	id = tag->rule;
	now = bpf_ktime_get_boot_ns();
	rule = armed_rule(id, now);
	if (!rule)
		return PASS;
	meter = bpf_map_lookup_elem(&meters, &id);
	if (!meter)
		return PASS;
	rate = &rule->rate[direction];
	count = &meter->count[direction];
	ahead_until = &meter->ahead_until[direction];

	wire_size(skb, &wire);
	if (!rate->bytes_per_s) {
		count_passed(count, &wire, now);
		return PASS;
	}
	ticks = (now - meter->base_ns) * TICKS_PER_NS;
	if (direction == THROTTLE_UP && rule->armed)
		pace_measure(meter, rate->bytes_per_s, now, police_ahead(ahead_until, ticks) / TICKS_PER_NS,
			     wire.bytes);
	verdict = police(rate, ahead_until, ticks, wire.bytes);
	if (verdict != POLICE_PASS && rule->armed) {
		if (direction == THROTTLE_UP) {
			if (!must_live(sk, tag)) {
				__sync_fetch_and_add(&meter->epoch_drops, 1);
				count_dropped(count, &wire);
				return DROP_EGRESS;
			}
		} else if (verdict == POLICE_FAR_OVER || bpf_skb_ecn_set_ce(skb) != 1) {
			count_dropped(count, &wire);
			return DROP_INGRESS;
		} else {
			__sync_fetch_and_add(&count->marked_packets, wire.packets);
		}
	}
	tag->refused = 0;
	/* What passed before the rule was armed is not held against it. */
	if (rule->armed)
		police_charge(ahead_until, wire.bytes, rate->bytes_per_s);
	count_passed(count, &wire, now);
	return direction == THROTTLE_UP && window_too_large(sk, tag) ? PASS_SLOWER : PASS;
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

/* The meter of the rule by which a tagged socket is to be paced; NULL: it is not. */
static __always_inline struct throttle_meter *pacing_meter(const struct throttle_tag *tag, __u64 now)
{
	__u64 id = tag->rule;
	struct throttle_rule *rule = armed_rule(id, now);

	if (!rule || !rule->rate[THROTTLE_UP].bytes_per_s)
		return NULL;
	return bpf_map_lookup_elem(&meters, &id);
}

/* A connection of a limited process: paced from its first segment on, and with each round trip. */
SEC("sockops")
int pace_connection(struct bpf_sock_ops *context)
{
	struct throttle_tag *tag;
	__u64 now = bpf_ktime_get_boot_ns();
	struct throttle_meter *meter;
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
	meter = is_on_loopback(bpf_skc_to_tcp_sock(sk)) ? NULL : pacing_meter(tag, now);
	if (meter) {
		if (!(context->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_RTT_CB_FLAG)) {
			bpf_sock_ops_cb_flags_set(context, context->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG);
			tag->our_callback = 1;
		}
		window = window_for(meter->share, context->mss_cache, context->srtt_us);
		bound_window(context, tag, window, context->snd_ssthresh);
		if (!is_shrinking(meter, now, window, context->snd_cwnd))
			pace_socket(context, tag, pacing_for(meter->share, context->mss_cache, context->family));
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

struct bpf_iter_meta {
	__bpf_md_ptr(struct seq_file *, seq);
} __core;

struct tcp_sock {
	__u32 mss_cache;
	__u32 srtt_us;
	__u32 snd_ssthresh;
	__u32 snd_cwnd;
	__u32 lsndtime;
} __core;

struct bpf_iter__tcp {
	__bpf_md_ptr(struct bpf_iter_meta *, meta);
	__bpf_md_ptr(struct sock_common *, sk_common);
};

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

/*
 * One reading of this iterator, in each network namespace that has tagged sockets, paces the connections that are there
 * already, and lifts the pacing of those whose rule is gone.
 */
SEC("iter/tcp")
int pace_open_connections(struct bpf_iter__tcp *context)
{
	struct sock_common *common = context->sk_common;
	struct throttle_tag *tag;
	__u64 now = bpf_ktime_get_boot_ns();
	struct throttle_meter *meter;
	struct tcp_sock *tcp;
	bool looped;
	__u32 window;

	if (!common)
		return 0;
	tcp = bpf_skc_to_tcp_sock(common);
	if (!tcp)
		return 0;
	tag = bpf_sk_storage_get(&tags, tcp, NULL, 0);
	if (!tag)
		return 0;
	looped = is_on_loopback(tcp);
	meter = looped ? NULL : pacing_meter(tag, now);
	if (!meter && !looped)
		count_sending(tag, tcp);
	set_callback(tcp, tag, meter != NULL);
	if (meter) {
		window = window_for(meter->share, tcp->mss_cache, tcp->srtt_us);
		bound_window(tcp, tag, window, tcp->snd_ssthresh);
		if (!is_shrinking(meter, now, window, tcp->snd_cwnd))
			pace_socket(tcp, tag, pacing_for(meter->share, tcp->mss_cache, common->skc_family));
	} else {
		pace_lift(tcp, tag);
		lift_window(tcp, tag);
	}
	return 0;
}

struct bpf_iter__task_file {
	__bpf_md_ptr(struct bpf_iter_meta *, meta);
	__bpf_md_ptr(struct task_struct *, task);
	__u32 fd;
	__bpf_md_ptr(struct file *, file);
};

/* Not inlined, for then its argument's type is in the object's BTF, where a test looks for it. */
static __noinline void report(struct bpf_iter__task_file *context, struct throttle_socket *found)
{
	bpf_seq_write(context->meta->seq, found, sizeof(*found));
}

/*
 * One reading of this iterator tags the sockets that the processes of the rule in "claim" have open, and writes a
 * struct throttle_socket for each socket of that rule, whoever has it open: its network namespace wants a visit.
 */
SEC("iter/task_file")
int tag_open_sockets(struct bpf_iter__task_file *context)
{
	struct task_struct *task = context->task;
	struct file *file = context->file;
	struct throttle_socket found = {};
	struct throttle_process *process;
	struct throttle_tag *tag;
	struct socket *socket;
	struct sock *sk;
	__u32 zero = 0;
	__u64 *rule;

	if (!task || !file)
		return 0;
	rule = bpf_map_lookup_elem(&claim, &zero);
	socket = bpf_sock_from_file(file);
	if (!rule || !socket)
		return 0;
	sk = socket->sk;
	if (!sk || !is_inet(sk))
		return 0;
	process = limited_process(task);
	if (process && process->rule == *rule)
		tag = tag_socket(sk, *rule);
	else
		tag = bpf_sk_storage_get(&tags, sk, NULL, 0);
	if (!tag || tag->rule != *rule)
		return 0;
	found.tgid = task->tgid;
	found.tid = task->pid;
	found.fd = context->fd;
	found.namespace = sk->__sk_common.skc_net.net->ns.inum;
	report(context, &found);
	return 0;
}

/*
 * Run by a command (BPF_PROG_TEST_RUN): the first share of a new rule. The command does not write the meter itself: the
 * fork and exit hooks count in it meanwhile. Returns how many connections are sending.
 */
SEC("syscall")
int begin_pacing(struct throttle_beginning *beginning)
{
	__u64 id = beginning->rule;
	struct throttle_meter *meter = bpf_map_lookup_elem(&meters, &id);
	__u64 sending;

	if (!meter)
		return 0;
	sending = meter->sending;
	meter->share = beginning->bytes_per_s / (sending ? sending : 1);
	if (!meter->share)
		meter->share = 1;
	meter->settled_ns = beginning->settled_ns;
	return sending;
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
	__u32 tgid = wanted->tgid;

	if (entry.rule)
		return join_rule(tgid, &entry);
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

/* include/net/tcp_states.h */
#define TCP_SYN_SENT 2
#define TCP_LISTEN 10

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
