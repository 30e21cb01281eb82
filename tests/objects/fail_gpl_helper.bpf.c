// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Must be refused by the verifier: calls a GPL-only helper under another licence.
 * Expected: "cannot call GPL-restricted function from non-GPL compatible program".
 */
#include "helpers.bpf.h"

SEC("raw_tp/sched_process_exit")
int read_kernel(__u64 *arguments)
{
	__u64 value;

	return bpf_probe_read_kernel(&value, sizeof(value), (const void *)arguments[0]);
}

LICENSE("Proprietary");
