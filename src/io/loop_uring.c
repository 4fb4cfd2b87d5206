#include "io/uring.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/pool.h"

/*
 * One turn of the loop, in run():
 *
 *   messages, timers, results that are known, up to TASKS_PER_TURN tasks, and then one system call
 *   that hands over all entries prepared meanwhile and, if nothing is left to do, sleeps until a
 *   completion, the next timer, or a message.
 *
 * Sleeping. The inbox is a stack that other threads push on with compare-and-swap. The loop goes to
 * sleep by swapping an empty inbox for INBOX_ASLEEP; whoever pushes onto that mark, and only he,
 * writes to the eventfd that the ring is reading. So a busy loop costs its senders no system call.
 *
 * Threads. Where the kernel can, the ring belongs to one thread (SINGLE_ISSUER, DEFER_TASKRUN: its
 * completions are run in batches, when we ask). It is created disabled and enabled by the first
 * loop_run(), so that it may be created, and ops started, on another thread before. After
 * loop_run() returned any thread may have to halt it: therefore no file I/O is left in the kernel
 * when run() returns.
 */
enum { TASKS_PER_TURN = 256, REAP_BATCH = 64 };

#define INBOX_ASLEEP ((struct loop_msg *)(uintptr_t)1)
#define INBOX_HALTED ((struct loop_msg *)(uintptr_t)2)

/* user_data of entries that belong to no op */
enum { ENTRY_IGNORED = 0, ENTRY_WAKE = 1 };

/* ---- Operations ---- */

void uring_state_set_iov(struct uring_state *s, const struct iovec *iov, int iov_count)
{
    s->iov = iov;
    s->iov_count = (uint32_t)iov_count;
    s->iov_at = 0;
    s->skip = 0;
    s->total = 0;
    s->moved = 0;
    for (int i = 0; i < iov_count; i++)
        s->total += iov[i].iov_len;
}

bool uring_advance(struct uring_state *s, uint64_t len)
{
    check(len <= s->total - s->moved);

    s->moved += len;
    s->skip += len;
    while (s->iov_at < s->iov_count && s->skip >= s->iov[s->iov_at].iov_len) {
        s->skip -= s->iov[s->iov_at].iov_len;
        s->iov_at++;
    }
    return s->moved == s->total;
}

static void op_submit(struct uring_loop *l, struct loop_op *op)
{
    struct uring_state *s = uring_state(op);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);

    check(sqe != NULL);
    if (uring_kind_is_file(s->kind)) {
        uring_file_prepare(sqe, s);
        l->file_ops_inflight++;
    } else {
        uring_net_prepare(sqe, &l->msgs[sqe - l->ring.sq.sqes], s);
    }
    io_uring_sqe_set_data(sqe, op);
    list_push(&l->inflight, &op->link);
}

static bool ring_has_room(struct uring_loop *l)
{
    return io_uring_sq_space_left(&l->ring) > 0;
}

void uring_start(struct uring_loop *l, struct loop_op *op)
{
    bool is_file = uring_kind_is_file(uring_state(op)->kind);
    struct list *waiting = is_file ? &l->waiting_file : &l->waiting_net;

    if (!list_empty(waiting) || !ring_has_room(l) ||
        (is_file && l->file_ops_inflight >= l->file_ops_max))
        list_push(waiting, &op->link);
    else
        op_submit(l, op);
}

void uring_resume(struct uring_loop *l, struct loop_op *op)
{
    bool is_file = uring_kind_is_file(uring_state(op)->kind);

    list_push_front(is_file ? &l->waiting_file : &l->waiting_net, &op->link);
}

void uring_finish(struct uring_loop *l, struct loop_op *op, int64_t result)
{
    op->result = result;
    list_push(&l->finished, &op->link);
    l->finished_count++;
}

/* Errors of the call itself are moments of shortage: what could not be handed over stays queued and
 * goes with a later turn. */
static void ring_entered(int res)
{
    check(res >= 0 || res == -EINTR || res == -ETIME || res == -EAGAIN || res == -EBUSY);
}

/* For the loop's own few entries, which cannot wait in a list. The loop's thread is running. */
static struct io_uring_sqe *entry_get(struct uring_loop *l)
{
    while (!ring_has_room(l))
        ring_entered(io_uring_submit(&l->ring));
    return io_uring_get_sqe(&l->ring);
}

/* Waiting ops take the free entries, in order; a full queue is handed over at once. */
static void ops_submit_waiting(struct uring_loop *l, struct list *waiting)
{
    while (!list_empty(waiting)) {
        struct loop_op *op = container_of(waiting->next, struct loop_op, link);
        struct uring_state *s = uring_state(op);

        if (uring_kind_is_file(s->kind) && l->file_ops_inflight >= l->file_ops_max)
            return;
        if (!ring_has_room(l)) {
            ring_entered(io_uring_submit(&l->ring));
            if (!ring_has_room(l))
                return;
        }
        list_remove(&op->link);
        if (!uring_kind_is_file(s->kind) && uring_net_is_closing(s))
            uring_net_complete(l, op, -ECANCELED);
        else
            op_submit(l, op);
    }
}

static void op_complete(struct uring_loop *l, struct loop_op *op, int res)
{
    list_remove(&op->link);
    if (uring_kind_is_file(uring_state(op)->kind)) {
        l->file_ops_inflight--;
        uring_file_complete(l, op, res);
    } else {
        uring_net_complete(l, op, res);
    }
}

/* As many as there were: one that is started again and fails at once must not hold up the loop. */
static void ops_deliver(struct uring_loop *l)
{
    for (uint32_t left = l->finished_count; left > 0; left--) {
        struct loop_op *op = container_of(list_pop(&l->finished), struct loop_op, link);
        l->finished_count--;
        op->done(op);
    }
}

/* ---- Messages ---- */

static void wake_arm(struct uring_loop *l)
{
    struct io_uring_sqe *sqe = entry_get(l);

    io_uring_prep_read(sqe, l->wake_fd, &l->wake_value, sizeof(l->wake_value), 0);
    io_uring_sqe_set_data64(sqe, ENTRY_WAKE);
    l->is_wake_armed = true;
}

static void wake_done(struct uring_loop *l)
{
    l->is_wake_armed = false;
    if (!l->is_halting)
        wake_arm(l);
}

/* Nobody will run it, and its owner may free it at any time: it is not kept. A connection on its
 * way here is ours. */
static void post_to_halted(struct uring_loop *l, struct loop_msg *msg)
{
    if (!uring_net_is_moved(msg))
        return;
    msg->next = atomic_load_explicit(&l->moved_late, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&l->moved_late, &msg->next, msg,
                                                  memory_order_acq_rel, memory_order_relaxed))
        ;
}

static void uring_post(struct loop *base, struct loop_msg *msg)
{
    struct uring_loop *l = uring_loop(base);
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
static struct loop_msg *inbox_take(struct uring_loop *l, struct loop_msg *instead)
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

static void inbox_run(struct uring_loop *l)
{
    struct loop_msg *msg = inbox_take(l, NULL);

    while (msg != NULL) {
        struct loop_msg *next = msg->next;
        msg->run(msg);
        msg = next;
    }
}

/* False: there are messages. */
static bool inbox_sleep(struct uring_loop *l)
{
    struct loop_msg *expected = NULL;
    return atomic_compare_exchange_strong_explicit(&l->inbox, &expected, INBOX_ASLEEP,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

static void stop_run(struct loop_msg *msg)
{
    struct uring_loop *l = container_of(msg, struct uring_loop, stop_msg);

    atomic_store_explicit(&l->stop_posted, false, memory_order_release);
    l->is_stopping = true;
}

static void uring_stop(struct loop *base)
{
    struct uring_loop *l = uring_loop(base);

    if (!atomic_exchange_explicit(&l->stop_posted, true, memory_order_acq_rel))
        uring_post(base, &l->stop_msg);
}

/* ---- The turn ---- */

/*
 * The entries are copied out first, so that the kernel has room again before done() and its like
 * start more.
 */
static void ring_reap(struct uring_loop *l)
{
    struct io_uring_cqe *cqes[REAP_BATCH];
    struct {
        uint64_t data;
        int res;
    } got[REAP_BATCH];
    unsigned count;

    do {
        count = io_uring_peek_batch_cqe(&l->ring, cqes, REAP_BATCH);
        for (unsigned i = 0; i < count; i++) {
            got[i].data = cqes[i]->user_data;
            got[i].res = cqes[i]->res;
        }
        io_uring_cq_advance(&l->ring, count);
        for (unsigned i = 0; i < count; i++) {
            if (got[i].data == ENTRY_WAKE)
                wake_done(l);
            else if (got[i].data != ENTRY_IGNORED)
                op_complete(l, (struct loop_op *)(uintptr_t)got[i].data, got[i].res);
        }
    } while (count == REAP_BATCH);
}

static uint64_t uring_now(struct loop *base)
{
    struct timespec ts;

    (void)base;
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Hand over what is prepared and sleep; at most until the next timer. */
static void ring_wait(struct uring_loop *l)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec ts;
    uint64_t next = loop_timers_next(&l->base);

    if (next != UINT64_MAX) {
        uint64_t now = uring_now(&l->base);
        uint64_t left = next > now ? next - now : 0;
        ts.tv_sec = (long long)(left / NS_PER_S);
        ts.tv_nsec = (long long)(left % NS_PER_S);
    }
    ring_entered(
        io_uring_submit_and_wait_timeout(&l->ring, &cqe, 1, next == UINT64_MAX ? NULL : &ts, NULL));
}

/* Hand over what is prepared, and let the kernel post what it has; no call if there is neither. */
static void ring_poll(struct uring_loop *l)
{
    unsigned flags = IO_URING_READ_ONCE(*l->ring.sq.kflags);

    if (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW))
        ring_entered(io_uring_submit_and_get_events(&l->ring));
    else if (io_uring_sq_ready(&l->ring) > 0)
        ring_entered(io_uring_submit(&l->ring));
}

static void tasks_run(struct uring_loop *l)
{
    for (int i = 0; i < TASKS_PER_TURN; i++) {
        if (!runq_run_one(&l->base.runq))
            return;
    }
}

static bool loop_is_idle(struct uring_loop *l)
{
    return list_empty(&l->base.runq.ready) && list_empty(&l->finished);
}

static void loop_turn(struct uring_loop *l)
{
    inbox_run(l);
    if (l->base.timers.count > 0)
        loop_timers_fire(&l->base, uring_now(&l->base));
    ops_deliver(l);
    tasks_run(l);
    ops_submit_waiting(l, &l->waiting_net);
    ops_submit_waiting(l, &l->waiting_file);
    if (loop_is_idle(l) && !l->is_stopping && inbox_sleep(l))
        ring_wait(l);
    else
        ring_poll(l);
    ring_reap(l);
}

/* Results are kept for the next run; see the top of this file. */
static void files_drain(struct uring_loop *l)
{
    while (l->file_ops_inflight > 0) {
        ring_entered(io_uring_submit_and_wait(&l->ring, 1));
        ring_reap(l);
    }
}

static void uring_run(struct loop *base)
{
    struct uring_loop *l = uring_loop(base);

    if (l->must_enable) {
        check(io_uring_register((unsigned)l->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) ==
              0);
        l->must_enable = false;
    }
    l->thread = pthread_self();
    l->has_run = true;
    bool is_registered = io_uring_register_ring_fd(&l->ring) == 1; /* saves a look-up per call */

    while (!l->is_stopping)
        loop_turn(l);
    l->is_stopping = false;

    files_drain(l);
    if (is_registered)
        io_uring_unregister_ring_fd(&l->ring);
}

/* ---- Life ---- */

static void cancel_submit(struct uring_loop *l, uint64_t entry)
{
    struct io_uring_sqe *sqe = entry_get(l);

    io_uring_prep_cancel64(sqe, entry, 0);
    io_uring_sqe_set_data64(sqe, ENTRY_IGNORED);
}

/* The last look at what was posted: after this, messages are their owners' to free. */
static void inbox_halt(struct uring_loop *l)
{
    for (struct loop_msg *msg = inbox_take(l, INBOX_HALTED); msg != NULL;) {
        struct loop_msg *next = msg->next;
        if (uring_net_is_moved(msg))
            uring_net_take_moved(msg);
        msg = next;
    }
}

/*
 * Sockets' ops wait for peers and must be told to end. On another thread than the ring's own this
 * cannot be asked of the ring: but that thread is gone then, and no op of a thread that is gone
 * touches memory (the kernel has cancelled them, or will without running them).
 */
static void uring_halt(struct loop *base)
{
    struct uring_loop *l = uring_loop(base);

    l->is_halting = true;
    inbox_halt(l);
    if (l->has_run && pthread_equal(l->thread, pthread_self())) {
        list_for_each (pos, &l->inflight)
            cancel_submit(l, (uint64_t)(uintptr_t)container_of(pos, struct loop_op, link));
        cancel_submit(l, ENTRY_WAKE);
        while (!list_empty(&l->inflight) || l->is_wake_armed) {
            ring_entered(io_uring_submit_and_wait(&l->ring, 1));
            ring_reap(l);
        }
    }
    uring_net_close_all(l);
    uring_file_close_all(l);
    io_uring_queue_exit(&l->ring);
}

static void uring_destroy(struct loop *base)
{
    struct uring_loop *l = uring_loop(base);

    struct loop_msg *late = atomic_load_explicit(&l->moved_late, memory_order_acquire);

    while (late != NULL) {
        struct loop_msg *next = late->next;
        uring_net_end_moved(late);
        late = next;
    }
    uring_net_free_all(l);
    uring_file_free_all(l);
    loop_base_deinit(base);
    close(l->wake_fd);
    free(l->msgs);
    free(l);
}

static uint64_t uring_wall_ms(struct loop *base)
{
    struct timespec ts;

    (void)base;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void uring_random(struct loop *base, void *buf, size_t len)
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

/* The loop's own thread is running when this is called: it looks before it sleeps. */
static void uring_woken(struct loop *base)
{
    (void)base;
}

static const struct loop_backend uring_backend = {
    .name = "uring",
    .run = uring_run,
    .stop = uring_stop,
    .halt = uring_halt,
    .destroy = uring_destroy,
    .woken = uring_woken,
    .now = uring_now,
    .wall_ms = uring_wall_ms,
    .random = uring_random,
    .post = uring_post,
    .file_open = uring_file_open,
    .file_close = uring_file_close,
    .file_size = uring_file_size,
    .file_resize = uring_file_resize,
    .readv = uring_readv,
    .writev = uring_writev,
    .flush = uring_flush,
    .read_now = uring_read_now,
    .write_now = uring_write_now,
    .flush_now = uring_flush_now,
    .dir_create = uring_dir_create,
    .dir_sync = uring_dir_sync,
    .dir_list = uring_dir_list,
    .rename = uring_rename,
    .unlink = uring_unlink,
    .disk_free = uring_disk_free,
    .listen = uring_listen,
    .listen_unix = uring_listen_unix,
    .listener_close = uring_listener_close,
    .accept = uring_accept,
    .connect = uring_connect,
    .recv = uring_recv,
    .send = uring_send,
    .conn_close = uring_conn_close,
    .conn_peer = uring_conn_peer,
    .conn_move = uring_conn_move,
};

/* Kernels differ in which flags they take, and in which of them work: the best set that gets an
 * entry through. */
static bool flags_work(unsigned flags)
{
    struct io_uring ring;
    struct io_uring_cqe *cqe;
    bool works = false;

    if (io_uring_queue_init(4, &ring, flags) != 0)
        return false;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data64(sqe, ENTRY_IGNORED);
    if (io_uring_submit_and_wait(&ring, 1) == 1 && io_uring_peek_cqe(&ring, &cqe) == 0)
        works = cqe->res == 0;
    io_uring_queue_exit(&ring);
    return works;
}

static unsigned ring_flags(void)
{
    static const unsigned sets[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
            IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
    };

    for (unsigned i = 0; i < COUNT_OF(sets); i++) {
        if (flags_work(sets[i]))
            return sets[i];
    }
    return 0;
}

/* What a kernel that lacks it could not do correctly. */
enum {
    FEATURES_NEEDED = IORING_FEAT_NODROP |        /* completions are never lost */
                      IORING_FEAT_SUBMIT_STABLE | /* a msghdr is free after the call */
                      IORING_FEAT_FAST_POLL |     /* sockets wait without a thread */
                      IORING_FEAT_EXT_ARG         /* sleep with a timeout */
};

static int ring_create(struct uring_loop *l, uint32_t entries)
{
    struct io_uring_params params = {.flags = ring_flags()};

    l->must_enable = (params.flags & IORING_SETUP_SINGLE_ISSUER) != 0;
    if (l->must_enable)
        params.flags |= IORING_SETUP_R_DISABLED;
    params.flags |= IORING_SETUP_CQSIZE;
    params.cq_entries = 4 * entries < 1024 ? 1024 : 4 * entries;

    int err = io_uring_queue_init_params(entries, &l->ring, &params);
    if (err != 0)
        return err;
    if ((params.features & FEATURES_NEEDED) != FEATURES_NEEDED) {
        io_uring_queue_exit(&l->ring);
        return -ENOSYS;
    }
    l->file_ops_max = entries;
    l->msgs = mem_zalloc(params.sq_entries * sizeof(struct msghdr));
    return 0;
}

int loop_uring_create(struct loop **out, uint32_t entries)
{
    check(entries >= 1 && entries <= 4096);

    struct uring_loop *l = mem_zalloc(sizeof(*l));
    *out = NULL;
    l->wake_fd = eventfd(0, EFD_CLOEXEC);
    int err = l->wake_fd < 0 ? -errno : ring_create(l, entries);
    if (err != 0) {
        if (l->wake_fd >= 0)
            close(l->wake_fd);
        free(l);
        return err;
    }

    loop_base_init(&l->base, &uring_backend);
    list_init(&l->waiting_file);
    list_init(&l->waiting_net);
    list_init(&l->inflight);
    list_init(&l->finished);
    list_init(&l->files);
    list_init(&l->listeners);
    list_init(&l->conns);
    l->stop_msg.run = stop_run;
    wake_arm(l);
    *out = &l->base;
    return 0;
}
