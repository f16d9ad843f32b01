/*
 * A parent and a child that share a pipe with data in it and a connected pair of sockets.
 *
 * Both wait for SIGTERM. Then each looks whether everything is as it was before: the program is its
 * own judge. Exit status of the parent: 0, or the number of the first check that failed; those of
 * the child count from 20.
 *
 * No C library: nothing happens in it that is not written here, and its images stay small.
 * Build: see README.md.
 */

enum {
	NR_READ = 0, NR_WRITE = 1, NR_CLOSE = 3, NR_RT_SIGPROCMASK = 14, NR_GETPID = 39, NR_SOCKETPAIR = 53, NR_FORK = 57,
	NR_KILL = 62, NR_WAIT4 = 61, NR_GETPPID = 110, NR_RT_SIGTIMEDWAIT = 128, NR_PRCTL = 157, NR_PIPE2 = 293,
	NR_EXIT_GROUP = 231,
	SIGTERM = 15, EINTR = 4,
	AF_UNIX = 1, SOCK_STREAM = 1, PR_SET_NAME = 15, O_CLOEXEC = 02000000,
	PIPE_READ = 3, PIPE_WRITE = 4, PARENT_END = 5, CHILD_END = 6,
};

static long call(long nr, long a, long b, long c, long d)
{
	long ret;
	register long r10 __asm__("r10") = d;

	__asm__ volatile("syscall" : "=a"(ret) : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return ret;
}

static unsigned char page[2][4096] __attribute__((aligned(4096)));

static void failed(int check)
{
	call(NR_EXIT_GROUP, check, 0, 0, 0);
}

/* Reads exactly the text that must wait in fd. */
static void expect(int fd, const char *text, long len, int check)
{
	char got[64];
	long n = call(NR_READ, fd, (long)got, sizeof(got), 0);

	if (n != len)
		failed(check);
	for (long i = 0; i < len; i++)
		if (got[i] != text[i])
			failed(check);
}

/* Memory that the parent filled before it forked; the child changed the second page since. */
static void expect_pages(unsigned char first, unsigned char second, int check)
{
	for (int i = 0; i < 4096; i++)
		if (page[0][i] != first || page[1][i] != second)
			failed(check);
}

static void wait_for_sigterm(void)
{
	unsigned long set = 1ul << (SIGTERM - 1);
	long signal;

	do
		signal = call(NR_RT_SIGTIMEDWAIT, (long)&set, 0, 0, sizeof(set));
	while (signal == -EINTR);
}

static void child(long parent)
{
	call(NR_PRCTL, PR_SET_NAME, (long)"pair-child", 0, 0);
	call(NR_CLOSE, PIPE_WRITE, 0, 0, 0);
	call(NR_CLOSE, PARENT_END, 0, 0, 0);
	for (int i = 0; i < 4096; i++)
		page[1][i] = 3;
	call(NR_WRITE, CHILD_END, (long)"from child", 10, 0);

	wait_for_sigterm();
	if (call(NR_GETPPID, 0, 0, 0, 0) != parent)
		failed(20);
	expect_pages(1, 3, 21);
	expect(PIPE_READ, "in the pipe", 11, 22);
	expect(CHILD_END, "from parent", 11, 23);
	call(NR_EXIT_GROUP, 0, 0, 0, 0);
}

__attribute__((used)) static void pair(void)
{
	unsigned long set = 1ul << (SIGTERM - 1);
	int fds[2], status = -1;
	long pid, self = call(NR_GETPID, 0, 0, 0, 0);

	if (call(NR_RT_SIGPROCMASK, 0, (long)&set, 0, sizeof(set)))
		failed(1);
	if (call(NR_PIPE2, (long)fds, O_CLOEXEC, 0, 0) || fds[0] != PIPE_READ || fds[1] != PIPE_WRITE)
		failed(2);
	if (call(NR_SOCKETPAIR, AF_UNIX, SOCK_STREAM, 0, (long)fds) || fds[0] != PARENT_END || fds[1] != CHILD_END)
		failed(3);
	for (int i = 0; i < 4096; i++)
		page[0][i] = 1, page[1][i] = 2;
	if (call(NR_WRITE, PIPE_WRITE, (long)"in the pipe", 11, 0) != 11)
		failed(4);
	if (call(NR_WRITE, PARENT_END, (long)"from parent", 11, 0) != 11)
		failed(5);

	pid = call(NR_FORK, 0, 0, 0, 0);
	if (pid < 0)
		failed(6);
	if (pid == 0)
		child(self);
	call(NR_CLOSE, CHILD_END, 0, 0, 0);

	wait_for_sigterm();
	expect_pages(1, 2, 7);
	expect(PARENT_END, "from child", 10, 8);
	if (call(NR_KILL, pid, SIGTERM, 0, 0))
		failed(9);
	while (call(NR_WAIT4, pid, (long)&status, 0, 0) == -EINTR)
		;
	if (status & 0x7f)
		failed(10);
	failed((status >> 8) & 0xff);
}

/* The kernel enters with the stack aligned; `pair` expects it as after a call. */
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tcall pair\n");
