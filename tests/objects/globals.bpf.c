// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Global variables: each section (.rodata, .data, .bss, any .rodata.NAME and .data.NAME, the strings' own) becomes an
 * array map of one value, .rodata* read-only and frozen. A tag says nothing of offsets within them, so what
 * the programs return under BPF_PROG_TEST_RUN has to be right; it is written beside each.
 */
#include "helpers.bpf.h"

enum mode { MODE_OFF = 0, MODE_ON = 7 };

struct point {
	__u32 x;
	__u8 tag;
	__u64 y;
};

/* Knobs: set by the loader before load, constants to the verifier from then on. */
const volatile __u8 knob_u8 = 1;
const volatile __u16 knob_u16 = 2;
const volatile __u32 knob_u32 = 3;
const volatile __u64 knob_u64 = 0x100000000ULL;
const volatile __s32 knob_s32 = -5;
const volatile bool knob_bool = true;
const volatile enum mode knob_mode = MODE_ON;
const volatile char knob_name[16] = "default";
const volatile __u16 knob_list[4] = {10, 20, 30, 40};
const volatile struct point knob_point = {.x = 100, .tag = 5, .y = 1000};

/* .data, global and static (a static's symbol is local, and its BTF variable static). */
__u32 data_global = 11;
static volatile __u64 data_static = 12;
struct point data_point = {.x = 13, .tag = 14, .y = 15};
volatile __u8 data_bytes[3] = {1, 2, 3};

/* .bss */
__u64 calls;
static volatile __u32 bss_static;
struct point bss_points[2];

/* Sections of one's own. The alignment leaves a hole in front of the second. */
__u32 own_small SEC(".data.own") = 21;
__u64 own_aligned SEC(".data.own") __attribute__((aligned(64))) = 22;
const volatile __u32 own_constant SEC(".rodata.own") = 23;

/* 1 + 2 + 3 - 5 + 1 + 7 + 'd' (100) + 40 + 5 + 1000 = 1154, and knob_u64 is as it should be: + 10000 */
SEC("tc")
int sum_rodata(struct __sk_buff *skb)
{
	(void)skb;
	return knob_u8 + knob_u16 + knob_u32 + knob_s32 + knob_bool + knob_mode + knob_name[0] + knob_list[3] +
	       knob_point.tag + knob_point.y + (knob_u64 == 0x100000000ULL) * 10000;
}

/* 11 + 12 + 14 + 15 + 3 + 21 + 22 + 23 = 121; counts itself, 1 more each time: 122 at first */
SEC("tc")
int sum_data(struct __sk_buff *skb)
{
	(void)skb;
	calls++;
	bss_points[1].y = calls;
	return data_global + data_static + data_point.tag + data_point.y + data_bytes[2] + own_small + own_aligned +
	       own_constant + calls;
}

/* Sees what sum_data left: calls * 3, plus 1 each time this one ran: 4 after one call of each */
SEC("tc")
int sum_bss(struct __sk_buff *skb)
{
	(void)skb;
	bss_static++;
	return calls + bss_points[1].y * 2 + bss_static;
}

/* Two literals in .rodata.str1.1: the helper takes them only from a frozen map. 6 + 4 = 10, the NULs included */
SEC("tc")
int print(struct __sk_buff *skb)
{
	__u64 arguments[] = {12345};
	char text[16];
	long first, second;

	(void)skb;
	first = bpf_snprintf(text, sizeof(text), "%d", arguments, sizeof(arguments));
	second = bpf_snprintf(text, sizeof(text), "abc", NULL, 0);
	return first + second;
}

LICENSE("Dual MIT/GPL");
