/*
 * The tiny init of migrate: a static program without a C library, so that it
 * runs in any mount namespace, starts in microseconds and gives CRIU next to
 * nothing to dump. See the package documentation in tinyinit.go for its two
 * modes, "init" and "enter".
 *
 * It waits with rt_sigtimedwait(2) on a blocked signal set: no handlers, no
 * signalfd, no alternate stack. A dump interrupts that call with EINTR and the
 * loop goes round; a signal that arrives meanwhile stays pending and CRIU
 * carries it along.
 */
#include <asm/unistd.h>

#define EINTR 4
#define ENOENT 2
#define EACCES 13
#define ENOTDIR 20
#define ENOEXEC 8

#define SIGHUP 1
#define SIGINT 2
#define SIGQUIT 3
#define SIGUSR1 10
#define SIGUSR2 12
#define SIGTERM 15
#define SIGCHLD 17
#define SIGCONT 18
#define SIGSTOP 19
#define SIGTSTP 20
#define SIGWINCH 28
#define SIG_SETMASK 2

#define WNOHANG 1
#define WUNTRACED 2
#define AT_FDCWD -100
#define O_WRONLY 1
#define O_CLOEXEC 02000000
#define TIOCSCTTY 0x540E
#define TIOCSPGRP 0x5410

#define EXIT_USAGE 2
#define EXIT_EXEC 127

typedef unsigned long sigset; /* the kernel's own: 64 bits */

/* siginfo is the kernel's siginfo_t, of which only two fields are read. */
struct siginfo {
	int signo, errno_, code;
	char rest[128 - 3 * sizeof(int)];
};

#if defined(__x86_64__)
static long syscall5(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long ret;
	__asm__ volatile("syscall" : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return ret;
}
__asm__(".globl _start\n_start:\n"
	"xor %ebp, %ebp\n"
	"mov %rsp, %rdi\n"
	"and $-16, %rsp\n"
	"call start\n"
	"hlt\n");
#elif defined(__aarch64__)
static long syscall5(long nr, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc #0" : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
			 : "memory");
	return x0;
}
__asm__(".globl _start\n_start:\n"
	"mov x29, #0\n"
	"mov x30, #0\n"
	"mov x0, sp\n"
	"bl start\n"
	"brk #0\n");
#else
#error "no system call for this architecture"
#endif

#define SYS(nr, a, b, c, d) syscall5(__NR_##nr, (long)(a), (long)(b), (long)(c), (long)(d), 0)

static __attribute__((noreturn)) void quit(int status)
{
	for (;;)
		SYS(exit_group, status, 0, 0, 0);
}

static long length(const char *s)
{
	long n = 0;
	while (s[n])
		n++;
	return n;
}

static int same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

/* append copies s to *at, never past end. */
static void append(char **at, const char *end, const char *s)
{
	while (*s && *at < end)
		*(*at)++ = *s++;
}

static const char *reason(long err, char *buf)
{
	char digits[12], *out = buf;
	int n = 0;

	switch (err) {
	case ENOENT:
		return "no such file or directory";
	case EACCES:
		return "permission denied";
	case ENOEXEC:
		return "not an executable format";
	}
	append(&out, buf + 6, "errno ");
	do {
		digits[n++] = '0' + err % 10;
	} while ((err /= 10) > 0 && n < 12);
	while (n > 0)
		*out++ = digits[--n];
	*out = 0;
	return buf;
}

/* complain writes one line to stderr in a single write. */
static void complain(const char *what, const char *name, long err)
{
	char line[512], number[24];
	char *at = line, *end = line + sizeof(line) - 1;

	append(&at, end, "migrate: ");
	append(&at, end, what);
	append(&at, end, " ");
	append(&at, end, name);
	if (err) {
		append(&at, end, ": ");
		append(&at, end, reason(err, number));
	}
	*at++ = '\n';
	SYS(write, 2, line, at - line, 0);
}

static int number(const char *s)
{
	int n = 0;

	if (!*s)
		return -1;
	for (; *s; s++) {
		if (*s < '0' || *s > '9' || n > 100000000)
			return -1;
		n = n * 10 + (*s - '0');
	}
	return n;
}

static const char *variable(char **env, const char *prefix)
{
	long n = length(prefix);

	for (; *env; env++) {
		long i = 0;
		while (i < n && (*env)[i] == prefix[i])
			i++;
		if (i == n)
			return *env + n;
	}
	return 0;
}

/* execute runs argv[0], looked up in PATH unless it holds a slash, and returns
 * the error of the last attempt that found something. */
static long execute(char **argv, char **env)
{
	const char *path = variable(env, "PATH="), *s;
	char file[4096];
	long err = ENOENT, e;

	for (s = argv[0]; *s; s++)
		if (*s == '/')
			return -SYS(execve, argv[0], argv, env, 0);
	if (!path)
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	while (*path && *argv[0]) {
		char *at = file, *end = file + sizeof(file) - 1;
		for (; *path && *path != ':'; path++)
			if (at < end)
				*at++ = *path;
		if (*path == ':')
			path++;
		append(&at, end, "/");
		append(&at, end, argv[0]);
		*at = 0;
		e = -SYS(execve, file, argv, env, 0);
		if (e != ENOENT && e != ENOTDIR)
			err = e;
	}
	return err;
}

static int status_of(int wstatus)
{
	int sig = wstatus & 0x7f;
	return sig ? 128 + sig : (wstatus >> 8) & 0xff;
}

/* stopped answers a stop of child. If the shell that started us sees both
 * (shared), we stop too, and its "fg" continues both. Otherwise nobody would
 * ever continue what Ctrl-Z stopped, so it has no effect, as for any program
 * without a shell above it. SIGSTOP is always somebody's intention. */
static void stopped(long child, int sig, int shared)
{
	if (shared)
		SYS(kill, SYS(getpid, 0, 0, 0, 0), SIGSTOP, 0, 0);
	else if (sig == SIGTSTP)
		SYS(kill, -child, SIGCONT, 0, 0);
}

/* reap waits for everything that ended. It returns the exit status of child,
 * or -1 while child runs. */
static int reap(long child, int shared)
{
	int wstatus, result = -1;
	long pid;

	while ((pid = SYS(wait4, -1, &wstatus, WNOHANG | WUNTRACED, 0)) > 0) {
		if (pid != child)
			continue;
		if ((wstatus & 0xff) == 0x7f)
			stopped(child, (wstatus >> 8) & 0xff, shared);
		else
			result = status_of(wstatus);
	}
	return result;
}

static int forwarded(int sig)
{
	switch (sig) {
	case SIGHUP:
	case SIGINT:
	case SIGQUIT:
	case SIGUSR1:
	case SIGUSR2:
	case SIGTERM:
	case SIGCONT:
	case SIGWINCH:
		return 1;
	}
	return 0;
}

/* watch forwards signals to child until it ends, and exits as it did. With
 * shared set, child is in our own process group and gets the terminal's
 * signals itself: only those that a process sent (si_code <= 0) are passed on. */
static __attribute__((noreturn)) void watch(long child, int shared)
{
	sigset all = ~0UL;
	struct siginfo info;
	int status;

	for (;;) {
		long sig = SYS(rt_sigtimedwait, &all, &info, 0, sizeof(all));
		if (sig == SIGCHLD) {
			if ((status = reap(child, shared)) >= 0)
				quit(status);
		} else if (sig > 0 && forwarded(sig) && !(shared && info.code > 0)) {
			SYS(kill, child, sig, 0, 0);
		}
	}
}

/* fork_blocked forks with every signal blocked and stores the mask before. */
static long fork_blocked(sigset *before)
{
	sigset all = ~0UL;

	SYS(rt_sigprocmask, SIG_SETMASK, &all, before, sizeof(all));
	return SYS(clone, SIGCHLD, 0, 0, 0);
}

static __attribute__((noreturn)) void become(char **argv, char **env, sigset *mask)
{
	long err;

	SYS(rt_sigprocmask, SIG_SETMASK, mask, 0, sizeof(*mask));
	err = execute(argv, env);
	complain("executing", argv[0], err);
	quit(EXIT_EXEC);
}

/* mode_init is the init of a PID namespace. The child gets a process group of
 * its own in our session, in the foreground if there is a terminal, so that
 * neither its kill(0, …) nor the terminal's signals meet us. SIGTTOU is
 * blocked here, so taking the foreground from the background cannot stop us. */
static __attribute__((noreturn)) void mode_init(char **argv, char **env)
{
	sigset mask;
	long child = fork_blocked(&mask);

	if (child < 0) {
		complain("forking for", argv[0], -child);
		quit(EXIT_EXEC);
	}
	if (child == 0) {
		int self = SYS(getpid, 0, 0, 0, 0);
		SYS(setpgid, 0, 0, 0, 0);
		SYS(ioctl, 0, TIOCSPGRP, &self, 0);
		become(argv, env, &mask);
	}
	watch(child, 0);
}

/* join puts the caller into the cgroup whose directory is dir. */
static long join(const char *dir)
{
	char file[4096], *at = file, *end = file + sizeof(file) - 1;
	long fd, err;

	append(&at, end, dir);
	append(&at, end, "/cgroup.procs");
	*at = 0;
	fd = SYS(openat, AT_FDCWD, file, O_WRONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return -fd;
	err = SYS(write, fd, "0", 1, 0);
	SYS(close, fd, 0, 0, 0);
	return err < 0 ? -err : 0;
}

static long enter_namespace(const char *arg)
{
	int fd = number(arg);
	long err = SYS(setns, fd, 0, 0, 0);

	SYS(close, fd, 0, 0, 0);
	return -err;
}

/* mode_enter joins cgroups and namespaces in the order given, and runs argv in
 * them as a child: a PID namespace takes effect only for children, and a time
 * namespace only for a caller that has a single thread. */
static __attribute__((noreturn)) void mode_enter(char **arg, char **env)
{
	int session = 0, terminal = 0;
	sigset mask;
	long child, err;

	for (; *arg && !same(*arg, "--"); arg++) {
		if (same(*arg, "--setsid")) {
			session = 1;
			continue;
		}
		if (same(*arg, "--tty")) {
			session = terminal = 1;
			continue;
		}
		if (!arg[1])
			break;
		if (same(*arg, "--cgroup"))
			err = join(arg[1]);
		else if (same(*arg, "--ns"))
			err = enter_namespace(arg[1]);
		else
			break;
		if (err) {
			complain(same(*arg, "--ns") ? "entering namespace of descriptor" : "joining cgroup", arg[1], err);
			quit(EXIT_EXEC);
		}
		arg++;
	}
	if (!*arg || !same(*arg, "--") || !arg[1]) {
		complain("bad argument", *arg ? *arg : "(none)", 0);
		quit(EXIT_USAGE);
	}
	arg++;
	child = fork_blocked(&mask);
	if (child < 0) {
		complain("forking for", arg[0], -child);
		quit(EXIT_EXEC);
	}
	if (child == 0) {
		if (session)
			SYS(setsid, 0, 0, 0, 0);
		if (terminal && (err = -SYS(ioctl, 0, TIOCSCTTY, 0, 0)))
			complain("taking the terminal for", arg[0], err);
		become(arg, env, &mask);
	}
	watch(child, !session);
}

/* start is called with the initial stack: argc, argv, NULL, environment, NULL. */
__attribute__((used, noreturn)) void start(long *stack)
{
	long argc = stack[0];
	char **argv = (char **)(stack + 1), **env = argv + argc + 1;

	if (argc >= 4 && same(argv[1], "init") && same(argv[2], "--"))
		mode_init(argv + 3, env);
	if (argc >= 4 && same(argv[1], "enter"))
		mode_enter(argv + 2, env);
	complain("usage:", "init -- PROGRAM ... | enter [--cgroup DIR] [--ns FD] [--setsid] [--tty] -- PROGRAM ...", 0);
	quit(EXIT_USAGE);
}
