// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * What traffic.bpf.c and its reader in Python share. Fixed widths and no padding: the layout is the same for both.
 */
#ifndef CHADTHROTTLE_TRAFFIC_H
#define CHADTHROTTLE_TRAFFIC_H

/* Keys of the map "traffic". */
enum traffic_direction {
	TRAFFIC_EGRESS = 0,
	TRAFFIC_INGRESS = 1,
	TRAFFIC_DIRECTIONS = 2,
};

/* Its values, one for each CPU: add them up. */
struct traffic_count {
	__u64 packets;    /* as on the wire: a GSO buffer counts as its segments */
	__u64 ip_bytes;   /* IP header and what follows it, a GSO buffer's headers once */
	__u64 wire_bytes; /* the same with every GSO segment's own headers */
	__u64 errors;     /* GSO buffers that were not understood: counted as one packet */
};

#endif
