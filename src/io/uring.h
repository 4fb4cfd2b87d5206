/*
 * The io_uring back end's own structs, shared by its three parts:
 *   loop_uring.c  the ring, the turn of the loop, the life of an operation, messages
 *   uring_file.c  files, devices, names
 *   uring_net.c   listeners and connections
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
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "io/loop_impl.h"

struct uring_loop {
    struct loop base;
    struct io_uring ring;
    struct msghdr *msgs; /* one for each entry of the submission queue */
    bool must_enable; /* the ring was created disabled: the first run makes it the thread's own */
    bool has_run;
    bool is_stopping;
    bool is_halting;
    bool is_wake_armed;
    pthread_t thread; /* of the last run */

    uint32_t file_ops_max;
    uint32_t file_ops_inflight;
    struct list waiting_file; /* struct loop_op, in order of start */
    struct list waiting_net;
    struct list inflight;
    struct list finished;
    uint32_t finished_count;

    struct list files; /* struct uring_file, and so on: for destroy */
    struct list listeners;
    struct list conns;

    /* Touched by other threads. */
    _Atomic(struct loop_msg *) inbox;      /* newest first; or INBOX_ASLEEP, INBOX_HALTED */
    _Atomic(struct loop_msg *) moved_late; /* connections that came after the halt */
    atomic_bool stop_posted;
    struct loop_msg stop_msg;
    int wake_fd;
    uint64_t wake_value; /* what the ring reads from wake_fd */
};

struct uring_file {
    struct loop_file base;
    struct list link;
    int fd;
    bool is_device;
    bool is_direct;
    uint64_t size; /* of a device */
    uint32_t ops_count;
};

struct uring_listener {
    struct loop_listener base;
    struct list link;
    int fd;
    bool is_closing;
    uint32_t ops_count;
    char *path; /* of a unix socket, else NULL */
};

struct uring_conn {
    struct loop_conn base;
    struct list link;
    int fd;
    bool is_closing;
    struct loop_op *recv;
    struct loop_op *send;
    struct loop_addr peer;
    struct loop_msg moved;
};

enum uring_kind {
    URING_READ,
    URING_WRITE,
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
        struct uring_file *file;
        struct uring_listener *listener;
        struct uring_conn *conn;
    };
    union {
        struct { /* read, write, send */
            const struct iovec *iov;
            uint32_t iov_count;
            uint32_t iov_at; /* the first iovec that is not all done, ... */
            uint64_t skip;   /* ... and how much of it is */
            uint64_t total;
            uint64_t moved;
            uint64_t offset;
        };
        struct {
            void *buf;
            size_t len;
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

/* The op has its result; done() follows. */
void uring_finish(struct uring_loop *l, struct loop_op *op, int64_t result);

/* Some of the iovecs' bytes are done; true when all are, else the op waits to go on. */
bool uring_advance(struct uring_state *s, uint64_t len);
void uring_resume(struct uring_loop *l, struct loop_op *op);
void uring_state_set_iov(struct uring_state *s, const struct iovec *iov, int iov_count);

/* One entry for what remains; and what the kernel answered. */
void uring_file_prepare(struct io_uring_sqe *sqe, struct uring_state *s);
void uring_file_complete(struct uring_loop *l, struct loop_op *op, int res);
void uring_net_prepare(struct io_uring_sqe *sqe, struct msghdr *msg, struct uring_state *s);
void uring_net_complete(struct uring_loop *l, struct loop_op *op, int res);

/* The handle it is for was closed while the op was waiting. */
bool uring_net_is_closing(struct uring_state *s);

/* Close every descriptor (halt), then free the handles (destroy). */
void uring_file_close_all(struct uring_loop *l);
void uring_file_free_all(struct uring_loop *l);
void uring_net_close_all(struct uring_loop *l);
void uring_net_free_all(struct uring_loop *l);

/* A connection on its way to another loop; the message is in that loop's inbox. */
bool uring_net_is_moved(const struct loop_msg *msg);
void uring_net_take_moved(struct loop_msg *msg);
void uring_net_end_moved(struct loop_msg *msg); /* close and free it */

/* The back end's table, by part. */
int uring_file_open(struct loop *l, const char *path, unsigned flags, struct loop_file **out);
void uring_file_close(struct loop_file *f);
uint64_t uring_file_size(const struct loop_file *f);
int uring_file_resize(struct loop_file *f, uint64_t size, bool reserve);
void uring_readv(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                 int iov_count, uint64_t offset);
void uring_writev(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                  int iov_count, uint64_t offset);
void uring_flush(struct loop *l, struct loop_op *op, struct loop_file *f);
int64_t uring_read_now(struct loop_file *f, void *buf, size_t len, uint64_t offset);
int64_t uring_write_now(struct loop_file *f, const void *buf, size_t len, uint64_t offset);
int uring_flush_now(struct loop_file *f);
int uring_dir_create(struct loop *l, const char *path);
int uring_dir_sync(struct loop *l, const char *path);
int uring_dir_list(struct loop *l, const char *path, void (*each)(void *arg, const char *name),
                   void *arg);
int uring_rename(struct loop *l, const char *from, const char *to);
int uring_unlink(struct loop *l, const char *path);
int64_t uring_disk_free(struct loop *l, const char *path);

int uring_listen(struct loop *l, const struct loop_addr *addr, struct loop_listener **out,
                 struct loop_addr *bound);
int uring_listen_unix(struct loop *l, const char *path, struct loop_listener **out);
void uring_listener_close(struct loop_listener *s);
void uring_accept(struct loop *l, struct loop_op *op, struct loop_listener *s);
void uring_connect(struct loop *l, struct loop_op *op, const struct loop_addr *addr);
void uring_recv(struct loop *l, struct loop_op *op, struct loop_conn *c, void *buf, size_t len);
void uring_send(struct loop *l, struct loop_op *op, struct loop_conn *c, const struct iovec *iov,
                int iov_count);
void uring_conn_close(struct loop_conn *c);
void uring_conn_peer(const struct loop_conn *c, struct loop_addr *out);
void uring_conn_move(struct loop_conn *c, struct loop *to);

#endif /* IO_URING_H */
