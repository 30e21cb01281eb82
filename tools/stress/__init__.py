"""Limits under stress: many processes and sockets, rules that come and go, and books that must balance in the end.

surroundings.py   two namespaces, a veth that counts wire packets, a cgroup, a bpffs
programs.py       the processes that are limited, and the one they talk to
commands.py       two processes that set, change and end limits at once
audit.py          what must hold between any two looks at the meters; pure
run.py            the minute itself, then the closing of the books
"""
