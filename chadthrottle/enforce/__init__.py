"""The means by which a limit holds: the hooks in the kernel, and walking what is there already."""
