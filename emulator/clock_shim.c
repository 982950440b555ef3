/* Adds an offset and a drift to the wall clock of every process that loads it (/etc/ld.so.preload of an emulated host).
 *
 * Both stand in a file that is mapped at start, so they change while processes run; at zero the C library answers alone.
 * What asks the kernel directly (Go programs, file times, sleeping until an instant of the wall clock) is not reached. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct skew {
    int64_t offset_ns, drift_ppb, since_ns; /* since: CLOCK_MONOTONIC */
};

#define SECOND 1000000000LL
#ifndef CLOCK_FILE
#define CLOCK_FILE "/usr/lib/testbed-emulator/clock"
#endif

static const volatile struct skew *skew;
static int (*library_clock)(clockid_t, struct timespec *);

/* At load, not at the first use: a daemon may have left for a chroot by then. */
__attribute__((constructor)) static void start(void)
{
    int kept = errno;
    library_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int file = open(CLOCK_FILE, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        void *page = mmap(NULL, sizeof(struct skew), PROT_READ, MAP_SHARED, file, 0);
        if (page != MAP_FAILED)
            skew = page;
        close(file);
    }
    errno = kept;
}

static int true_clock(clockid_t clock, struct timespec *now)
{
    if (library_clock)
        return library_clock(clock, now);
    return (int)syscall(SYS_clock_gettime, clock, now); /* called by another library's constructor before ours */
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = true_clock(clock, now);
    if (result || !skew || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return result;
    int64_t shift = skew->offset_ns, drift = skew->drift_ppb;
    if (drift) {
        struct timespec steady;
        true_clock(CLOCK_MONOTONIC, &steady);
        shift += (int64_t)((__int128)(steady.tv_sec * SECOND + steady.tv_nsec - skew->since_ns) * drift / SECOND);
    }
    if (shift) {
        int64_t shown = now->tv_sec * SECOND + now->tv_nsec + shift;
        now->tv_sec = shown / SECOND;
        now->tv_nsec = shown % SECOND;
    }
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    (void)zone;
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *now, int base)
{
    if (base != TIME_UTC)
        return 0;
    clock_gettime(CLOCK_REALTIME, now);
    return base;
}
