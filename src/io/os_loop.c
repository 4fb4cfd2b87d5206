#include "io/os.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/*
 * Sleeping. The inbox is a stack that other threads push on with compare-and-swap. The loop goes to
 * sleep by swapping an empty inbox for INBOX_ASLEEP; whoever pushes onto that mark, and only he,
 * writes to the eventfd that the loop is watching. So a busy loop costs its senders no system call.
 */
#define INBOX_ASLEEP ((struct loop_msg *)(uintptr_t)1)
#define INBOX_HALTED ((struct loop_msg *)(uintptr_t)2)

enum { TASKS_PER_TURN = 256 };

/* ---- Messages ---- */

/* Nobody will run it, and its owner may free it at any time: it is not kept. A connection on its
 * way here is ours. */
static void post_to_halted(struct os_loop *l, struct loop_msg *msg)
{
    if (!os_conn_is_moved(msg))
        return;
    msg->next = atomic_load_explicit(&l->moved_late, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&l->moved_late, &msg->next, msg,
                                                  memory_order_acq_rel, memory_order_relaxed))
        ;
}

void os_post(struct loop *base, struct loop_msg *msg)
{
    struct os_loop *l = os_loop(base);
    struct loop_msg *old = atomic_load_explicit(&l->inbox, memory_order_relaxed);

    do {
        if (old == INBOX_HALTED) {
            post_to_halted(l, msg);
            return;
        }
        msg->next = old == INBOX_ASLEEP ? NULL : old;
    } while (!atomic_compare_exchange_weak_explicit(&l->inbox, &old, msg, memory_order_acq_rel,
                                                    memory_order_relaxed));
    if (old == INBOX_ASLEEP) {
        uint64_t one = 1;
        check(write(l->wake_fd, &one, sizeof(one)) == sizeof(one));
    }
}

/* The messages, oldest first; `instead` takes their place. */
static struct loop_msg *inbox_take(struct os_loop *l, struct loop_msg *instead)
{
    struct loop_msg *msg = atomic_load_explicit(&l->inbox, memory_order_relaxed);
    struct loop_msg *in_order = NULL;

    if (msg == instead)
        return NULL;
    msg = atomic_exchange_explicit(&l->inbox, instead, memory_order_acq_rel);
    while (msg != NULL && msg != INBOX_ASLEEP) {
        struct loop_msg *next = msg->next;
        msg->next = in_order;
        in_order = msg;
        msg = next;
    }
    return in_order;
}

static void inbox_run(struct os_loop *l)
{
    struct loop_msg *msg = inbox_take(l, NULL);

    while (msg != NULL) {
        struct loop_msg *next = msg->next;
        msg->run(msg);
        msg = next;
    }
}

/* Whoever posts from here on writes to wake_fd. False: there are messages. */
static bool inbox_sleep(struct os_loop *l)
{
    struct loop_msg *expected = NULL;
    return atomic_compare_exchange_strong_explicit(&l->inbox, &expected, INBOX_ASLEEP,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

void os_inbox_halt(struct os_loop *l)
{
    for (struct loop_msg *msg = inbox_take(l, INBOX_HALTED); msg != NULL;) {
        struct loop_msg *next = msg->next;
        if (os_conn_is_moved(msg))
            os_conn_take_moved(msg);
        msg = next;
    }
}

static void stop_run(struct loop_msg *msg)
{
    struct os_loop *l = container_of(msg, struct os_loop, stop_msg);

    atomic_store_explicit(&l->stop_posted, false, memory_order_release);
    l->is_stopping = true;
}

void os_stop(struct loop *base)
{
    struct os_loop *l = os_loop(base);

    if (!atomic_exchange_explicit(&l->stop_posted, true, memory_order_acq_rel))
        os_post(base, &l->stop_msg);
}

/* ---- The turn ---- */

void os_finish(struct os_loop *l, struct loop_op *op, int64_t result)
{
    op->result = result;
    list_push(&l->finished, &op->link);
    l->finished_count++;
}

/* As many as there were: one that is started again and fails at once must not hold up the loop. */
static void deliver(struct os_loop *l)
{
    for (uint32_t left = l->finished_count; left > 0; left--) {
        struct loop_op *op = container_of(list_pop(&l->finished), struct loop_op, link);
        l->finished_count--;
        op->done(op);
    }
}

static void tasks_run(struct os_loop *l)
{
    for (int i = 0; i < TASKS_PER_TURN; i++) {
        if (!runq_run_one(&l->base.runq))
            return;
    }
}

void os_turn(struct os_loop *l)
{
    inbox_run(l);
    if (l->base.timers.count > 0)
        loop_timers_fire(&l->base, os_now(&l->base));
    deliver(l);
    tasks_run(l);
}

bool os_may_sleep(struct os_loop *l)
{
    bool is_idle = list_empty(&l->base.runq.ready) && list_empty(&l->finished);

    return is_idle && !l->is_stopping && inbox_sleep(l);
}

/* The loop's own thread is running when this is called: it looks before it sleeps. */
void os_woken(struct loop *base)
{
    (void)base;
}

/* ---- Clocks, randomness ---- */

uint64_t os_now(struct loop *base)
{
    struct timespec ts;

    (void)base;
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t os_wall_ms(struct loop *base)
{
    struct timespec ts;

    (void)base;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void os_random(struct loop *base, void *buf, size_t len)
{
    char *p = buf;

    (void)base;
    while (len > 0) {
        ssize_t got = getrandom(p, len, 0);
        check(got > 0 || errno == EINTR);
        if (got > 0) {
            p += got;
            len -= (size_t)got;
        }
    }
}

/* ---- Life ---- */

int os_loop_init(struct os_loop *l, const struct loop_backend *backend)
{
    l->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (l->wake_fd < 0)
        return -errno;
    loop_base_init(&l->base, backend);
    list_init(&l->finished);
    list_init(&l->files);
    list_init(&l->listeners);
    list_init(&l->conns);
    l->stop_msg.run = stop_run;
    return 0;
}

/* Handles stay, closed, for owners that still hold them. */
void os_loop_close(struct os_loop *l)
{
    list_for_each (pos, &l->listeners) {
        struct os_listener *s = container_of(pos, struct os_listener, link);
        os_socket_end(s->fd);
        if (s->path != NULL && !s->is_closing)
            unlink(s->path);
        s->fd = -1;
    }
    list_for_each (pos, &l->conns) {
        struct os_conn *c = container_of(pos, struct os_conn, link);
        os_socket_end(c->fd);
        c->fd = -1;
    }
    list_for_each (pos, &l->files) {
        struct os_file *f = container_of(pos, struct os_file, link);
        f->size = os_file_size(&f->base);
        close(f->fd);
        f->fd = -1;
    }
}

void os_loop_deinit(struct os_loop *l)
{
    struct loop_msg *late = atomic_load_explicit(&l->moved_late, memory_order_acquire);
    struct list *pos;

    while (late != NULL) {
        struct loop_msg *next = late->next;
        os_conn_end_moved(late);
        late = next;
    }
    while ((pos = list_pop(&l->listeners)) != NULL)
        os_listener_free(container_of(pos, struct os_listener, link));
    while ((pos = list_pop(&l->conns)) != NULL)
        os_conn_free(container_of(pos, struct os_conn, link));
    while ((pos = list_pop(&l->files)) != NULL)
        free(container_of(pos, struct os_file, link));
    loop_base_deinit(&l->base);
    close(l->wake_fd);
}
