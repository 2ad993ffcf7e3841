// The floor: the kernel's part of a container made from runc's default spec, and nothing else.
//
// No config is parsed, no state is kept, no capability, limit or filter is set: what remains is the work that every
// runtime must ask of the kernel (namespaces, mounts, device nodes, masks, pivot_root, execve, wait). A runtime's
// distance from this program is the runtime's own cost.
//
//   floor run ROOTFS PROGRAM [ARG...]               make the container, run the program, wait
//   floor run-cgroups NAME ROOTFS PROGRAM [ARG...]  the same, in a cgroup NAME of every v1 hierarchy, removed after
//   floor exec PID PROGRAM [ARG...]                 join the namespaces of PID and run the program there
//
// Exit status: the program's; 125 when a step failed, with the step and the reason on stderr.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FAILED = 125 };

#define NAMESPACES (CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWCGROUP)
#define NOSUID_NOEXEC_NODEV (MS_NOSUID | MS_NOEXEC | MS_NODEV)

// The v1 hierarchies of the host, read once by the parent before anything is timed by the kernel's work.
static char hierarchies[16][32];
static int hierarchy_count;

static void fail(const char *step, const char *object)
{
	dprintf(2, "floor: %s %s: %s\n", step, object, strerror(errno));
	_exit(FAILED);
}

static void must_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
	if (mount(source, target, type, flags, data) != 0)
		fail("mount", target);
}

// One line of /proc/self/cgroup is "ID:CONTROLLERS:PATH"; the directory is named after the controllers, or after the
// name of a hierarchy without any. The v2 line has neither and is left out, as runc leaves it out of a hybrid tree.
static void read_hierarchies(void)
{
	char text[4096];
	int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (size < 0)
		fail("read", "/proc/self/cgroup");
	close(fd);
	text[size] = 0;
	for (char *line = text, *next; *line && hierarchy_count < 16; line = next) {
		char *end = strchr(line, '\n');
		next = end ? end + 1 : line + strlen(line);
		char *name = strchr(line, ':') + 1;
		char *colon = strchr(name, ':');
		*colon = 0;
		if (strncmp(name, "name=", 5) == 0)
			name += 5;
		if (*name && (size_t)(colon - name) < sizeof hierarchies[0])
			strcpy(hierarchies[hierarchy_count++], name);
	}
}

static void mount_cgroups(void)
{
	char path[64], data[64];
	if (hierarchy_count == 0) {
		must_mount("cgroup", "sys/fs/cgroup", "cgroup2", NOSUID_NOEXEC_NODEV | MS_RDONLY, NULL);
		return;
	}
	must_mount("tmpfs", "sys/fs/cgroup", "tmpfs", NOSUID_NOEXEC_NODEV, "mode=755");
	for (int i = 0; i < hierarchy_count; i++) {
		const char *name = hierarchies[i];
		int named = strcmp(name, "systemd") == 0;
		snprintf(path, sizeof path, "sys/fs/cgroup/%.31s", name);
		snprintf(data, sizeof data, "%s%.31s", named ? "none,name=" : "", name);
		if (mkdir(path, 0755) != 0)
			fail("mkdir", path);
		must_mount("cgroup", path, "cgroup", NOSUID_NOEXEC_NODEV | MS_RDONLY, data);
	}
}

static void make_devices(void)
{
	static const struct { const char *path; int major, minor; } nodes[] = {
		{ "dev/null", 1, 3 }, { "dev/zero", 1, 5 }, { "dev/full", 1, 7 },
		{ "dev/random", 1, 8 }, { "dev/urandom", 1, 9 }, { "dev/tty", 5, 0 },
	};
	static const char *const links[][2] = {
		{ "/proc/self/fd", "dev/fd" }, { "/proc/self/fd/0", "dev/stdin" }, { "/proc/self/fd/1", "dev/stdout" },
		{ "/proc/self/fd/2", "dev/stderr" }, { "pts/ptmx", "dev/ptmx" },
	};
	for (size_t i = 0; i < sizeof nodes / sizeof nodes[0]; i++)
		if (mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)) != 0)
			fail("mknod", nodes[i].path);
	for (size_t i = 0; i < sizeof links / sizeof links[0]; i++)
		if (symlink(links[i][0], links[i][1]) != 0)
			fail("symlink", links[i][1]);
}

static void mount_all(void)
{
	static const char *const dev[] = { "dev/pts", "dev/shm", "dev/mqueue" };
	must_mount("proc", "proc", "proc", 0, NULL);
	must_mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
	for (size_t i = 0; i < sizeof dev / sizeof dev[0]; i++)
		if (mkdir(dev[i], 0755) != 0)
			fail("mkdir", dev[i]);
	must_mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
	must_mount("shm", "dev/shm", "tmpfs", NOSUID_NOEXEC_NODEV, "mode=1777,size=65536k");
	must_mount("mqueue", "dev/mqueue", "mqueue", NOSUID_NOEXEC_NODEV, NULL);
	must_mount("sysfs", "sys", "sysfs", NOSUID_NOEXEC_NODEV | MS_RDONLY, NULL);
	mount_cgroups();
	make_devices();
}

static void hide_paths(void)
{
	static const char *const masked[] = {
		"proc/acpi", "proc/asound", "proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list",
		"proc/timer_stats", "proc/sched_debug", "sys/firmware", "proc/scsi",
	};
	static const char *const read_only[] = { "proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger" };
	for (size_t i = 0; i < sizeof read_only / sizeof read_only[0]; i++) {
		if (mount(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL) != 0) {
			if (errno == ENOENT)
				continue;
			fail("bind", read_only[i]);
		}
		must_mount(NULL, read_only[i], NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL);
	}
	for (size_t i = 0; i < sizeof masked / sizeof masked[0]; i++) {
		if (mount("dev/null", masked[i], NULL, MS_BIND, NULL) == 0 || errno == ENOENT)
			continue;
		if (errno != ENOTDIR)
			fail("mask", masked[i]);
		must_mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, NULL);
	}
}

// Pivots over itself: the old root ends up on top of the new one and is detached, so no directory for it is needed.
static void enter_root(void)
{
	if (syscall(SYS_pivot_root, ".", ".") != 0)
		fail("pivot_root to", ".");
	if (umount2(".", MNT_DETACH) != 0)
		fail("detach", "the old root");
	must_mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL);
	if (sethostname("floor", 5) != 0)
		fail("set", "the hostname");
}

static void write_file(const char *path, const char *text, size_t size)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, size) != (ssize_t)size)
		fail("write", path);
	close(fd);
}

// A new cpuset is empty and takes no process until it has the parent's CPUs and memory nodes.
static void copy_cpuset(const char *name, const char *file)
{
	char path[160], text[256];
	snprintf(path, sizeof path, "/sys/fs/cgroup/cpuset/%s", file);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text);
	if (size < 0)
		fail("read", path);
	close(fd);
	snprintf(path, sizeof path, "/sys/fs/cgroup/cpuset/%s/%s", name, file);
	write_file(path, text, size);
}

// `tasks` moves one thread and so takes the cheap path of the kernel; the default spec's device rules are its own
// deny-all followed by the nodes that every container may use.
static void join_cgroups(const char *name)
{
	static const char *const allowed[] = {
		"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:8 rwm", "c 1:7 rwm", "c 5:0 rwm", "c 1:5 rwm", "c 1:9 rwm",
		"c 136:* rwm", "c 5:2 rwm",
	};
	char path[160];
	for (int i = 0; i < hierarchy_count; i++) {
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s", hierarchies[i], name);
		if (mkdir(path, 0755) != 0)
			fail("mkdir", path);
		if (strcmp(hierarchies[i], "cpuset") == 0) {
			copy_cpuset(name, "cpuset.cpus");
			copy_cpuset(name, "cpuset.mems");
		}
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s/tasks", hierarchies[i], name);
		write_file(path, "0", 1);
	}
	snprintf(path, sizeof path, "/sys/fs/cgroup/devices/%s/devices.deny", name);
	write_file(path, "a", 1);
	snprintf(path, sizeof path, "/sys/fs/cgroup/devices/%s/devices.allow", name);
	for (size_t i = 0; i < sizeof allowed / sizeof allowed[0]; i++)
		write_file(path, allowed[i], strlen(allowed[i]));
}

static void remove_cgroups(const char *name)
{
	char path[160];
	for (int i = 0; i < hierarchy_count; i++) {
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s", hierarchies[i], name);
		if (rmdir(path) != 0)
			fail("rmdir", path);
	}
}

static void become_container(const char *cgroup, const char *rootfs, char **program)
{
	static char *environment[] = {
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", NULL,
	};
	if (cgroup) {
		// v1 cgroups are joined before the cgroup namespace is made, or its root would be the parent's cgroup.
		join_cgroups(cgroup);
		if (unshare(CLONE_NEWCGROUP) != 0)
			fail("unshare", "the cgroup namespace");
	}
	umask(0);
	must_mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	must_mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL);
	if (chdir(rootfs) != 0)
		fail("enter", rootfs);
	mount_all();
	hide_paths();
	enter_root();
	execve(program[0], program, environment);
	fail("execute", program[0]);
}

static pid_t spawn(unsigned long flags)
{
	struct clone_args args = { .flags = flags, .exit_signal = SIGCHLD };
	pid_t pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid < 0)
		fail("clone3", "the container");
	return pid;
}

static int wait_for(pid_t pid)
{
	int status;
	if (waitpid(pid, &status, 0) != pid)
		fail("wait for", "the container");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int run(const char *cgroup, const char *rootfs, char **program)
{
	read_hierarchies();
	pid_t pid = spawn(cgroup ? NAMESPACES & ~CLONE_NEWCGROUP : NAMESPACES);
	if (pid == 0)
		become_container(cgroup, rootfs, program);
	int status = wait_for(pid);
	if (cgroup)
		remove_cgroups(cgroup);
	return status;
}

static int exec(const char *target, char **program)
{
	int pidfd = syscall(SYS_pidfd_open, atoi(target), 0);
	if (pidfd < 0)
		fail("open process", target);
	if (setns(pidfd, NAMESPACES) != 0)
		fail("join the namespaces of", target);
	pid_t pid = spawn(0);
	if (pid == 0) {
		execv(program[0], program);
		fail("execute", program[0]);
	}
	return wait_for(pid);
}

int main(int argc, char **argv)
{
	if (argc >= 4 && strcmp(argv[1], "run") == 0)
		return run(NULL, argv[2], argv + 3);
	if (argc >= 5 && strcmp(argv[1], "run-cgroups") == 0)
		return run(argv[2], argv[3], argv + 4);
	if (argc >= 4 && strcmp(argv[1], "exec") == 0)
		return exec(argv[2], argv + 3);
	dprintf(2, "usage: floor run ROOTFS PROGRAM... | run-cgroups NAME ROOTFS PROGRAM... | exec PID PROGRAM...\n");
	return FAILED;
}
