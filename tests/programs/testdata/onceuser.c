// Preloaded, it answers the first question who the process is with "nobody", so
// that a server that refuses to run as root starts.
#include <sys/syscall.h>
#include <unistd.h>

uid_t geteuid(void)
{
	static int asked;
	return asked++ ? (uid_t)syscall(SYS_geteuid) : 65534;
}
