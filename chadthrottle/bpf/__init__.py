"""A BPF runtime in pure Python: object file → spec → maps, programs, links.

Knows nothing of throttling and imports only `chadthrottle.errors`. Read `spec.py` for the data,
`elf.py` for how a file becomes it, `loader.py` for how it becomes kernel objects, `links.py` for
attaching. `python -m chadthrottle.bpf` is the same from a shell.
"""
