// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * What throttle.bpf.c and Python share. Fixed widths, no padding but the named one: the layout is the same for both.
 *
 *   processes  tgid            -> throttle_process     who is limited; kept exact by fork and exit
 *   tags       socket          -> throttle_tag         whose a socket is
 *   rules      rule id         -> throttle_rule        what is asked: nothing is limited before it is made or after it goes
 *   meters     rule id         -> throttle_meter       what happened, and how far ahead of its rate a rule is
 *   holders    tgid            -> throttle_holder      processes whose end is the end of a rule
 *   claim      0               -> rule id              for which rule a walk over open files tags sockets
 *   placement  0               -> cgroup id            where the hooks sit; for Python alone
 *              1               -> 1: legacy            attached by BPF_PROG_ATTACH, not by links
 *   queues     device          -> throttle_queue       what is done to a network device; for Python alone
 *
 * Rule ids are never used twice while the machine runs, so what an ended rule left on a socket means nothing.
 */
#ifndef CHADTHROTTLE_THROTTLE_H
#define CHADTHROTTLE_THROTTLE_H

/* Changed whenever something below changes; part of the pins' directory name. */
#define THROTTLE_ABI_VERSION 6

/* Index into the arrays below. */
enum throttle_direction {
	THROTTLE_UP = 0,   /* egress */
	THROTTLE_DOWN = 1, /* ingress */
	THROTTLE_DIRECTIONS = 2,
};

/* Which peers a rule is about; scope.bpf.h says what is local. */
enum throttle_scope {
	THROTTLE_ALL = 0,
	THROTTLE_INTERNET = 1,
	THROTTLE_LOCAL = 2,
};

#define THROTTLE_MAX_RULES 16384
#define THROTTLE_MAX_QUEUES 4094
#define THROTTLE_MAX_DEVICES 4096
#define THROTTLE_MAX_PROCESSES 65536
#define THROTTLE_NAME_BYTES 16

/* Key: tgid in the initial PID namespace. */
struct throttle_process {
	__u64 rule;
	__u64 start_ticks; /* field 22 of /proc/PID/stat: a process of the same number but another start is another */
	__u32 inherit;     /* children belong to the rule too */
	__u32 padding;
};

/* Context of the program set_membership. */
struct throttle_membership {
	__u64 rule; /* 0: leaves the rule it is in */
	__u64 start_ticks;
	__u32 tgid;
	__u32 inherit;
};

/* Context of the program set_share. */
struct throttle_sharing {
	__u64 rule;
	__u64 share;      /* for throttle_meter.share */
	__u64 settled_ns; /* for throttle_meter.settled_ns */
};

/* Key: tgid in the initial PID namespace. A limit that lasts as long as a command runs (--foreground) has one. */
struct throttle_holder {
	__u64 rule;
	__u64 start_ticks;
};

/* throttle_tag.known */
#define THROTTLE_KNOWS_SENT 1
#define THROTTLE_KNOWS_RECEIVED 2

struct throttle_tag {
	__u64 rule;
	__u32 refused;        /* segments refused in a row while nothing was in flight */
	__u32 our_pacing;     /* SO_MAX_PACING_RATE as we set it; 0: we did not */
	__u32 own_pacing;     /* what the application had set, or "no limit": goes back when the rule ends */
	__u32 our_callback;   /* 1: we asked for the RTT callback, and take that back too */
	__u32 our_window;     /* the clamp of the congestion window as we set it, in segments; 0: we did not */
	__u32 known;          /* which of the next two are */
	__u32 sent_again;     /* segments that TCP had retransmitted when we last looked */
	__u32 received_until; /* sequence number behind the furthest byte that arrived */
	__u32 past_queue;     /* packets sent since one was seen on its way into the queue */
	__u32 told_ms;        /* CLOCK_BOOTTIME when its sender was last told to slow down, by a loss or a mark */
};

/* What a walk over open files writes for each socket that belongs to the rule in "claim". */
struct throttle_socket {
	__u32 tgid;
	__u32 tid; /* of the thread that has it open: the main thread may have ended */
	__u32 fd;
	__u32 namespace; /* inode of the network namespace it is in, whichever its process is in */
};

struct throttle_rate {
	__u64 bytes_per_s; /* 0: not limited */
	__u64 burst_ns;    /* how far ahead of the rate the rule may be */
};

struct throttle_rule {
	struct throttle_rate rate[THROTTLE_DIRECTIONS];
	__u64 expires_ns; /* CLOCK_BOOTTIME; 0: never */
	__u64 armed_ns;   /* CLOCK_BOOTTIME; before it uploads are paced and counted already, and nothing is dropped */
	__u32 scope;      /* enum throttle_scope */
	__u32 queue;      /* number of its classes in the queues; 0: it has none */
	__u32 queued;     /* 1 << enum throttle_direction: held by a queue, where there is one on a packet's way */
	__u32 why;        /* enum throttle_why: what keeps `auto` from queueing */
};

/*
 * A rule's classes in a queue's HTB, whose handle is THROTTLE_QUEUE_MAJOR: nobody's by chance, and skb->priority says by
 * it that a packet is, or has been, in the queue. The minor is throttle_rule.queue * THROTTLE_QUEUE_CLASSES plus one of
 * these. Uploads leave with it through the user's own qdisc, some of which take the last four bits as a priority
 * (include/uapi/linux/pkt_sched.h): TC_PRIO_BESTEFFORT, TC_PRIO_INTERACTIVE_BULK and TC_PRIO_INTERACTIVE.
 */
#define THROTTLE_QUEUE_MAJOR 0xc7ad
#define THROTTLE_QUEUE_CLASSES 16
enum throttle_class {
	THROTTLE_CLASS_UP_TCP = 0,
	THROTTLE_CLASS_UP_OTHER = 4, /* not TCP: a flood of it leaves TCP its part */
	THROTTLE_CLASS_UP_FIRST = 6, /* ACKs, DNS and the like: they do not wait behind the others */
	THROTTLE_CLASS_DOWN_TCP = 8,
	THROTTLE_CLASS_DOWN_OTHER = 12,
	THROTTLE_CLASS_DOWN_FIRST = 14,
	/* These hold no packets: what TCP and the others together may use, and what all may. */
	THROTTLE_CLASS_UP_REST = 5,
	THROTTLE_CLASS_UP_WHOLE = 7,
	THROTTLE_CLASS_DOWN_REST = 13,
	THROTTLE_CLASS_DOWN_WHOLE = 15,
};

/* throttle_rule.why */
enum throttle_why {
	THROTTLE_WHY_ASKED = 0, /* nothing: it is queued, or the bucket was asked for */
	THROTTLE_WHY_KERNEL = 1,
	THROTTLE_WHY_PERMISSION = 2,
	THROTTLE_WHY_ROOM = 3, /* THROTTLE_MAX_QUEUES rules are queued already */
	THROTTLE_WHY_UNFINISHED = 4, /* the command that made the rule is at it, or was killed */
	THROTTLE_WHY_SLOW = 5, /* a queue would hold its packets for too long */
};

/* Key of "queues": a network device. */
struct throttle_device {
	__u32 namespace; /* inode of its network namespace */
	__u32 ifindex;
};

/* What was done to the device, recorded before it is done. */
struct throttle_queue {
	__u32 is_queue;   /* it is the IFB, which we made */
	__u32 by_link;    /* its ingress has a tcx link, pinned below links/ */
	__u32 by_filter;  /* its clsact has our filters: 1 << enum throttle_direction */
	__u32 own_clsact; /* which we made */
	__u32 segment;    /* of an IFB: the longest packet that its classes take, with link header */
	__u32 padding;
};

struct throttle_count {
	__u64 passed_packets;
	__u64 passed_bytes; /* IP bytes on the wire, every GSO segment's headers included; link-level ones if queued */
	__u64 queued_packets; /* of those passed, through a queue */
	__u64 queued_bytes;
	__u64 policed_bytes;  /* of those passed, past the queue that was to hold them */
	__u64 told_packets;   /* how many had passed when a sender was last told to slow down; see queued.bpf.h */
	__u64 dropped_packets;
	__u64 dropped_bytes;
	__u64 marked_packets; /* passed over the limit with a CE mark */
	__u64 retransmitted_packets; /* TCP segments sent again; arriving ones begin before what was seen already */
	__u64 window_ns;      /* CLOCK_BOOTTIME when the running measurement began */
	__u64 window_bytes;   /* passed since */
	__u64 bytes_per_s;    /* what the measurement before it found */
};

struct throttle_meter {
	__u64 ahead_until[THROTTLE_DIRECTIONS]; /* see police.bpf.h; 1/256 ns since base_ns */
	struct throttle_count count[THROTTLE_DIRECTIONS];
	__u64 share;       /* bytes/s that one sending TCP socket may take; see pace.bpf.h */
	__u64 epoch_ns;    /* CLOCK_BOOTTIME when the running epoch began */
	__u64 epoch_bytes; /* offered in it */
	__u64 sending;     /* connections with something to send when the rule was made */
	__u64 base_ns;     /* CLOCK_BOOTTIME when the rule was made */
	__u64 settled_ns;  /* CLOCK_BOOTTIME until when large windows shrink before they are paced; see pace.bpf.h */
	__u64 leader_start_ticks;
	__u32 leader; /* the process the rule was made for; it may have ended since */
	__u32 padding;
	char name[THROTTLE_NAME_BYTES]; /* its comm then */
	__u64 processes;
	__u64 other_until[THROTTLE_DIRECTIONS]; /* as ahead_until, for what is not TCP, at half of the limit */
	__u64 tcp_ns[THROTTLE_DIRECTIONS];      /* CLOCK_BOOTTIME when TCP last offered data */
	__u64 untracked; /* children that found no room in "processes" and are not limited */
};

#endif
