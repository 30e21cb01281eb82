// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Whose is this socket? A tag in the socket's storage says which rule it belongs to.
 *
 *   socket made       cgroup/sock_create runs in the process that makes it           ─┐
 *   socket there      iter/task_file walks the open files of limited processes        ├─> tag
 *   socket accepted   inherits its listener's tag (BPF_F_CLONE)                       ─┘
 *
 *   process forks     tp_btf/sched_process_fork    the child gets its parent's entry
 *   process ends      tp_btf/sched_process_exit    the entry goes with the last thread; the rule with the last process
 *
 * bpf_get_current_*() in cgroup_skb is whoever the interrupt hit: packets are judged by their socket alone.
 */
#ifndef CHADTHROTTLE_IDENTITY_BPF_H
#define CHADTHROTTLE_IDENTITY_BPF_H

#include "core.bpf.h"
#include "helpers.bpf.h"
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

struct sock;

struct socket {
	struct sock *sk;
} __core;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THROTTLE_MAX_PROCESSES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct throttle_process);
} processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct throttle_tag);
} tags SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THROTTLE_MAX_RULES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct throttle_rule);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THROTTLE_MAX_RULES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct throttle_meter);
} meters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} claim SEC(".maps");

/* The entry of a process, if it is the process that was meant and not a later one of the same number. */
static __always_inline struct throttle_process *limited_process(struct task_struct *task)
{
	struct throttle_process *process;
	__u32 tgid = task->tgid;

	process = bpf_map_lookup_elem(&processes, &tgid);
	if (!process || process->start_ticks != task->group_leader->start_boottime / NS_PER_START_TICK)
		return NULL;
	return process;
}

/* Claims the socket for the rule; a shared socket belongs to the rule that claimed it last. */
static __always_inline void tag_socket(void *sk, __u64 rule)
{
	struct throttle_tag fresh = {.rule = rule};
	struct throttle_tag *tag = bpf_sk_storage_get(&tags, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);

	if (tag && tag->rule != rule) {
		tag->refused = 0;
		tag->rule = rule;
	}
}

static __always_inline void follow_fork(struct task_struct *parent, struct task_struct *child)
{
	struct throttle_process *process, entry;
	struct throttle_meter *meter;
	__u32 tgid = child->tgid;
	__u64 rule;

	if (child->pid != child->tgid) /* a thread: same process */
		return;
	process = limited_process(parent);
	if (!process || !process->inherit)
		return;
	rule = process->rule;
	meter = bpf_map_lookup_elem(&meters, &rule);
	if (!meter)
		return;
	entry = *process;
	entry.start_ticks = child->start_boottime / NS_PER_START_TICK;
	if (bpf_map_update_elem(&processes, &tgid, &entry, BPF_ANY))
		__sync_fetch_and_add(&meter->untracked, 1);
	else
		__sync_fetch_and_add(&meter->processes, 1);
}

static __always_inline void follow_exit(struct task_struct *task)
{
	struct throttle_process *process;
	struct throttle_meter *meter;
	__u32 tgid = task->tgid;
	__u64 rule;

	/* The leader may end first: the process lives as long as a thread does. Decremented before the tracepoint. */
	if (task->signal->live.counter > 0)
		return;
	process = limited_process(task);
	if (!process)
		return;
	rule = process->rule;
	if (bpf_map_delete_elem(&processes, &tgid))
		return; /* another thread's exit was first */
	meter = bpf_map_lookup_elem(&meters, &rule);
	if (meter && __sync_fetch_and_sub(&meter->processes, 1) == 1)
		bpf_map_delete_elem(&rules, &rule);
}

#endif
