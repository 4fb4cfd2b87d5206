/*
 * The io_uring back end's own structs, shared by its parts:
 *   loop_uring.c  the ring, the turn of the loop, the life of an operation
 *   uring_file.c  operations on files
 *   uring_mem.c   memory the kernel holds for transfers
 *   uring_net.c   operations on listeners and connections
 * The rest it has in common with the other back end over a real system: os.h.
 *
 * An operation moves between lists of the loop through loop_op.link:
 *
 *     start --> WAITING --> INFLIGHT --> FINISHED --> done()
 *                  ^            |
 *                  +---short----+
 *
 * WAITING: no entry of the submission queue is free (or, for files, as many as `entries` are in the
 * kernel). INFLIGHT: an entry names it; it is in the kernel after the turn's system call.
 * FINISHED: the result is known; done() runs when the turn delivers.
 */

#ifndef IO_URING_H
#define IO_URING_H

#include <liburing.h>
#include <pthread.h>

#include "io/os.h"

/* One place of the ring's table of buffers. */
struct uring_region {
    uintptr_t base; /* or one of the marks below */
    size_t len;     /* 0 then */
};

#define URING_REGION_EMPTY ((uintptr_t)0)
#define URING_REGION_LOST  (~(uintptr_t)0) /* the kernel did not give it back */

struct uring_loop {
    struct os_loop os;
    struct io_uring ring;
    struct msghdr *msgs; /* one for each entry of the submission queue */
    bool must_enable; /* the ring was created disabled: the first run makes it the thread's own */
    bool has_run;
    bool is_running;
    bool is_halting;
    bool is_wake_armed;
    bool has_uring_cmd; /* the kernel knows this operation */
    bool has_fallocate;
    pthread_t thread;    /* of the last run */
    uint64_t wake_value; /* what the ring reads from wake_fd */

    uint32_t file_ops_max;
    uint32_t file_ops_inflight;
    bool has_buffers;     /* the ring has its table */
    uint32_t regions_end; /* places from here on are empty */
    struct uring_region regions[LOOP_BUFFERS_MAX];

    struct list waiting_file; /* struct loop_op, in order of start */
    struct list waiting_net;
    struct list inflight;
};

enum uring_kind {
    URING_READ,
    URING_WRITE,
    URING_WRITE_DURABLE,
    URING_DISCARD,
    URING_FLUSH,
    URING_ACCEPT,
    URING_CONNECT,
    URING_RECV,
    URING_SEND,
};

/* What the back end keeps in loop_op.priv[0..7]. */
struct uring_state {
    enum uring_kind kind;
    int fd; /* of the file, the listener, the connection; or being connected */
    union {
        struct os_file *file;
        struct os_listener *listener;
        struct os_conn *conn;
    };
    union {
        struct { /* read, write, send */
            struct os_iov v;
            uint64_t offset;
        };
        struct {
            void *buf;
            size_t len;
        };
        struct { /* discard */
            uint64_t discard_from;
            uint64_t discard_len;
            bool is_discard_cmd;
        };
        struct { /* accept, connect */
            struct sockaddr_in6 addr;
            socklen_t addr_len;
        };
    };
} __attribute__((may_alias));

static_assert(sizeof(struct uring_state) <= LOOP_PRIV_IOV * sizeof(uint64_t), "fits into priv");

static inline struct uring_loop *uring_loop(struct loop *l)
{
    return (struct uring_loop *)l;
}

static inline struct uring_state *uring_state(struct loop_op *op)
{
    return (struct uring_state *)op->priv;
}

static inline bool uring_kind_is_file(enum uring_kind kind)
{
    return kind <= URING_FLUSH;
}

/* The state is set: bring the op under way. */
void uring_start(struct uring_loop *l, struct loop_op *op);

/* Not all is done: the op waits to go on. */
void uring_resume(struct uring_loop *l, struct loop_op *op);

/* One entry for what remains; and what the kernel answered. */
void uring_file_prepare(struct uring_loop *l, struct io_uring_sqe *sqe, struct uring_state *s);
void uring_file_complete(struct uring_loop *l, struct loop_op *op, int res);
void uring_net_prepare(struct io_uring_sqe *sqe, struct msghdr *msg, struct uring_state *s);
void uring_net_complete(struct uring_loop *l, struct loop_op *op, int res);

/* Where in the table the buffer lies wholly; -1: nowhere. */
static inline int uring_region_find(const struct uring_loop *l, const void *buf, size_t len)
{
    uintptr_t at = (uintptr_t)buf;

    for (uint32_t i = 0; i < l->regions_end; i++) {
        const struct uring_region *r = &l->regions[i];
        if (at >= r->base && at - r->base < r->len && len <= r->len - (at - r->base))
            return (int)i;
    }
    return -1;
}

/* The handle it is for was closed while the op was waiting. */
bool uring_net_is_closing(struct uring_state *s);

/* The ring is gone, and its regions with it. */
void uring_buffers_end(struct uring_loop *l);

/* Close the sockets that are no connection yet. */
void uring_net_end(struct uring_loop *l);

/* The back end's table, by part. */
int uring_buffers_register(struct loop *l, void *base, size_t len);
int uring_buffers_unregister(struct loop *l, void *base);
void uring_file_info(const struct loop_file *f, struct loop_file_info *out);
void uring_readv(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                 int iov_count, uint64_t offset);
void uring_writev(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                  int iov_count, uint64_t offset, bool is_durable);
void uring_discard(struct loop *l, struct loop_op *op, struct loop_file *f, uint64_t offset,
                   uint64_t len);
void uring_flush(struct loop *l, struct loop_op *op, struct loop_file *f);
void uring_listener_close(struct loop_listener *s);
void uring_accept(struct loop *l, struct loop_op *op, struct loop_listener *s);
void uring_connect(struct loop *l, struct loop_op *op, const struct loop_addr *addr);
void uring_recv(struct loop *l, struct loop_op *op, struct loop_conn *c, void *buf, size_t len);
void uring_send(struct loop *l, struct loop_op *op, struct loop_conn *c, const struct iovec *iov,
                int iov_count);
void uring_conn_close(struct loop_conn *c);

#endif /* IO_URING_H */
