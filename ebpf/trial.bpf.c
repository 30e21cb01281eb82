// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * What `chadthrottle doctor` attaches to see whether a program is run and obeyed. Nobody's packet is dropped but its own.
 *
 *   cgroup_skb/egress  ── chad_trial_out ──┐
 *                                          ├─ before the deadline? a full socket? with our mark?
 *   cgroup_skb/ingress ── chad_trial_in ───┘  its cookie in "sockets"? ── any no ──> pass, uncounted
 *                                                     │ yes: count
 *                                                     └─ TRIAL_DROPPED_BYTES long? ── yes ──> drop, else pass
 *
 * A cookie is given to one socket only until the machine is restarted, so what is left attached when its doctor was
 * killed drops nothing, and after the deadline it does not even look. On ingress the mark is the receiving socket's: a
 * packet loses its own between network namespaces.
 */
#include "helpers.bpf.h"
#include "types.bpf.h"
#include "uapi.bpf.h"
#include "trial.h"

#define PASS 1
#define DROP_EGRESS 2 /* as on a full queue; 0 would fail the sender's call with EPERM */
#define DROP_INGRESS 0

/* SO_MARK of the sockets that take part; 0: none does. */
const volatile __u32 mark = 0;

/* CLOCK_BOOTTIME. */
const volatile __u64 deadline_ns = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, struct trial_socket);
} sockets SEC(".maps");

/* Whether to drop it. */
static __always_inline bool judge(struct __sk_buff *skb, __u32 direction)
{
	struct trial_socket *ours;
	struct bpf_sock *socket;
	__u64 cookie;

	if (bpf_ktime_get_boot_ns() >= deadline_ns)
		return false;
	socket = skb->sk;
	if (!socket)
		return false;
	socket = bpf_sk_fullsock(socket);
	if (!socket || !mark || socket->mark != mark)
		return false;
	cookie = bpf_get_socket_cookie(skb);
	ours = bpf_map_lookup_elem(&sockets, &cookie);
	if (!ours)
		return false;
	__sync_fetch_and_add(&ours->packets[direction], 1);
	if (skb->len != TRIAL_DROPPED_BYTES)
		return false;
	__sync_fetch_and_add(&ours->dropped[direction], 1);
	return true;
}

SEC("cgroup_skb/egress")
int chad_trial_out(struct __sk_buff *skb)
{
	return judge(skb, TRIAL_EGRESS) ? DROP_EGRESS : PASS;
}

SEC("cgroup_skb/ingress")
int chad_trial_in(struct __sk_buff *skb)
{
	return judge(skb, TRIAL_INGRESS) ? DROP_INGRESS : PASS;
}

LICENSE("Dual MIT/GPL");
