/* The clock of all that is sent at a steady rate: nanoseconds that never go back. */
#include <errno.h>
#include <stdint.h>
#include <time.h>

static int64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void sleep_until(int64_t instant)
{
	struct timespec time = { instant / 1000000000, instant % 1000000000 };
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
		;
}
