// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Storage on a socket: max_entries has to be 0, BPF_F_NO_PREALLOC set and the BTF of key and value given. BPF_F_CLONE
 * hands the value on to accepted sockets. Written where a socket is made, read where its packets pass.
 */
#include "helpers.bpf.h"

struct tag {
	__u64 owner;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct tag);
} tags SEC(".maps");

SEC("cgroup/sock_create")
int tag_socket(struct bpf_sock *sk)
{
	struct tag *tag = bpf_sk_storage_get(&tags, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (tag)
		tag->owner = bpf_get_current_pid_tgid() >> 32;
	return 1;
}

SEC("cgroup_skb/egress")
int find_tag(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct tag *tag;

	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	tag = bpf_sk_storage_get(&tags, sk, NULL, 0);
	if (tag)
		skb->priority = tag->owner;
	return 1;
}

LICENSE("Dual MIT/GPL");
