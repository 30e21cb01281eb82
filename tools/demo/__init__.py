"""Shows on a transfer of its own what chadthrottle does: limits a program that is running.

    client, in a cgroup of its own ── veth ── server        each in a network namespace of its own
            │
    chadthrottle throttle CLIENT --at THAT-CGROUP           the real command, pins in a private bpffs

    show.py         what happens, in its order, and what is said
    surroundings.py the cgroup; the mount namespace with the bpffs
    peers.py        the two processes and the veth
    traffic.py      what they do

Nothing of this machine is touched but a new cgroup below the cgroup2 root. All the rest ends with this
process however that ends: the limit, because its pins lie in a bpffs that only this process's mount namespace
has; client and server, because the kernel kills them with their parent; their namespaces and the veth with
them. A cgroup has no such owner: what a killed run left, the next one removes.
"""
