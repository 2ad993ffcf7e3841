// The programs of the isolation bench's network rows.
//
//   packets serve PORT                                      answers each request, UDP, with ANSWERS datagrams
//   packets ask ADDRESS PORT RATE SECONDS TOLERANCE_MS      asks at a steady rate; prints REQUESTS GOOD
//   packets flood ADDRESS PORT MBIT                         4 processes send datagrams of 60,000 bytes; MBIT 0 is as fast as it goes
//   packets sink PORT                                       4 processes take what is sent to them
//
// Requests go out every 1/RATE seconds whether or not answers come (an open loop); an answer is good when all its datagrams are there
// within TOLERANCE_MS of the request's time.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../harness/clock.h"

enum { ANSWERS = 4, ANSWER = 1200, DATAGRAM = 60000, FLOODERS = 4, MOST = 100000 };

static struct sockaddr_in place(const char *address, const char *port)
{
	struct sockaddr_in place = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	if (inet_pton(AF_INET, address, &place.sin_addr) != 1) {
		fprintf(stderr, "packets: %s is no address\n", address);
		exit(2);
	}
	return place;
}

static int open_udp(const struct sockaddr_in *bound)
{
	int one = 1, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
	if (fd < 0 || (bound && bind(fd, (const struct sockaddr *)bound, sizeof *bound))) {
		perror("packets: socket");
		exit(2);
	}
	return fd;
}

static _Noreturn void serve(const char *port)
{
	struct sockaddr_in here = place("0.0.0.0", port), from;
	int fd = open_udp(&here);
	static char buffer[ANSWER];
	for (;;) {
		socklen_t size = sizeof from;
		if (recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &size) < 4)
			continue;
		for (int i = 0; i < ANSWERS; i++)
			sendto(fd, buffer, ANSWER, 0, (struct sockaddr *)&from, size);
	}
}

static int ask(char **arg)
{
	struct sockaddr_in there = place(arg[0], arg[1]);
	int fd = open_udp(NULL);
	int64_t interval = 1000000000LL / atoi(arg[2]), tolerance = atoi(arg[4]) * 1000000LL, start = now() + interval;
	uint32_t count = atoi(arg[2]) * atoi(arg[3]), sent = 0, good = 0;
	static uint8_t pieces[MOST];
	static char buffer[2048];
	if (count > MOST || connect(fd, (struct sockaddr *)&there, sizeof there))
		return 2;
	while (now() < start + count * interval + tolerance) {
		while (sent < count && now() >= start + sent * interval) {
			memset(buffer, 0, 64);
			memcpy(buffer, &sent, sizeof sent);
			send(fd, buffer, 64, 0);
			sent++;
		}
		int64_t next = sent < count ? start + sent * interval : start + count * interval + tolerance;
		int64_t left = next - now();
		struct timespec wait = { 0, left > 0 ? left % 1000000000 : 0 };
		struct pollfd watched = { .fd = fd, .events = POLLIN };
		if (ppoll(&watched, 1, &wait, NULL) <= 0)
			continue;
		uint32_t number;
		while (recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) >= 4) {
			memcpy(&number, buffer, sizeof number);
			if (number < count && now() <= start + number * interval + tolerance && ++pieces[number] == ANSWERS)
				good++;
		}
	}
	printf("%u %u\n", count, good);
	return 0;
}

static _Noreturn void flood(char **arg)
{
	struct sockaddr_in there = place(arg[0], arg[1]);
	int64_t each = atoi(arg[2]) ? FLOODERS * DATAGRAM * 8 * 1000LL / atoi(arg[2]) : 0;
	for (int i = 1; i < FLOODERS && fork() > 0; i++)
		;
	int fd = open_udp(NULL);
	static char buffer[DATAGRAM];
	for (int64_t next = now();; next += each) {
		if (each)
			sleep_until(next);
		// A full queue (ENOBUFS) is what a flood makes.
		sendto(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&there, sizeof there);
	}
}

static _Noreturn void sink(const char *port)
{
	struct sockaddr_in here = place("0.0.0.0", port);
	for (int i = 1; i < FLOODERS && fork() > 0; i++)
		;
	int fd = open_udp(&here);
	static char buffer[65536];
	for (;;)
		recv(fd, buffer, sizeof buffer, 0);
}

int main(int count, char **arg)
{
	if (count == 3 && !strcmp(arg[1], "serve"))
		serve(arg[2]);
	if (count == 7 && !strcmp(arg[1], "ask"))
		return ask(arg + 2);
	if (count == 5 && !strcmp(arg[1], "flood"))
		flood(arg + 2);
	if (count == 3 && !strcmp(arg[1], "sink"))
		sink(arg[2]);
	fprintf(stderr, "packets: see the head of packets.c\n");
	return 2;
}
