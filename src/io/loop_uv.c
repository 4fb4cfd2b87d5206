#include "io/uv_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/pool.h"

/*
 * One turn of the loop, in run():
 *
 *   messages, timers, results that are known, a bounded number of tasks, and then one turn of
 * libuv, which sleeps, if nothing is left to do, until a socket is ready, a thread of the pool is
 * done, the next timer, or a message.
 *
 * libuv's own timers count milliseconds and stop in suspend; so it watches a timerfd.
 *
 * Threads. A libuv loop belongs to no thread: whoever has joined the loop's thread may end it. Only
 * the pool is at work for it then, and for that the end waits: no result is lost, and no buffer is
 * written to afterwards.
 */

static void poll_clear(int fd)
{
    uint64_t count;

    check(read(fd, &count, sizeof(count)) == sizeof(count) || errno == EAGAIN);
}

static void on_wake(uv_poll_t *poll, int status, int events)
{
    struct luv_loop *l = container_of(poll, struct luv_loop, wake);

    check(status == 0 && events == UV_READABLE);
    poll_clear(l->os.wake_fd);
}

static void on_timer(uv_poll_t *poll, int status, int events)
{
    struct luv_loop *l = container_of(poll, struct luv_loop, timer);

    check(status == 0 && events == UV_READABLE);
    l->timer_at = UINT64_MAX;
    poll_clear(l->timer_fd);
}

static void timer_set(struct luv_loop *l)
{
    uint64_t next = loop_timers_next(&l->os.base);
    struct itimerspec spec = {0};

    if (next == l->timer_at)
        return;
    l->timer_at = next;
    if (next != UINT64_MAX) {
        uint64_t at = next > 0 ? next : 1; /* nothing would turn it off */
        spec.it_value.tv_sec = (time_t)(at / NS_PER_S);
        spec.it_value.tv_nsec = (long)(at % NS_PER_S);
    }
    check(timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL) == 0);
}

static void loop_turn(struct luv_loop *l)
{
    os_turn(&l->os);
    luv_works_submit(l);
    if (os_may_sleep(&l->os)) {
        timer_set(l);
        uv_run(&l->uv, UV_RUN_ONCE);
    } else {
        uv_run(&l->uv, UV_RUN_NOWAIT);
    }
}

static void luv_run(struct loop *base)
{
    struct luv_loop *l = luv_loop(base);

    while (!l->os.is_stopping)
        loop_turn(l);
    l->os.is_stopping = false;
    luv_works_drain(l);
}

/* ---- Life ---- */

static void luv_halt(struct loop *base)
{
    struct luv_loop *l = luv_loop(base);

    os_inbox_halt(&l->os);
    luv_works_drain(l);
    list_for_each (pos, &l->os.listeners)
        luv_watch_close(&container_of(pos, struct os_listener, link)->watch);
    list_for_each (pos, &l->os.conns)
        luv_watch_close(&container_of(pos, struct os_conn, link)->watch);
    uv_close((uv_handle_t *)&l->wake, NULL);
    uv_close((uv_handle_t *)&l->timer, NULL);
    uv_run(&l->uv, UV_RUN_DEFAULT);
    check(uv_loop_close(&l->uv) == 0);
    close(l->timer_fd);
    os_loop_close(&l->os);
}

static void luv_destroy(struct loop *base)
{
    struct luv_loop *l = luv_loop(base);

    os_loop_deinit(&l->os);
    free(l->works);
    free(l);
}

static const struct loop_backend luv_backend = {
    .name = "uv",
    OS_BACKEND,
    .run = luv_run,
    .halt = luv_halt,
    .destroy = luv_destroy,
    .file_info = os_file_info,
    .readv = luv_readv,
    .writev = luv_writev,
    .discard = luv_discard,
    .flush = luv_flush,
    .listener_close = luv_listener_close,
    .accept = luv_accept,
    .connect = luv_connect,
    .recv = luv_recv,
    .send = luv_send,
    .conn_close = luv_conn_close,
    .conn_move = luv_conn_move,
};

/* The two descriptors that are always watched. */
static int watch_start(struct luv_loop *l, uv_poll_t *poll, int fd, uv_poll_cb on_event)
{
    int err = uv_poll_init(&l->uv, poll, fd);

    return err != 0 ? err : uv_poll_start(poll, UV_READABLE, on_event);
}

static int watches_start(struct luv_loop *l)
{
    int err = watch_start(l, &l->wake, l->os.wake_fd, on_wake);

    if (err != 0)
        return err;
    err = watch_start(l, &l->timer, l->timer_fd, on_timer);
    if (err != 0)
        uv_close((uv_handle_t *)&l->wake, NULL);
    return err;
}

static int uv_start(struct luv_loop *l)
{
    l->timer_at = UINT64_MAX;
    l->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (l->timer_fd < 0)
        return -errno;
    int err = uv_loop_init(&l->uv);
    if (err == 0) {
        err = watches_start(l);
        if (err == 0)
            return 0;
        uv_run(&l->uv, UV_RUN_DEFAULT);
        check(uv_loop_close(&l->uv) == 0);
    }
    close(l->timer_fd);
    return err;
}

int loop_uv_create(struct loop **out, uint32_t entries)
{
    check(entries >= 1 && entries <= 4096);

    struct luv_loop *l = mem_zalloc(sizeof(*l));
    *out = NULL;
    luv_pool_configure();
    int err = os_loop_init(&l->os, &luv_backend);
    if (err == 0 && (err = uv_start(l)) != 0) {
        loop_base_kill(&l->os.base);
        os_loop_deinit(&l->os);
    }
    if (err != 0) {
        free(l);
        return err;
    }
    luv_works_init(l, entries);
    *out = &l->os.base;
    return 0;
}
