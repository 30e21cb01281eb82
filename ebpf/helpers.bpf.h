// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * How a program speaks to its loader (sections, map definitions, externs) and to the kernel (helper calls).
 */
#ifndef CHADTHROTTLE_HELPERS_BPF_H
#define CHADTHROTTLE_HELPERS_BPF_H

#include "types.bpf.h"
#include "uapi.bpf.h"

/* Names the section; "used" keeps what nothing in this file refers to. */
#define SEC(name) __attribute__((section(name), used))

#define LICENSE(text) const char LICENSE[] SEC("license") = text

#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define __weak __attribute__((weak))
/* A global function that the kernel shall verify as a static one, in the context of each caller. */
#define __hidden __attribute__((visibility("hidden")))
/* Externs that the loader resolves: kernel functions and symbols, and the kernel's configuration. */
#define __ksym __attribute__((section(".ksyms")))
#define __kconfig __attribute__((section(".kconfig")))

/*
 * A map is a struct in section ".maps" whose values are never looked at: its members' BTF types are the definition.
 * A number is the length of an array behind a pointer, a type is what a pointer points to.
 */
#define __uint(name, value) int (*name)[value]
#define __type(name, type) __typeof__(type) *name
#define __array(name, type) __typeof__(type) *name[]
/* The value of "pinning" that asks for a pin under the map's name. */
#define LIBBPF_PIN_BY_NAME 1

/* The kernel's own, of which a program only has pointers until it declares their fields. */
struct file;
struct socket;
struct task_struct;
struct mptcp_sock;
struct seq_file;
struct tcp_sock;

/* A helper is called by its number in the uapi; the kernel replaces that by the function's address. */
#define BPF_HELPER(number, result, name, ...) static result (*const name)(__VA_ARGS__) = (void *)(number)

BPF_HELPER(1, void *, bpf_map_lookup_elem, void *map, const void *key);
BPF_HELPER(2, long, bpf_map_update_elem, void *map, const void *key, const void *value, __u64 flags);
BPF_HELPER(3, long, bpf_map_delete_elem, void *map, const void *key);
BPF_HELPER(12, long, bpf_tail_call, void *context, void *programs, __u32 index);
BPF_HELPER(13, long, bpf_clone_redirect, struct __sk_buff *skb, __u32 ifindex, __u64 flags);
BPF_HELPER(14, __u64, bpf_get_current_pid_tgid, void);
BPF_HELPER(23, long, bpf_redirect, __u32 ifindex, __u64 flags);
BPF_HELPER(26, long, bpf_skb_load_bytes, const void *skb, __u32 offset, void *to, __u32 len);
BPF_HELPER(43, long, bpf_skb_change_head, struct __sk_buff *skb, __u32 len, __u64 flags);
BPF_HELPER(46, __u64, bpf_get_socket_cookie, void *context);
BPF_HELPER(49, long, bpf_setsockopt, void *socket, int level, int name, void *value, int size);
BPF_HELPER(57, long, bpf_getsockopt, void *socket, int level, int name, void *value, int size);
BPF_HELPER(59, long, bpf_sock_ops_cb_flags_set, struct bpf_sock_ops *context, int flags);
BPF_HELPER(68, long, bpf_skb_load_bytes_relative, const void *skb, __u32 offset, void *to, __u32 len, __u32 start);
BPF_HELPER(84, struct bpf_sock *, bpf_sk_lookup_tcp, void *context, const void *tuple, __u32 size, __u64 netns,
	   __u64 flags);
BPF_HELPER(85, struct bpf_sock *, bpf_sk_lookup_udp, void *context, const void *tuple, __u32 size, __u64 netns,
	   __u64 flags);
BPF_HELPER(86, long, bpf_sk_release, void *sk);
BPF_HELPER(93, long, bpf_spin_lock, struct bpf_spin_lock *lock);
BPF_HELPER(94, long, bpf_spin_unlock, struct bpf_spin_lock *lock);
BPF_HELPER(95, struct bpf_sock *, bpf_sk_fullsock, struct bpf_sock *sk);
BPF_HELPER(96, struct bpf_tcp_sock *, bpf_tcp_sock, struct bpf_sock *sk);
BPF_HELPER(97, long, bpf_skb_ecn_set_ce, struct __sk_buff *skb);
BPF_HELPER(107, void *, bpf_sk_storage_get, void *map, void *sk, void *initial, __u64 flags);
BPF_HELPER(113, long, bpf_probe_read_kernel, void *to, __u32 size, const void *from);
BPF_HELPER(118, __u64, bpf_jiffies64, void);
BPF_HELPER(125, __u64, bpf_ktime_get_boot_ns, void);
BPF_HELPER(127, long, bpf_seq_write, struct seq_file *out, const void *data, __u32 size);
BPF_HELPER(137, struct tcp_sock *, bpf_skc_to_tcp_sock, void *sk);
BPF_HELPER(154, void *, bpf_this_cpu_ptr, const void *percpu);
BPF_HELPER(158, struct task_struct *, bpf_get_current_task_btf, void);
BPF_HELPER(162, struct socket *, bpf_sock_from_file, struct file *file);
BPF_HELPER(163, long, bpf_check_mtu, void *context, __u32 ifindex, __u32 *mtu, __s32 difference, __u64 flags);
BPF_HELPER(164, long, bpf_for_each_map_elem, void *map, void *callback, void *context, __u64 flags);
BPF_HELPER(165, long, bpf_snprintf, char *text, __u32 size, const char *format, const __u64 *arguments,
	   __u32 arguments_size);
BPF_HELPER(169, long, bpf_timer_init, struct bpf_timer *timer, void *map, __u64 clock);
BPF_HELPER(170, long, bpf_timer_set_callback, struct bpf_timer *timer, void *callback);
BPF_HELPER(171, long, bpf_timer_start, struct bpf_timer *timer, __u64 nanoseconds, __u64 flags);
BPF_HELPER(181, long, bpf_loop, __u32 count, void *callback, void *context, __u64 flags);
BPF_HELPER(196, struct mptcp_sock *, bpf_skc_to_mptcp_sock, void *sk);

#endif
