// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * A program's type and expected attach type follow from its section's name. One program for each name, named after
 * what it should become; each returns the least that its hook lets through. (A function named exactly as its section
 * does not assemble: the section has a symbol of that name.)
 */
#include "helpers.bpf.h"

#define PROGRAM(section, name, result) \
	SEC(section) \
	int name(void *context) \
	{ \
		(void)context; \
		return result; \
	}

PROGRAM("cgroup_skb/ingress", skb_ingress, 1)
PROGRAM("cgroup_skb/egress", skb_egress, 1)
/* Without a direction: expected_attach_type 0, which is BPF_CGROUP_INET_INGRESS. */
PROGRAM("cgroup/skb", skb_either, 1)

/* The same hook under two names, the older without the attach type in its name. */
PROGRAM("cgroup/sock", sock, 1)
PROGRAM("cgroup/sock_create", sock_create, 1)
PROGRAM("cgroup/sock_release", sock_release, 1)
PROGRAM("cgroup/post_bind4", post_bind4, 1)
PROGRAM("cgroup/post_bind6", post_bind6, 1)

PROGRAM("cgroup/bind4", bind4, 1)
PROGRAM("cgroup/bind6", bind6, 1)
PROGRAM("cgroup/connect4", connect4, 1)
PROGRAM("cgroup/connect6", connect6, 1)
PROGRAM("cgroup/sendmsg4", sendmsg4, 1)
PROGRAM("cgroup/sendmsg6", sendmsg6, 1)
PROGRAM("cgroup/recvmsg4", recvmsg4, 1)
PROGRAM("cgroup/recvmsg6", recvmsg6, 1)
PROGRAM("cgroup/getpeername4", getpeername4, 1)
PROGRAM("cgroup/getpeername6", getpeername6, 1)
PROGRAM("cgroup/getsockname4", getsockname4, 1)
PROGRAM("cgroup/getsockname6", getsockname6, 1)

PROGRAM("cgroup/sysctl", sysctl, 1)
PROGRAM("cgroup/getsockopt", getsockopt, 1)
PROGRAM("cgroup/setsockopt", setsockopt, 1)
PROGRAM("cgroup/dev", device, 1)
PROGRAM("sockops", sock_ops, 1)

PROGRAM("sk_skb/stream_parser", stream_parser, 0)
PROGRAM("sk_skb/stream_verdict", stream_verdict, 1)
PROGRAM("sk_msg", message, 1)

PROGRAM("socket", filter, 0)
PROGRAM("tc", traffic_control, 0)
PROGRAM("classifier", old_traffic_control, 0)
PROGRAM("action", tc_action, 0)
PROGRAM("xdp", express_path, 2)

/* The part behind the slash names the target; only BTF-based ones have to exist when loading. */
PROGRAM("raw_tp/sched_process_exit", raw_tp, 0)
PROGRAM("raw_tracepoint/sched_process_fork", raw_tracepoint, 0)
PROGRAM("tp_btf/sched_process_fork", tp_btf, 0)
PROGRAM("iter/task", iter_task, 0)
PROGRAM("iter/task_file", iter_task_file, 0)
PROGRAM("iter/tcp", iter_tcp, 0)

LICENSE("Dual MIT/GPL");
