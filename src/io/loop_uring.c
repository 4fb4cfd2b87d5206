#include "io/uring.h"

#include <errno.h>
#include <stdlib.h>

#include "base/pool.h"

/*
 * One turn of the loop, in run():
 *
 *   messages, timers, results that are known, a bounded number of tasks, and then one system call
 *   that hands over all entries prepared meanwhile and, if nothing is left to do, sleeps until a
 *   completion, the next timer, or a message.
 *
 * A turn that starts many ops on files hands them over in groups on the way. For the kernel passes
 * on what came in one call when it has all of it, and a device answers what came together
 * together: in one piece the device would rest while we work, and we while it does.
 *
 * Threads. Where the kernel can, the ring belongs to one thread (SINGLE_ISSUER, DEFER_TASKRUN: its
 * completions are run in batches, when we ask). It is created disabled and enabled by the first
 * loop_run(), so that it may be created, and ops started, on another thread before. After
 * loop_run() returned any thread may have to halt it: therefore no file I/O is left in the kernel
 * when run() returns.
 */
enum { REAP_BATCH = 64, FILE_GROUP = 8 };

/* user_data of entries that belong to no op */
enum { ENTRY_IGNORED = 0, ENTRY_WAKE = 1 };

/* ---- Operations ---- */

/* Errors of the call itself are moments of shortage: what could not be handed over stays queued and
 * goes with a later turn. */
static void ring_entered(int res)
{
    check(res >= 0 || res == -EINTR || res == -ETIME || res == -EAGAIN || res == -EBUSY);
}

static void op_submit(struct uring_loop *l, struct loop_op *op)
{
    struct uring_state *s = uring_state(op);
    bool is_file = uring_kind_is_file(s->kind);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);

    check(sqe != NULL);
    if (is_file) {
        uring_file_prepare(l, sqe, s);
        l->file_ops_inflight++;
    } else {
        uring_net_prepare(sqe, &l->msgs[sqe - l->ring.sq.sqes], s);
    }
    io_uring_sqe_set_data(sqe, op);
    list_push(&l->inflight, &op->link);
    if (is_file && l->is_running && io_uring_sq_ready(&l->ring) >= FILE_GROUP)
        ring_entered(io_uring_submit(&l->ring));
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

/* ---- Messages ---- */

static void wake_arm(struct uring_loop *l)
{
    struct io_uring_sqe *sqe = entry_get(l);

    io_uring_prep_read(sqe, l->os.wake_fd, &l->wake_value, sizeof(l->wake_value), 0);
    io_uring_sqe_set_data64(sqe, ENTRY_WAKE);
    l->is_wake_armed = true;
}

static void wake_done(struct uring_loop *l)
{
    l->is_wake_armed = false;
    if (!l->is_halting)
        wake_arm(l);
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

/* Hand over what is prepared and sleep; at most until the next timer. */
static void ring_wait(struct uring_loop *l)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec ts;
    uint64_t next = loop_timers_next(&l->os.base);

    if (next != UINT64_MAX) {
        uint64_t now = os_now(&l->os.base);
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

static void loop_turn(struct uring_loop *l)
{
    os_turn(&l->os);
    ops_submit_waiting(l, &l->waiting_net);
    ops_submit_waiting(l, &l->waiting_file);
    if (os_may_sleep(&l->os))
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

    l->is_running = true;
    while (!l->os.is_stopping)
        loop_turn(l);
    l->is_running = false;
    l->os.is_stopping = false;

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

/*
 * Sockets' ops wait for peers and must be told to end. On another thread than the ring's own this
 * cannot be asked of the ring: but that thread is gone then, and no op of a thread that is gone
 * touches memory (the kernel has cancelled them, or will without running them).
 */
static void uring_halt(struct loop *base)
{
    struct uring_loop *l = uring_loop(base);

    l->is_halting = true;
    os_inbox_halt(&l->os);
    if (l->has_run && pthread_equal(l->thread, pthread_self())) {
        list_for_each (pos, &l->inflight)
            cancel_submit(l, (uint64_t)(uintptr_t)container_of(pos, struct loop_op, link));
        cancel_submit(l, ENTRY_WAKE);
        while (!list_empty(&l->inflight) || l->is_wake_armed) {
            ring_entered(io_uring_submit_and_wait(&l->ring, 1));
            ring_reap(l);
        }
    }
    uring_net_end(l);
    os_loop_close(&l->os);
    io_uring_queue_exit(&l->ring);
    uring_buffers_end(l);
}

static void uring_destroy(struct loop *base)
{
    struct uring_loop *l = uring_loop(base);

    os_loop_deinit(&l->os);
    free(l->msgs);
    free(l);
}

static const struct loop_backend uring_backend = {
    .name = "uring",
    OS_BACKEND,
    .run = uring_run,
    .halt = uring_halt,
    .destroy = uring_destroy,
    .file_info = uring_file_info,
    .readv = uring_readv,
    .writev = uring_writev,
    .discard = uring_discard,
    .flush = uring_flush,
    .buffers_register = uring_buffers_register,
    .buffers_unregister = uring_buffers_unregister,
    .listener_close = uring_listener_close,
    .accept = uring_accept,
    .connect = uring_connect,
    .recv = uring_recv,
    .send = uring_send,
    .conn_close = uring_conn_close,
    .conn_move = os_conn_move,
};

/* 0 when an entry gets through a ring with these flags, -errno. */
static int flags_try(unsigned flags)
{
    struct io_uring ring;
    struct io_uring_cqe *cqe;
    int err = io_uring_queue_init(4, &ring, flags);

    if (err != 0)
        return err;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data64(sqe, ENTRY_IGNORED);
    err = io_uring_submit_and_wait(&ring, 1);
    if (err >= 0)
        err = io_uring_peek_cqe(&ring, &cqe) == 0 ? cqe->res : -EIO;
    io_uring_queue_exit(&ring);
    return err;
}

/* Kernels differ in which flags they take, and in which of them work: the best set that gets an
 * entry through. -errno: none does. */
static int flags_choose(unsigned *out)
{
    static const unsigned sets[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
            IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
        0,
    };
    int err = 0;

    for (unsigned i = 0; i < COUNT_OF(sets); i++) {
        err = flags_try(sets[i]);
        *out = sets[i];
        if (err == 0)
            return 0;
    }
    return err;
}

/* What a kernel that lacks it could not do correctly. */
enum {
    FEATURES_NEEDED = IORING_FEAT_NODROP |        /* completions are never lost */
                      IORING_FEAT_SUBMIT_STABLE | /* a msghdr is free after the call */
                      IORING_FEAT_FAST_POLL |     /* sockets wait without a thread */
                      IORING_FEAT_EXT_ARG         /* sleep with a timeout */
};

/* Operations that a kernel may lack, or refuse, and that the contract can do without. */
static void ring_probe(struct uring_loop *l)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(&l->ring);

    if (probe == NULL)
        return;
    l->has_uring_cmd = io_uring_opcode_supported(probe, IORING_OP_URING_CMD);
    l->has_fallocate = io_uring_opcode_supported(probe, IORING_OP_FALLOCATE);
    io_uring_free_probe(probe);
}

static int ring_create(struct uring_loop *l, uint32_t entries)
{
    struct io_uring_params params = {0};
    int err = flags_choose(&params.flags);

    if (err != 0)
        return err;
    l->must_enable = (params.flags & IORING_SETUP_SINGLE_ISSUER) != 0;
    if (l->must_enable)
        params.flags |= IORING_SETUP_R_DISABLED;
    params.flags |= IORING_SETUP_CQSIZE;
    params.cq_entries = 4 * entries < 1024 ? 1024 : 4 * entries;

    err = io_uring_queue_init_params(entries, &l->ring, &params);
    if (err != 0)
        return err;
    if ((params.features & FEATURES_NEEDED) != FEATURES_NEEDED) {
        io_uring_queue_exit(&l->ring);
        return -ENOSYS;
    }
    ring_probe(l);
    l->file_ops_max = entries;
    l->msgs = mem_zalloc(params.sq_entries * sizeof(struct msghdr));
    return 0;
}

int loop_uring_create(struct loop **out, uint32_t entries)
{
    check(entries >= 1 && entries <= 4096);

    struct uring_loop *l = mem_zalloc(sizeof(*l));
    *out = NULL;
    int err = os_loop_init(&l->os, &uring_backend);
    if (err == 0 && (err = ring_create(l, entries)) != 0) {
        loop_base_kill(&l->os.base);
        os_loop_deinit(&l->os);
    }
    if (err != 0) {
        free(l);
        return err;
    }

    list_init(&l->waiting_file);
    list_init(&l->waiting_net);
    list_init(&l->inflight);
    wake_arm(l);
    *out = &l->os.base;
    return 0;
}
