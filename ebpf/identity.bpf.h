// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Whose is this socket? A tag in the socket's storage says which rule it belongs to.
 *
 *   socket made       cgroup/sock_create runs in the process that makes it           ─┐
 *   socket there      iter/task_file walks the open files of limited processes        ├─> tag
 *   socket accepted   inherits its listener's tag (BPF_F_CLONE)                        │
 *   MPTCP subflow     made by the kernel: tp_btf/inet_sock_set_state in connect() and  │
 *                     listen(); its packets and iter/tcp ask whose its owner is        │
 *   socket used       tp_btf/sock_send_length, sock_recv_length: received over AF_UNIX,│
 *                     or accepted from a queue that is older than the rule            ─┘
 *
 * Using a socket claims it: it belongs to the rule of the process that made, sent on or received from it last, or, if
 * that is none, to the rule that found it open last.
 *
 *   process forks     tp_btf/sched_process_fork    the child gets its parent's entry
 *   process ends      tp_btf/sched_process_exit    the entry goes with the last thread; the rule with the last process,
 *                                                  or with the process that holds it
 *
 * bpf_get_current_*() in cgroup_skb is whoever the interrupt hit: packets are judged by their socket alone.
 */
#ifndef CHADTHROTTLE_IDENTITY_BPF_H
#define CHADTHROTTLE_IDENTITY_BPF_H

#include "core.bpf.h"
#include "helpers.bpf.h"
#include "tags.bpf.h"
#include "throttle.h"
#include "types.bpf.h"

/* /proc/PID/stat counts in USER_HZ, which is 100 on all architectures we build for. */
#define NS_PER_START_TICK 10000000ULL

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
} __core;

struct task_struct {
	int pid;
	int tgid;
	struct task_struct *group_leader;
	struct signal_struct *signal;
	__u64 start_boottime;
} __core;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THROTTLE_MAX_PROCESSES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct throttle_process);
} processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THROTTLE_MAX_RULES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct throttle_holder);
} holders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} claim SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} placement SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THROTTLE_MAX_DEVICES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct throttle_device);
	__type(value, struct throttle_queue);
} queues SEC(".maps");

/*
 * How many entries of "processes" have a key that ends in these bits: most processes are not limited, and asking here
 * is much cheaper than asking the map, with each send() and recv() of each of them.
 */
#define CROWD 4096
static __u32 crowd[CROWD];

static __always_inline __u32 *crowd_of(__u32 tgid)
{
	return &crowd[tgid % CROWD];
}

static __always_inline __u64 start_ticks_of(struct task_struct *task)
{
	return task->group_leader->start_boottime / NS_PER_START_TICK;
}

/* The entry of a process, if it is the process that was meant and not a later one of the same number. */
static __always_inline struct throttle_process *limited_process(struct task_struct *task)
{
	struct throttle_process *process;
	__u32 tgid = task->tgid;

	if (!*(volatile __u32 *)crowd_of(tgid))
		return NULL;
	process = bpf_map_lookup_elem(&processes, &tgid);
	if (!process || process->start_ticks != start_ticks_of(task))
		return NULL;
	return process;
}

/* The current process connects with a socket, listens, sends or receives on it. */
static __always_inline void tag_used_socket(struct sock *sk)
{
	struct throttle_process *process;

	if (!is_inet(sk))
		return;
	process = limited_process(bpf_get_current_task_btf());
	if (process)
		tag_socket(sk, process->rule);
}

/* One process less in a rule: with the last one the rule ends. */
static __always_inline void leave_rule(__u64 rule)
{
	struct throttle_meter *meter = bpf_map_lookup_elem(&meters, &rule);

	if (meter && __sync_fetch_and_sub(&meter->processes, 1) == 1)
		bpf_map_delete_elem(&rules, &rule);
}

/*
 * Commands, forks and exits meet here on several CPUs at once, and a rule ends when its count says so: each process is
 * counted before its entry can be seen, and uncounted by whoever takes the rule out of the entry. An entry with rule 0
 * is being removed.
 */
static __always_inline bool forget_process(__u32 tgid, struct throttle_process *process)
{
	__u64 rule = __sync_lock_test_and_set(&process->rule, 0);

	if (!rule)
		return false;
	bpf_map_delete_elem(&processes, &tgid);
	__sync_fetch_and_sub(crowd_of(tgid), 1);
	leave_rule(rule);
	return true;
}

/* A process joins a rule, and so leaves the one it was in. False if there is no such rule or no room, or it is ending. */
static __always_inline bool join_rule(__u32 tgid, const struct throttle_process *entry)
{
	struct throttle_process *before;
	__u64 rule = entry->rule;
	struct throttle_meter *meter = bpf_map_lookup_elem(&meters, &rule);
	__u64 left;

	if (!meter)
		return false;
	__sync_fetch_and_add(&meter->processes, 1);
	before = bpf_map_lookup_elem(&processes, &tgid);
	if (before && before->start_ticks != entry->start_ticks)
		forget_process(tgid, before); /* an earlier process of this number */
	__sync_fetch_and_add(crowd_of(tgid), 1);
	if (!bpf_map_update_elem(&processes, &tgid, entry, BPF_NOEXIST))
		return true;
	__sync_fetch_and_sub(crowd_of(tgid), 1);
	before = bpf_map_lookup_elem(&processes, &tgid);
	if (!before) {
		__sync_fetch_and_add(&meter->untracked, 1);
		leave_rule(rule);
		return false;
	}
	left = __sync_lock_test_and_set(&before->rule, rule);
	before->inherit = entry->inherit;
	/* In this rule already: counted twice. Ending: its entry goes away, whatever it says. */
	leave_rule(left ? left : rule);
	return left != 0;
}

static __always_inline void follow_fork(struct task_struct *parent, struct task_struct *child)
{
	struct throttle_process *process, entry;

	if (child->pid != child->tgid) /* a thread: same process */
		return;
	process = limited_process(parent);
	if (!process || !process->inherit)
		return;
	entry = *process;
	entry.start_ticks = child->start_boottime / NS_PER_START_TICK;
	join_rule(child->tgid, &entry);
}

/* A rule that was to last as long as this process ends with it. */
static __always_inline void let_go(struct task_struct *task)
{
	__u32 tgid = task->tgid;
	struct throttle_holder *holder = bpf_map_lookup_elem(&holders, &tgid);

	if (!holder || holder->start_ticks != start_ticks_of(task))
		return;
	bpf_map_delete_elem(&rules, &holder->rule);
	bpf_map_delete_elem(&holders, &tgid);
}

static __always_inline void follow_exit(struct task_struct *task)
{
	struct throttle_process *process;

	/* The leader may end first: the process lives as long as a thread does. Decremented before the tracepoint. */
	if (task->signal->live.counter > 0)
		return;
	let_go(task);
	process = limited_process(task);
	if (process)
		forget_process(task->tgid, process);
}

#endif
