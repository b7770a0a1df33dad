/* Stands between a program and libc (LD_PRELOAD), counts each call that changes a file under STEPS_FOLDER, and lets the
 * program die right after the one that STEPS_CONTROL names, or has that one fail. One line of STEPS_LOG is one call: its
 * name, what it was on (relative to the folder), and for a write its place and the octets at its start.
 *
 * Limits: what is changed through a mapping is not seen (of the spool only its -shm, which lasts no longer than a process);
 * a call is on a file if its descriptor was opened by its path. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

/* Shared with the test: whether calls count, at which one it happens, what happens (0: the end; else an errno), how many were
 * counted. */
struct control { int32_t armed, at, what, count; };

static struct control *control;
static const char *folder;
static int record = -1;
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void)
{
    folder = getenv("STEPS_FOLDER");
    int shared = REAL(open)(getenv("STEPS_CONTROL"), O_RDWR | O_CLOEXEC);
    record = REAL(open)(getenv("STEPS_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (!folder || shared < 0 || record < 0) abort();
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
    if (control == MAP_FAILED) abort();
}

/* What of a path is counted, or nothing. */
static const char *inside(const char *path)
{
    size_t length = strlen(folder);
    if (!control || !control->armed || strncmp(path, folder, length) || path[length] != '/') return NULL;
    path += length + 1;
    return strstr(path, "-shm") || !strcmp(path, "lock") ? NULL : path;
}

static const char *of(int descriptor, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, 4095);
    if (length < 0) return NULL;
    path[length] = 0;
    return inside(path);
}

/* The call is the next step. Whether it is to be made; the lock is held until it was. */
static int enter(void)
{
    pthread_mutex_lock(&order);
    control->count++;
    if (control->count != control->at || !control->what) return 1;
    return 0;
}

static void leave(int made, const char *name, const char *on, long long place, const void *octets, size_t count)
{
    char line[5000];
    int length = snprintf(line, sizeof line, "%s %s %lld ", name, on, place);
    for (size_t i = 0; i < count && i < 8; i++)
        length += snprintf(line + length, sizeof line - length, "%02x", ((const unsigned char *)octets)[i]);
    length += snprintf(line + length, sizeof line - length, " %zu\n", count);
    REAL(write)(record, line, length);
    if (control->count == control->at && !control->what) kill(getpid(), SIGKILL);
    pthread_mutex_unlock(&order);
    if (!made) errno = control->what;
}

#define STEP(type, on, name, call, place, octets, count) \
    do { \
        if (!(on)) return call; \
        int made = enter(); \
        type result = made ? (call) : -1; \
        int why = errno; \
        leave(made, name, on, place, octets, count); \
        if (made) errno = why; \
        return result; \
    } while (0)

ssize_t write(int fd, const void *octets, size_t count)
{
    char path[4096];
    const char *on = of(fd, path);
    STEP(ssize_t, on, "write", REAL(write)(fd, octets, count), -1, octets, count);
}
ssize_t pwrite(int fd, const void *octets, size_t count, off_t place)
{
    char path[4096];
    const char *on = of(fd, path);
    STEP(ssize_t, on, "pwrite", REAL(pwrite)(fd, octets, count, place), place, octets, count);
}
ssize_t pwrite64(int fd, const void *octets, size_t count, off64_t place)
{
    char path[4096];
    const char *on = of(fd, path);
    STEP(ssize_t, on, "pwrite", REAL(pwrite64)(fd, octets, count, place), place, octets, count);
}
ssize_t writev(int fd, const struct iovec *parts, int count)
{
    char path[4096];
    const char *on = of(fd, path);
    STEP(ssize_t, on, "write", REAL(writev)(fd, parts, count), -1, NULL, 0);
}
int fsync(int fd)
{
    char path[4096];
    const char *on = of(fd, path);
    STEP(int, on, "sync", REAL(fsync)(fd), -1, NULL, 0);
}
int fdatasync(int fd)
{
    char path[4096];
    const char *on = of(fd, path);
    STEP(int, on, "sync", REAL(fdatasync)(fd), -1, NULL, 0);
}
int ftruncate(int fd, off_t length)
{
    char path[4096];
    const char *on = of(fd, path);
    STEP(int, on, "truncate", REAL(ftruncate)(fd, length), length, NULL, 0);
}
int ftruncate64(int fd, off64_t length)
{
    char path[4096];
    const char *on = of(fd, path);
    STEP(int, on, "truncate", REAL(ftruncate64)(fd, length), length, NULL, 0);
}
int rename(const char *from, const char *to)
{
    const char *on = inside(to);
    STEP(int, on, "rename", REAL(rename)(from, to), -1, NULL, 0);
}
int unlink(const char *path)
{
    const char *on = inside(path);
    STEP(int, on, "unlink", REAL(unlink)(path), -1, NULL, 0);
}

/* Opening changes something when it makes the file. */
static const char *makes(const char *path, int flags)
{
    const char *on = flags & O_CREAT ? inside(path) : NULL;
    return on && REAL(access)(path, F_OK) ? on : NULL;
}
int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    const char *on = control ? makes(path, flags) : NULL;
    STEP(int, on, "create", REAL(open)(path, flags, mode), -1, NULL, 0);
}
int open64(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    const char *on = control ? makes(path, flags) : NULL;
    STEP(int, on, "create", REAL(open64)(path, flags, mode), -1, NULL, 0);
}
