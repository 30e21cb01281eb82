// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * The kernel's configuration: externs in ".kconfig" become a read-only map, filled from uname (LINUX_KERNEL_VERSION)
 * and /proc/config.gz or /boot/config-*. A weak one that is not set is 0.
 */
#include "helpers.bpf.h"

/* How a loader writes y, n and m; a bool takes y and n, a char the letter, and anything wider a number. */
enum libbpf_tristate { TRI_NO = 0, TRI_YES = 1, TRI_MODULE = 2 };

extern __u32 LINUX_KERNEL_VERSION __kconfig;
extern __u64 CONFIG_HZ __kconfig;
extern bool CONFIG_BPF __kconfig;
extern enum libbpf_tristate CONFIG_NET __kconfig;
extern char CONFIG_DEFAULT_HOSTNAME[16] __kconfig __weak;
extern __u32 CONFIG_NO_SUCH_OPTION __kconfig __weak;

/* 1 + 2 + 4 + 8 = 15 */
SEC("tc")
int facts(struct __sk_buff *skb)
{
	int result = 0;

	(void)skb;
	if (LINUX_KERNEL_VERSION >= (5 << 16 | 7 << 8))
		result += 1;
	if (CONFIG_HZ >= 100 && CONFIG_HZ <= 1000)
		result += 2;
	if (CONFIG_BPF && CONFIG_NET == TRI_YES)
		result += 4;
	if (!CONFIG_NO_SUCH_OPTION)
		result += 8;
	return result;
}

/* CONFIG_DEFAULT_HOSTNAME's first character, 0 where it is not set. */
SEC("tc")
int hostname(struct __sk_buff *skb)
{
	(void)skb;
	return CONFIG_DEFAULT_HOSTNAME[0];
}

LICENSE("Dual MIT/GPL");
