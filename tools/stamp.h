/* SPDX-License-Identifier: MIT */
/*
 * Put in front of every BPF source by build_ebpf.py: writes CHADTHROTTLE_STAMP, a string literal, into a section that
 * loaders skip. Assembly, because a C variable would appear in the object's BTF and symbols; not allocated, because
 * nothing at run time reads it.
 */
__asm__(".pushsection .chadthrottle,\"\",@progbits\n"
	"	.ascii \"" CHADTHROTTLE_STAMP "\"\n"
	"	.popsection");
