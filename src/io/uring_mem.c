#include "io/uring.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"

/*
 * Registered buffers. The kernel looks up and holds the pages of a region once, and not for each
 * transfer. It may refuse: it is older than 5.19, the locked memory of an ordinary user (8 MiB as a
 * rule) is used up, a region is larger than its 1 GiB. Then transfers go as they always can.
 *
 * Rings take locked memory too, and a loop that cannot be made is worse than transfers that cost
 * more. So where locked memory is limited, the regions of this process take at most half of it.
 *
 * The ring belongs to one thread once it is enabled, and takes registrations of that thread alone;
 * before, of any. What loop.h asks for, calls on the loop's own thread, fits both.
 */

static _Atomic uint64_t regions_bytes; /* of all loops */

/* The limit is not for this process. */
static bool may_lock_all(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0}};

    return syscall(SYS_capget, &header, data) == 0 &&
           (data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK)) != 0;
}

static int bytes_take(uint64_t len)
{
    uint64_t total = atomic_fetch_add_explicit(&regions_bytes, len, memory_order_relaxed) + len;
    struct rlimit limit;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
        total <= limit.rlim_cur / 2 || may_lock_all())
        return 0;
    atomic_fetch_sub_explicit(&regions_bytes, len, memory_order_relaxed);
    return -ENOMEM;
}

static void bytes_give_back(uint64_t len)
{
    atomic_fetch_sub_explicit(&regions_bytes, len, memory_order_relaxed);
}

static void say_once(int err)
{
    static atomic_bool said;

    if (!atomic_exchange_explicit(&said, true, memory_order_relaxed))
        log_info("io",
                 "I/O buffers are not registered with the kernel, so transfers cost a little more "
                 "CPU; a higher limit of locked memory (ulimit -l) may help error=%s",
                 strerrorname_np(-err));
}

static int table_create(struct uring_loop *l)
{
    if (l->has_buffers)
        return 0;
    int err = io_uring_register_buffers_sparse(&l->ring, LOOP_BUFFERS_MAX);
    l->has_buffers = err == 0;
    return err;
}

static int place_set(struct uring_loop *l, uint32_t i, void *base, size_t len)
{
    struct iovec iov = {base, len};
    int r = io_uring_register_buffers_update_tag(&l->ring, i, &iov, NULL, 1);

    return r == 1 ? 0 : r < 0 ? r : -EIO;
}

/* LOOP_BUFFERS_MAX: there is none. */
static uint32_t place_find(const struct uring_loop *l, uintptr_t base)
{
    uint32_t i = 0;

    while (i < LOOP_BUFFERS_MAX && l->regions[i].base != base)
        i++;
    return i;
}

int uring_buffers_register(struct loop *base, void *memory, size_t len)
{
    struct uring_loop *l = uring_loop(base);
    uint32_t i = place_find(l, URING_REGION_EMPTY);

    if (i == LOOP_BUFFERS_MAX)
        return -ENOSPC;
    int err = bytes_take(len);
    if (err == 0) {
        err = table_create(l);
        if (err == 0)
            err = place_set(l, i, memory, len);
        if (err != 0)
            bytes_give_back(len);
    }
    if (err != 0) {
        say_once(err);
        return err;
    }
    l->regions[i] = (struct uring_region){(uintptr_t)memory, len};
    if (l->regions_end <= i)
        l->regions_end = i + 1;
    return 0;
}

/* Whatever the kernel answers, no transfer names the place again: other memory may come to lie
 * where this was. */
int uring_buffers_unregister(struct loop *base, void *memory)
{
    struct uring_loop *l = uring_loop(base);
    uint32_t i = place_find(l, (uintptr_t)memory);

    if (i == LOOP_BUFFERS_MAX)
        return -ENOENT;
    int err = place_set(l, i, NULL, 0);
    if (err == 0)
        bytes_give_back(l->regions[i].len);
    l->regions[i] = (struct uring_region){err == 0 ? URING_REGION_EMPTY : URING_REGION_LOST, 0};
    return err;
}

void uring_buffers_end(struct uring_loop *l)
{
    for (uint32_t i = 0; i < l->regions_end; i++)
        bytes_give_back(l->regions[i].len);
    l->regions_end = 0;
}
