// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * A long wire: what one tun device sends, the other receives, later.
 *
 *     relay FD_A FD_B DELAY_NS [RATE_BYTES_PER_S QUEUE_BYTES]
 *
 * Each direction has a thread and a ring of packets in the order in which they came:
 *
 *     read() ─ [bottleneck: wait for those before, then for its own bytes; or dropped] ─ delay ─ write()
 *
 * A packet is never early; it is late by as long as the thread was not running, which is why it asks for real time.
 * Devices have IFF_VNET_HDR: a GSO buffer crosses in one piece, and is charged as the packets it stands for, each with
 * headers of its own. It leaves the bottleneck whole, when its last byte would; with few bytes of queue, or where that
 * burst matters, turn segmentation offload off and each packet crosses by itself.
 *
 * Ends when its stdin closes, and with it the devices if nobody else holds them: a parent that was killed leaves
 * nothing. Then prints one line for each direction, A to B first:
 *
 *     PACKETS WIRE_BYTES DROPPED LATE_MEAN_NS LATE_MAX_NS      (dropped: packets, a GSO buffer's all)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ULL

/* In flight, each way: 10 Gbit/s for 20 ms is 25 MB. What exceeds it waits in the device's queue. */
#define RING_BYTES (32U << 20)
/* The largest IP packet and its vnet header. */
#define FRAME_MOST (65536 + sizeof(struct virtio_net_hdr))
/* Read this many, then look whether something is due. */
#define BATCH 32

#define UDP_HEADER 8
/* The upper half of this byte is the length of a TCP header, in words. */
#define TCP_DATA_OFFSET 12

/* In the ring before each frame. A record with no bytes says: go on at the start of the ring. */
struct record {
	uint64_t due_ns;
	uint32_t bytes;
	uint32_t packets;
	uint64_t wire_bytes;
};

#define RECORD_MOST ((sizeof(struct record) + FRAME_MOST + 7) & ~(size_t)7)

struct direction {
	/* What is asked for. */
	int from, to;
	uint64_t delay_ns;
	uint64_t rate_bytes_per_s; /* 0: no bottleneck */
	uint64_t queue_bytes;

	unsigned char *ring;
	size_t head, tail; /* the oldest record; where the next one goes */
	size_t records;
	uint64_t bottleneck_free_ns;

	uint64_t packets, wire_bytes, dropped;
	uint64_t failed, frames, late_ns, late_most_ns;
};

static void fail(const char *what)
{
	fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

/*
 * What a frame is on the wire. hdr_len is no help: it says how much of the buffer was in one piece. Offloaded
 * segmentation implies an offloaded checksum, so csum_start is where the transport header begins.
 */
static void wire_size(const unsigned char *frame, size_t bytes, struct record *record)
{
	const struct virtio_net_hdr *hdr = (const void *)frame;
	const unsigned char *transport = frame + sizeof(*hdr) + hdr->csum_start;
	size_t length = bytes - sizeof(*hdr), headers = hdr->csum_start + UDP_HEADER, payload;

	record->packets = 1;
	record->wire_bytes = length;
	if (hdr->gso_type == VIRTIO_NET_HDR_GSO_NONE || !hdr->gso_size || headers + UDP_HEADER > length)
		return;
	switch (hdr->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
	case VIRTIO_NET_HDR_GSO_TCPV6:
		headers = hdr->csum_start + (transport[TCP_DATA_OFFSET] >> 4) * 4;
	}
	if (headers >= length)
		return;
	payload = length - headers;
	record->packets = (payload + hdr->gso_size - 1) / hdr->gso_size;
	record->wire_bytes = payload + record->packets * headers;
}

/* When a packet that came now has crossed; 0 if the bottleneck's queue has no room for it. */
static uint64_t crossing(struct direction *way, uint64_t now, uint64_t wire_bytes)
{
	uint64_t begins = way->bottleneck_free_ns > now ? way->bottleneck_free_ns : now;

	if (!way->rate_bytes_per_s)
		return now + way->delay_ns;
	/* What waits, and what is being sent, is what the time until then carries. */
	if ((double)(begins - now) * way->rate_bytes_per_s / NS_PER_S + wire_bytes > way->queue_bytes)
		return 0;
	way->bottleneck_free_ns = begins + wire_bytes * NS_PER_S / way->rate_bytes_per_s;
	return way->bottleneck_free_ns + way->delay_ns;
}

/* Where the next record may be written, or NULL: as many are on their way as the ring holds. */
static struct record *room(struct direction *way)
{
	if (!way->records)
		way->head = way->tail = 0;
	if (way->tail >= way->head) {
		if (RING_BYTES - way->tail >= RECORD_MOST + sizeof(struct record))
			return (void *)(way->ring + way->tail);
		if (way->head <= RECORD_MOST)
			return NULL;
		((struct record *)(way->ring + way->tail))->bytes = 0;
		way->tail = 0;
	}
	return way->head - way->tail > RECORD_MOST ? (void *)(way->ring + way->tail) : NULL;
}

/* Takes one packet in; false when there is none, or no room. */
static bool take(struct direction *way)
{
	struct record *record = room(way);
	unsigned char *frame = (unsigned char *)(record + 1);
	ssize_t bytes;

	if (!record)
		return false;
	bytes = read(way->from, frame, FRAME_MOST);
	if (bytes < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (bytes < 0)
		fail("reading from a tun device");
	wire_size(frame, bytes, record);
	record->bytes = bytes;
	record->due_ns = crossing(way, now_ns(), record->wire_bytes);
	if (!record->due_ns) {
		way->dropped += record->packets;
		return true;
	}
	way->tail += (sizeof(*record) + bytes + 7) & ~(size_t)7;
	way->records++;
	return true;
}

static struct record *oldest(struct direction *way)
{
	struct record *record = (void *)(way->ring + way->head);

	if (!way->records)
		return NULL;
	if (!record->bytes) {
		way->head = 0;
		record = (void *)way->ring;
	}
	return record;
}

/* Delivers what is due; returns when the next is, or 0 if nothing is on its way. */
static uint64_t deliver(struct direction *way)
{
	struct record *record;
	uint64_t now;

	while ((record = oldest(way))) {
		now = now_ns();
		if (record->due_ns > now)
			return record->due_ns;
		if (write(way->to, record + 1, record->bytes) == (ssize_t)record->bytes) {
			way->packets += record->packets;
			way->wire_bytes += record->wire_bytes;
		} else {
			if (!way->failed++)
				fprintf(stderr, "relay: writing to a tun device: %s\n", strerror(errno));
			way->dropped += record->packets;
		}
		way->frames++;
		way->late_ns += now - record->due_ns;
		if (now - record->due_ns > way->late_most_ns)
			way->late_most_ns = now - record->due_ns;
		way->head += (sizeof(*record) + record->bytes + 7) & ~(size_t)7;
		way->records--;
	}
	return 0;
}

static void *carry(void *argument)
{
	struct direction *way = argument;
	struct sched_param first = { .sched_priority = 1 };

	/* Without the right to real time it works, less exactly. A timer's slack of 50 us is for those who save power. */
	pthread_setschedparam(pthread_self(), SCHED_FIFO, &first);
	prctl(PR_SET_TIMERSLACK, 1UL);
	for (;;) {
		struct pollfd wanted[] = { { .fd = way->from }, { .fd = STDIN_FILENO } };
		uint64_t due = deliver(way), now;
		struct timespec pause = { 0 };
		int taken = 0;

		while (taken < BATCH && take(way))
			taken++;
		if (!due && way->records)
			due = oldest(way)->due_ns;
		wanted[0].events = room(way) ? POLLIN : 0;
		now = now_ns();
		if (taken < BATCH && due > now) {
			pause.tv_sec = (due - now) / NS_PER_S;
			pause.tv_nsec = (due - now) % NS_PER_S;
		}
		if (ppoll(wanted, 2, due || taken == BATCH ? &pause : NULL, NULL) < 0 && errno != EINTR)
			fail("ppoll");
		if (wanted[1].revents)
			return NULL;
	}
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	if (*text < '0' || *text > '9' || *end) {
		fprintf(stderr, "relay: not a number: '%s'\n", text);
		exit(2);
	}
	return value;
}

static void prepare(struct direction *way)
{
	if (fcntl(way->from, F_SETFL, O_NONBLOCK) < 0)
		fail("a tun device's descriptor");
	way->ring = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (way->ring == MAP_FAILED)
		fail("memory for packets");
}

int main(int count, char **words)
{
	struct direction ways[2] = { 0 };
	pthread_t threads[2];
	int i;

	if (count != 4 && count != 6) {
		fprintf(stderr, "usage: relay FD_A FD_B DELAY_NS [RATE_BYTES_PER_S QUEUE_BYTES]\n");
		return 2;
	}
	for (i = 0; i < 2; i++) {
		ways[i].from = number(words[1 + i]);
		ways[i].to = number(words[2 - i]);
		ways[i].delay_ns = number(words[3]);
		ways[i].rate_bytes_per_s = count == 6 ? number(words[4]) : 0;
		ways[i].queue_bytes = count == 6 ? number(words[5]) : 0;
		prepare(&ways[i]);
	}
	for (i = 0; i < 2; i++) {
		errno = pthread_create(&threads[i], NULL, carry, &ways[i]);
		if (errno)
			fail("a thread");
	}
	for (i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", ways[i].packets,
		       ways[i].wire_bytes, ways[i].dropped, ways[i].frames ? ways[i].late_ns / ways[i].frames : 0,
		       ways[i].late_most_ns);
	}
	return 0;
}
