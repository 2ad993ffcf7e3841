// The program in every container of the isolation bench: a server under a steady load, and in one of the containers
// a misbehaving neighbour beside it.
//
//   load STRESS START_NS WARM_MS MEASURE_MS RATE TOLERANCE_MS DATA
//
// STRESS is none, memory, fork, cpu or disk. All containers begin at the same instant, START_NS of CLOCK_MONOTONIC.
// Requests arrive every 1/RATE seconds whether or not the server keeps up (an open loop), so falling behind shows as late
// answers. An answer is good when it is ready within TOLERANCE_MS of the request's arrival. Requests that arrive in the
// first WARM_MS are served and not counted. DATA is a directory on the disk that all containers share.
//
// Prints one line: REQUESTS GOOD P50_US P99_US MAX_US BUSY_US. Without that line the container did not report.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../harness/clock.h"

enum {
	PAGE = 4096,
	WORKING_SET = 256 * 1024,   // bytes a request maps, fills and unmaps
	CONTENT = 4 * 1024 * 1024,  // bytes of the file that requests read from
	ANSWER = 16 * 1024,         // bytes a request reads
	HASH_ROUNDS = 4,            // passes over the working set: about a millisecond of CPU time
	LOG_EVERY = 20,             // one request in so many makes its log entry durable
	BOMB_CHUNK = 16 * 1024 * 1024,
	DISK_PROCESSES = 10,
	DISK_FILE = 16 * 1024 * 1024,
	DISK_BLOCK = 1024 * 1024,
	CPU_PROCESSES = 8,
};

struct plan {
	int64_t start, measure_from, end, interval, tolerance;
	const char *data;
};

static void fail(const char *what)
{
	dprintf(2, "load: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static int open_in(const struct plan *plan, const char *name, int number, int flags)
{
	char path[256];
	snprintf(path, sizeof path, "%s/%s-%d", plan->data, name, number);
	int fd = open(path, flags | O_CLOEXEC, 0600);
	if (fd < 0)
		fail(path);
	return fd;
}

static volatile uint64_t sink;

// CPU, memory, page cache and, now and then, the disk: what a small web server asks of the host.
static void serve_one(int content, int log, int64_t number)
{
	static char answer[ANSWER];
	unsigned char *set = mmap(NULL, WORKING_SET, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (set == MAP_FAILED)
		fail("map a working set");
	uint64_t hash = 1469598103934665603ULL + number;
	for (int round = 0; round < HASH_ROUNDS; round++)
		for (int i = 0; i < WORKING_SET; i++)
			set[i] = hash = (hash ^ set[i]) * 1099511628211ULL;
	sink += hash;
	munmap(set, WORKING_SET);
	if (pread(content, answer, ANSWER, (hash % (CONTENT / ANSWER)) * ANSWER) != ANSWER)
		fail("read the content");
	if (write(log, answer, 128) != 128)
		fail("write the log");
	if (number % LOG_EVERY == 0 && fdatasync(log) != 0)
		fail("sync the log");
}

static int by_value(const void *left, const void *right)
{
	int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
	return (a > b) - (a < b);
}

static void prepare_content(int content)
{
	static char block[DISK_BLOCK];
	memset(block, 'x', sizeof block);
	for (int written = 0; written < CONTENT; written += DISK_BLOCK)
		if (write(content, block, DISK_BLOCK) != DISK_BLOCK)
			fail("write the content");
}

// A server that is late keeps serving until the end and no longer: what is not served by then was not answered.
static void serve(const struct plan *plan)
{
	int content = open_in(plan, "content", 0, O_RDWR | O_CREAT | O_TRUNC);
	int log = open_in(plan, "log", 0, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND);
	prepare_content(content);
	int64_t count = (plan->end - plan->start) / plan->interval, requests = 0, served = 0, good = 0, busy = 0;
	int64_t *took = calloc(count + 1, sizeof *took);
	if (!took)
		fail("allocate the samples");
	memset(took, 0, (count + 1) * sizeof *took);
	for (int64_t i = 0; i < count; i++) {
		int64_t arrival = plan->start + i * plan->interval;
		int counted = arrival >= plan->measure_from;
		requests += counted;
		if (now() > plan->end + plan->tolerance)
			continue;
		sleep_until(arrival);
		int64_t begin = now();
		serve_one(content, log, i);
		int64_t done = now();
		if (!counted)
			continue;
		busy += done - begin;
		good += done - arrival <= plan->tolerance;
		took[served++] = done - arrival;
	}
	qsort(took, served, sizeof *took, by_value);
	int64_t last = served ? served - 1 : 0;
	printf("%lld %lld %lld %lld %lld %lld\n", (long long)requests, (long long)good, (long long)took[last / 2] / 1000,
	       (long long)took[last * 99 / 100] / 1000, (long long)took[last] / 1000, (long long)busy / 1000);
	fflush(stdout);
	_exit(0);
}

static void memory_bomb(void)
{
	for (;;) {
		char *chunk = mmap(NULL, BOMB_CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (chunk == MAP_FAILED)
			continue;
		for (int i = 0; i < BOMB_CHUNK; i += PAGE)
			chunk[i] = 1;
	}
}

static void fork_bomb(void)
{
	for (;;)
		fork();
}

static void burn(void)
{
	double x = 1.5;
	for (uint64_t i = 1;; i++) {
		x = x * 1.0000001 + (double)(i ^ (i >> 7)) / i;
		sink += (uint64_t)x;
	}
}

// Alternates writing and reading, past the page cache where the file system lets it.
static void thrash_disk(const struct plan *plan, int number)
{
	void *block = mmap(NULL, DISK_BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (block == MAP_FAILED)
		fail("map a block");
	memset(block, number, DISK_BLOCK);
	int fd = open_in(plan, "stress", number, O_RDWR | O_CREAT | O_TRUNC);
	fcntl(fd, F_SETFL, O_DIRECT);
	for (;;) {
		for (int at = 0; at < DISK_FILE; at += DISK_BLOCK)
			if (pwrite(fd, block, DISK_BLOCK, at) != DISK_BLOCK)
				fail("write a stress file");
		fdatasync(fd);
		for (int at = 0; at < DISK_FILE; at += DISK_BLOCK)
			if (pread(fd, block, DISK_BLOCK, at) != DISK_BLOCK)
				fail("read a stress file");
	}
}

static void misbehave(const char *stress, const struct plan *plan, int number)
{
	sleep_until(plan->start);
	if (strcmp(stress, "memory") == 0)
		memory_bomb();
	if (strcmp(stress, "fork") == 0)
		fork_bomb();
	if (strcmp(stress, "cpu") == 0)
		burn();
	if (strcmp(stress, "disk") == 0)
		thrash_disk(plan, number);
	_exit(2);
}

static pid_t must_fork(void)
{
	pid_t pid = fork();
	if (pid < 0)
		fail("fork");
	return pid;
}

static pid_t start_stress(const char *stress, const struct plan *plan, int number)
{
	pid_t pid = must_fork();
	if (pid == 0)
		misbehave(stress, plan, number);
	return pid;
}

static int stress_processes(const char *stress)
{
	if (strcmp(stress, "none") == 0)
		return 0;
	if (strcmp(stress, "disk") == 0)
		return DISK_PROCESSES;
	return strcmp(stress, "cpu") == 0 ? CPU_PROCESSES : 1;
}

// Waits for the server. A bomb that the kernel has killed is started again, or the stress would end with its first
// success. When this process ends the kernel ends all others with it, if it is the first of a pid namespace.
static int supervise(const char *stress, const struct plan *plan, pid_t server, pid_t bomb)
{
	for (;;) {
		int status;
		pid_t pid = wait(&status);
		if (pid < 0 && errno == ECHILD)
			return 1;
		if (pid == server)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
		if (pid == bomb && WIFSIGNALED(status) && strcmp(stress, "memory") == 0) {
			pid_t next = fork();
			if (next == 0)
				misbehave(stress, plan, 0);
			bomb = next > 0 ? next : -1;
		}
	}
}

int main(int argc, char **argv)
{
	if (argc != 8) {
		dprintf(2, "usage: load STRESS START_NS WARM_MS MEASURE_MS RATE TOLERANCE_MS DATA\n");
		return 2;
	}
	struct plan plan = { .start = atoll(argv[2]), .interval = 1000000000LL / atoll(argv[5]), .data = argv[7] };
	plan.measure_from = plan.start + atoll(argv[3]) * 1000000;
	plan.end = plan.measure_from + atoll(argv[4]) * 1000000;
	plan.tolerance = atoll(argv[6]) * 1000000;
	pid_t server = must_fork(), bomb = -1;
	if (server == 0)
		serve(&plan);
	for (int i = 0; i < stress_processes(argv[1]); i++)
		bomb = start_stress(argv[1], &plan, i);
	return supervise(argv[1], &plan, server, bomb);
}
