#include "io/uv_impl.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/pool.h"
#include "base/text.h"

/*
 * A thread of the pool does one op, whole, by blocking calls.
 *
 * The pool is the process's: its threads are shared by all loops, and a disk that hangs holds as
 * many of them as its loop has ops under way. So a loop has at most a POOL_SHARE-th of them; the
 * ops of a loop wait behind those of others only once POOL_SHARE loops have theirs in use.
 */
enum { POOL_THREADS = 64, POOL_THREADS_MAX = 1024 /* libuv's own limit */, POOL_SHARE = 4 };

static uint32_t pool_threads;

/* A number that was set from outside is kept: libuv reads the same variable. */
static void pool_configure(void)
{
    const char *given = getenv("UV_THREADPOOL_SIZE");
    char text[16];
    uint64_t count;

    if (given != NULL && str_to_u64(given, &count) && count >= 1 && count <= POOL_THREADS_MAX) {
        pool_threads = (uint32_t)count;
        return;
    }
    snprintf(text, sizeof(text), "%d", POOL_THREADS);
    check(setenv("UV_THREADPOOL_SIZE", text, 1) == 0);
    pool_threads = POOL_THREADS;
}

void luv_pool_configure(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    check(pthread_once(&once, pool_configure) == 0);
}

void luv_works_init(struct luv_loop *l, uint32_t entries)
{
    uint32_t share = pool_threads / POOL_SHARE > 0 ? pool_threads / POOL_SHARE : 1;
    uint32_t count = entries < share ? entries : share;

    list_init(&l->waiting);
    list_init(&l->works_free);
    l->works = mem_zalloc(count * sizeof(*l->works));
    l->works_count = count;
    for (uint32_t i = 0; i < count; i++) {
        list_init(&l->works[i].link);
        list_push(&l->works_free, &l->works[i].link);
    }
}

/* On a thread of the pool. */
static void work_run(uv_work_t *req)
{
    struct luv_work *w = (struct luv_work *)req;
    struct luv_state *s = luv_state(w->op);

    if (s->kind == LUV_FLUSH)
        w->result = os_flush_now(&s->file->base);
    else if (s->kind == LUV_DISCARD)
        w->result = os_file_discard(s->file, s->offset, s->discard_len);
    else if (s->kind == LUV_READ)
        w->result = os_file_read(s->file, &s->v, s->offset);
    else
        w->result = os_file_write(s->file, &s->v, s->offset, s->kind == LUV_WRITE_DURABLE);
}

static void work_done(uv_work_t *req, int status)
{
    struct luv_work *w = (struct luv_work *)req;
    struct luv_loop *l = container_of(req->loop, struct luv_loop, uv);

    check(status == 0 || status == UV_ECANCELED);
    if (status == 0) {
        luv_state(w->op)->file->ops_count--;
        os_finish(&l->os, w->op, w->result);
    } else {
        list_push_front(&l->waiting, &w->op->link); /* it had not begun */
    }
    l->works_busy--;
    list_push(&l->works_free, &w->link);
}

void luv_works_drain(struct luv_loop *l)
{
    for (uint32_t i = l->works_count; i > 0; i--) {
        struct luv_work *w = &l->works[i - 1];
        if (list_empty(&w->link))
            uv_cancel((uv_req_t *)&w->req);
    }
    while (l->works_busy > 0)
        uv_run(&l->uv, UV_RUN_ONCE);
}

void luv_works_submit(struct luv_loop *l)
{
    while (!list_empty(&l->waiting) && !list_empty(&l->works_free)) {
        struct luv_work *w = container_of(list_pop(&l->works_free), struct luv_work, link);
        w->op = container_of(list_pop(&l->waiting), struct loop_op, link);
        l->works_busy++;
        check(uv_queue_work(&l->uv, &w->req, work_run, work_done) == 0);
    }
}

static void file_start(struct loop *base, struct loop_op *op, struct loop_file *f,
                       enum luv_kind kind)
{
    struct luv_loop *l = luv_loop(base);
    struct luv_state *s = luv_state(op);

    s->kind = kind;
    s->file = os_file(f);
    s->file->ops_count++;
    list_push(&l->waiting, &op->link);
    luv_works_submit(l);
}

void luv_readv(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
               int iov_count, uint64_t offset)
{
    os_iov_init(&luv_state(op)->v, iov, iov_count);
    luv_state(op)->offset = offset;
    file_start(l, op, f, LUV_READ);
}

void luv_writev(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                int iov_count, uint64_t offset, bool is_durable)
{
    os_iov_init(&luv_state(op)->v, iov, iov_count);
    luv_state(op)->offset = offset;
    file_start(l, op, f, is_durable ? LUV_WRITE_DURABLE : LUV_WRITE);
}

void luv_discard(struct loop *l, struct loop_op *op, struct loop_file *f, uint64_t offset,
                 uint64_t len)
{
    luv_state(op)->offset = offset;
    luv_state(op)->discard_len = len;
    file_start(l, op, f, LUV_DISCARD);
}

void luv_flush(struct loop *l, struct loop_op *op, struct loop_file *f)
{
    file_start(l, op, f, LUV_FLUSH);
}
