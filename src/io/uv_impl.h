/*
 * The libuv back end's own structs, shared by its three parts (prefix luv_: uv_ is libuv's):
 *   loop_uv.c  the turn of the loop, its life
 *   uv_file.c  operations on files, in libuv's thread pool
 *   uv_net.c   operations on listeners and connections, by readiness
 * The rest it has in common with the other back end over a real system: os.h.
 *
 * What an operation waits for:
 *
 *     file:   start --> WAITING --> POOL --> finished --> done()
 *     socket: start --> POLLED -------------> finished --> done()
 *                  `---- a send that goes at once ----^
 *
 * WAITING: this loop has as many ops in the pool as it may. POOL: a thread of the pool does it,
 * whole. POLLED: the op is named by its connection or listener; nothing of it is in the kernel, so
 * it can be ended at any time.
 */

#ifndef IO_UV_IMPL_H
#define IO_UV_IMPL_H

#include <uv.h>

#include "io/os.h"

/* One op in the thread pool. */
struct luv_work {
    uv_work_t req; /* first: libuv's callbacks find the rest */
    struct list link;
    struct loop_op *op;
    int64_t result;
};

struct luv_loop {
    struct os_loop os;
    uv_loop_t uv;
    uv_poll_t wake;  /* os.wake_fd */
    uv_poll_t timer; /* timer_fd */
    int timer_fd;
    uint64_t timer_at; /* what timer_fd is set to; UINT64_MAX: nothing */

    struct luv_work *works;
    struct list works_free;
    uint32_t works_count;
    uint32_t works_busy;
    struct list waiting; /* struct loop_op on files, in order of start */
};

/* What libuv knows of a socket. It outlives the connection or listener by a turn. */
struct luv_watch {
    uv_poll_t poll; /* first: libuv's callbacks find the rest */
    int events;     /* that it is polled for: those waited for, and some that were (see uv_net.c) */
    struct os_conn *conn;
    struct os_listener *listener;
    struct list accepts; /* struct loop_op */
};

enum luv_kind {
    LUV_READ,
    LUV_WRITE,
    LUV_WRITE_DURABLE,
    LUV_DISCARD,
    LUV_FLUSH,
    LUV_ACCEPT,
    LUV_CONNECT,
    LUV_RECV,
    LUV_SEND
};

/* What the back end keeps in loop_op.priv[0..7]. */
struct luv_state {
    enum luv_kind kind;
    union {
        struct { /* read, write, discard, flush, send */
            struct os_file *file;
            union {
                struct os_iov v;
                uint64_t discard_len;
            };
            uint64_t offset;
        };
        struct { /* receive */
            void *buf;
            size_t len;
        };
        struct { /* connect */
            struct sockaddr_in6 addr;
        };
    };
} __attribute__((may_alias));

static_assert(sizeof(struct luv_state) <= LOOP_PRIV_IOV * sizeof(uint64_t), "fits into priv");

static inline struct luv_loop *luv_loop(struct loop *l)
{
    return (struct luv_loop *)l;
}

static inline struct luv_state *luv_state(struct loop_op *op)
{
    return (struct luv_state *)op->priv;
}

/* Before the first loop of the process: how many threads the pool has. */
void luv_pool_configure(void);

void luv_works_init(struct luv_loop *l, uint32_t entries);

/* Waiting ops go to the pool as far as this loop's share of it goes. */
void luv_works_submit(struct luv_loop *l);

/*
 * Until no thread of the pool is at work for this loop: it waits for its own disks, and not for
 * those of others, since what has not begun is taken back. Results are kept for the next run.
 */
void luv_works_drain(struct luv_loop *l);

/* Let libuv forget the socket; its descriptor may be closed at once. */
void luv_watch_close(struct luv_watch **watch);

/* The back end's table, by part. */
void luv_readv(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
               int iov_count, uint64_t offset);
void luv_writev(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                int iov_count, uint64_t offset, bool is_durable);
void luv_discard(struct loop *l, struct loop_op *op, struct loop_file *f, uint64_t offset,
                 uint64_t len);
void luv_flush(struct loop *l, struct loop_op *op, struct loop_file *f);
void luv_listener_close(struct loop_listener *s);
void luv_accept(struct loop *l, struct loop_op *op, struct loop_listener *s);
void luv_connect(struct loop *l, struct loop_op *op, const struct loop_addr *addr);
void luv_recv(struct loop *l, struct loop_op *op, struct loop_conn *c, void *buf, size_t len);
void luv_send(struct loop *l, struct loop_op *op, struct loop_conn *c, const struct iovec *iov,
              int iov_count);
void luv_conn_close(struct loop_conn *c);
void luv_conn_move(struct loop_conn *c, struct loop *to);

#endif /* IO_UV_IMPL_H */
