// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Fixed-width types under the kernel's names.
 *
 * Everything in ebpf/ is built with -nostdinc: no kernel, libc or libbpf header takes part, so an object depends on
 * this directory and on clang alone, and is the same bytes wherever it is built.
 */
#ifndef CHADTHROTTLE_TYPES_BPF_H
#define CHADTHROTTLE_TYPES_BPF_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef signed int __s32;
typedef unsigned long long __u64;
typedef signed long long __s64;

/* Keywords from C23 on, which is what later clangs speak by default. */
#if __STDC_VERSION__ < 202311L
typedef _Bool bool;
#define true 1
#define false 0
#endif

#define NULL ((void *)0)

#endif
