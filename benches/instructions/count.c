// Counts the user instructions of a program and of everything it starts, by stepping through them.
//
// For hosts that hide the CPU's own counter (most VMs). Simulators are no help here: they know neither
// clone3 nor a program that starts again from a memory file. A repeated string instruction counts once.
//
//   count FILE PROGRAM [ARG...]     writes the count to FILE; the exit status is the program's
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_TRACEES = 4096, FAILED = 125 };

// Where each traced thread stood after its last step.
static struct { pid_t pid; unsigned long at; } tracees[MOST_TRACEES];
static int tracee_count;

static void fail(const char *what)
{
	fprintf(stderr, "count: %s: %s\n", what, strerror(errno));
	exit(FAILED);
}

static int find(pid_t pid)
{
	for (int i = 0; i < tracee_count; i++)
		if (tracees[i].pid == pid)
			return i;
	return -1;
}

static void forget(pid_t pid)
{
	int i = find(pid);
	if (i >= 0)
		tracees[i] = tracees[--tracee_count];
}

static int learn(pid_t pid)
{
	if (tracee_count == MOST_TRACEES) {
		errno = E2BIG;
		fail("follow one more thread");
	}
	tracees[tracee_count].pid = pid;
	tracees[tracee_count].at = 0;
	return tracee_count++;
}

static pid_t start(char **argv)
{
	pid_t pid = fork();
	if (pid < 0)
		fail("fork");
	if (pid == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
			fail("be traced");
		raise(SIGSTOP);
		execv(argv[0], argv);
		fail(argv[0]);
	}
	int status;
	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		fail("wait for the program");
	long options = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
	if (ptrace(PTRACE_SETOPTIONS, pid, NULL, options) != 0)
		fail("set the options of the trace");
	learn(pid);
	if (ptrace(PTRACE_SINGLESTEP, pid, NULL, 0) != 0)
		fail("step");
	return pid;
}

// One stop of a thread: whether it was a step, and the signal that it must get when it goes on.
static int was_step(pid_t pid, int status, long *signal)
{
	int i = find(pid), number = WSTOPSIG(status);
	*signal = 0;
	if (i < 0) {
		learn(pid); // its first stop is the kernel's own SIGSTOP for a thread that is traced from birth
		return 0;
	}
	if (status >> 16)
		return 0;
	if (number != SIGTRAP) {
		*signal = number;
		return 0;
	}
	unsigned long at = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), NULL);
	int moved = at != tracees[i].at;
	tracees[i].at = at;
	return moved;
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: count FILE PROGRAM [ARG...]\n");
		return FAILED;
	}
	unsigned long long count = 0;
	int status, result = FAILED;
	pid_t first = start(argv + 2), pid;
	while ((pid = waitpid(-1, &status, __WALL)) > 0) {
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			forget(pid);
			if (pid == first)
				result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			continue;
		}
		long signal;
		count += was_step(pid, status, &signal);
		if (ptrace(PTRACE_SINGLESTEP, pid, NULL, signal) != 0 && errno != ESRCH)
			fail("step");
	}
	FILE *out = fopen(argv[1], "w");
	if (!out || fprintf(out, "%llu\n", count) < 0 || fclose(out) != 0)
		fail(argv[1]);
	return result;
}
