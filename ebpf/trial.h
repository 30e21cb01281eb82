// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * What trial.bpf.c and its reader in Python share. Fixed widths and no padding: the layout is the same for both.
 */
#ifndef CHADTHROTTLE_TRIAL_H
#define CHADTHROTTLE_TRIAL_H

/* Indices of trial_socket's counters. */
enum trial_direction {
	TRIAL_EGRESS = 0,
	TRIAL_INGRESS = 1,
	TRIAL_DIRECTIONS = 2,
};

/* The size of the packets that are dropped, IP header and all: no other of our sockets' has it. */
#define TRIAL_DROPPED_BYTES 777

/* Values of the map "sockets", by socket cookie: what one of our sockets sent and received. */
struct trial_socket {
	__u64 packets[TRIAL_DIRECTIONS]; /* all that came by, dropped ones too */
	__u64 dropped[TRIAL_DIRECTIONS];
};

#endif
