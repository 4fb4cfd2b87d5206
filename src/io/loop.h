/*
 * The event loop, and the only door to clock, disk, network and randomness.
 *
 * Three back ends, one contract (tests/unit/io_contract.h runs against each):
 *   loop_uring.c  io_uring; one loop is one thread
 *   loop_uv.c     libuv, for machines where io_uring is refused
 *   loop_sim.c    virtual time, simulated devices and connections, from a seed (io/sim.h)
 *
 * Operations. The caller embeds a struct loop_op, sets done, calls a start
 * function and gets the op back in done(): exactly once, never before the start
 * function has returned, from the top of the loop's stack. Until then the op and
 * every buffer and iovec it names belong to the loop. done() records and wakes;
 * it does not decide (DESIGN.md section 4). Any number of ops may be in flight; when the
 * kernel's queue is full they wait in the loop, in order.
 *
 * Threading. All calls on a loop are made on its own thread, except loop_post()
 * and loop_stop(), which any thread may call. A file, listener or connection
 * belongs to the loop it was opened on.
 *
 * Errors are -errno. Nothing here retries a failed write or flush.
 */

#ifndef IO_LOOP_H
#define IO_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/heap.h"
#include "base/task.h"

struct loop;

enum { LOOP_IOV_MAX = 1024 };

/* ---- Running ---- */

enum loop_kind {
    LOOP_AUTO, /* io_uring if this process may use it, else libuv. Decided once a process, and
                  logged when it is libuv. */
    LOOP_URING,
    LOOP_UV,
};

/*
 * A loop of the calling process; it runs on the thread that calls loop_run(). -errno; over io_uring
 * -EPERM, -ENOSYS and the like where it is refused. `entries`: file ops in the kernel at once, at
 * most; over libuv also no more than a quarter of its thread pool.
 */
int loop_create(struct loop **out, enum loop_kind kind, uint32_t entries);

/* "auto", "uring", "uv". */
bool loop_kind_parse(const char *s, enum loop_kind *out);

/* Run until loop_stop(). Ops in flight stay in flight. Always on the same thread. */
void loop_run(struct loop *l);
void loop_stop(struct loop *l);

/*
 * After loop_run() returned: end what the kernel still holds. The loop is dead then: it calls
 * nobody any more, ops in flight never come back, and loop.h calls on it and its handles do
 * nothing (those that answer, answer -ECANCELED); messages that were posted, or still are, are
 * dropped unread. So owners free their components in any order.
 */
void loop_halt(struct loop *l);

/* loop_halt() if that was not done yet, then free the loop and its handles. */
void loop_destroy(struct loop *l);

/* ---- Tasks, time, randomness ---- */

/* Make `task` run on this loop soon. Only from the loop's own thread. */
void loop_wake(struct loop *l, struct task *task);

/* Nanoseconds of CLOCK_BOOTTIME: goes on through suspend, never steps. Read afresh each call. Rate
 * error is under 1 %. */
uint64_t loop_now(struct loop *l);

/* Milliseconds since 1970, UTC. May step. For people to read, never for decisions. */
uint64_t loop_wall_ms(struct loop *l);

/* Random bytes fit for secrets (from the seed in the simulator). */
void loop_random(struct loop *l, void *buf, size_t len);
uint64_t loop_random_u64(struct loop *l);

#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

struct loop_timer {
    struct heap_node node;
    void (*fire)(struct loop_timer *t); /* A completion: records and wakes. */
};

void loop_timer_init(struct loop_timer *t, void (*fire)(struct loop_timer *t));

/* Fire once when loop_now() >= at_ns; a timer that is running is moved. */
void loop_timer_start(struct loop *l, struct loop_timer *t, uint64_t at_ns);
void loop_timer_stop(struct loop *l, struct loop_timer *t);
static inline bool loop_timer_is_running(const struct loop_timer *t)
{
    return heap_has(&t->node);
}

/* ---- Messages between loops ---- */

/* Embedded by the sender; run() is called once, on the receiving loop's stack top, and may free it
 * or post it on. */
struct loop_msg {
    struct loop_msg *next;
    void (*run)(struct loop_msg *msg);
};

/*
 * From any thread (also the loop's own). Messages of one sender arrive in order.
 * The caller must know that the loop still exists.
 */
void loop_post(struct loop *to, struct loop_msg *msg);

/* ---- Operations ---- */

struct loop_conn;

struct loop_op {
    void (*done)(struct loop_op *op);
    int64_t result;         /* bytes, 0, or -errno */
    struct loop_conn *conn; /* the new connection, of accept and connect that succeeded */

    /* Private to the back end. */
    struct list link;
    struct loop *loop;
    uint64_t priv[10];
};

/* Set `done`; start functions initialise the rest. */
static inline void loop_op_init(struct loop_op *op, void (*done)(struct loop_op *op))
{
    op->done = done;
    list_init(&op->link);
}

/* ---- Files and block devices ---- */

struct loop_file;

enum loop_file_flags {
    LOOP_FILE_WRITE = 1,     /* else read-only */
    LOOP_FILE_CREATE = 2,    /* make it if missing, mode 0600 */
    LOOP_FILE_EXCLUSIVE = 4, /* with CREATE: -EEXIST if there is one */
    LOOP_FILE_DIRECT =
        8, /* O_DIRECT where the file system has it: buffers, offsets, lengths in 4 KiB */
    /* Exclusive advisory lock, -EWOULDBLOCK if someone else has it; held until close. A device that
     * is to be written is not opened while it is mounted or otherwise in use: -EBUSY. */
    LOOP_FILE_LOCK = 16,
};

/* Regular files and block devices. Blocking: for start-up and the control plane. */
int loop_file_open(struct loop *l, const char *path, unsigned flags, struct loop_file **out);
void loop_file_close(struct loop_file *f); /* no op on it may be in flight */
uint64_t loop_file_size(const struct loop_file *f);

/*
 * What is under a file. Where it cannot be found out, the answer is the careful one: volatile,
 * without FUA, without discard.
 */
struct loop_file_info {
    bool is_device;
    /* A write that is done may still be lost with the power: only a flush, or loop_write_durable(),
     * makes it durable. False only of a device that says of itself "write through". */
    bool is_volatile;
    bool has_fua; /* the device makes one write durable without flushing its whole cache */
    /* A file system that has no holes says so only when asked: of a file this is true until the
     * first loop_discard() came back with -EOPNOTSUPP. */
    bool can_discard;
    bool is_sparse; /* a file that has less room than its size: a write into it may be -ENOSPC */
    /* With LOOP_FILE_DIRECT: buffers, offsets and lengths are multiples of this. More than 4096:
     * the device opens, but transfers of 4 KiB will fail. */
    uint32_t io_align;
    uint64_t discard_align; /* less than an aligned run of this is not given back; 0: cannot */
};

/* Blocking: for start-up and the control plane. */
void loop_file_info(const struct loop_file *f, struct loop_file_info *out);

/* Make the file `size` bytes; `reserve`: allocate all of it now, -ENOSPC if the host has no room.
 * Not for devices. */
int loop_file_resize(struct loop_file *f, uint64_t size, bool reserve);

/* A read past the end returns fewer bytes. A short write never happens: it is an error or all. */
void loop_read(struct loop *l, struct loop_op *op, struct loop_file *f, void *buf, size_t len,
               uint64_t offset);
void loop_readv(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                int iov_count, uint64_t offset);
void loop_writev(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                 int iov_count, uint64_t offset);
void loop_write(struct loop *l, struct loop_op *op, struct loop_file *f, const void *buf,
                size_t len, uint64_t offset);

/* As loop_write(); when done() runs with success, the bytes and what is needed to find them are
 * durable. Says nothing about other writes. */
void loop_write_durable(struct loop *l, struct loop_op *op, struct loop_file *f, const void *buf,
                        size_t len, uint64_t offset);

/*
 * The range is of no more use, and its room is given back: reads of it find zeros, or anything,
 * also what was there. Both numbers are multiples of 4096, the range lies within the file. Takes
 * its time; a later write to it is started after done(). Result 0; -EOPNOTSUPP where there is no
 * such thing: nothing has changed. Of a file, what was reserved goes too: a later write there may
 * be -ENOSPC.
 */
void loop_discard(struct loop *l, struct loop_op *op, struct loop_file *f, uint64_t offset,
                  uint64_t len);

/* fdatasync: covers writes whose done() ran before this was started, and no others. */
void loop_flush(struct loop *l, struct loop_op *op, struct loop_file *f);

/* The same, blocking; for libraft's synchronous calls and for start-up. 0 or bytes, or -errno. */
int64_t loop_read_now(struct loop_file *f, void *buf, size_t len, uint64_t offset);
int64_t loop_write_now(struct loop_file *f, const void *buf, size_t len, uint64_t offset);
int loop_flush_now(struct loop_file *f);

/*
 * Tell the loop where the caller's I/O buffers lie: transfers of one buffer that lies wholly in
 * such a region cost less CPU. An advice: what it returns changes nothing but that. 0, or -errno:
 * the back end has no such thing (-ENOTSUP), it has LOOP_BUFFERS_MAX regions (-ENOSPC), or may not
 * lock that much memory (where that is limited, half of it is left to loops). Before the memory is
 * freed, and with no op on it in flight, it is unregistered (or the loop halted).
 */
enum { LOOP_BUFFERS_MAX = 16 };
int loop_buffers_register(struct loop *l, void *base, size_t len);
int loop_buffers_unregister(struct loop *l, void *base); /* -ENOENT: was not registered */

/* Names. Blocking. Paths are the host's; a rename or unlink is durable after loop_dir_sync() of the
 * folder. */
int loop_dir_create(struct loop *l, const char *path); /* 0700; 0 if it is there already */
int loop_dir_sync(struct loop *l, const char *path);
int loop_dir_list(struct loop *l, const char *path, void (*each)(void *arg, const char *name),
                  void *arg); /* names without . and .., in no order */
int loop_rename(struct loop *l, const char *from, const char *to);
int loop_unlink(struct loop *l, const char *path);
int64_t loop_disk_free(struct loop *l, const char *path); /* bytes free to us on its file system */

/* ---- Byte-stream connections ---- */

struct loop_listener;

/* IPv4 or IPv6 (v4 as ::ffff:a.b.c.d). All zero: no address. In the simulator the ip holds the
 * host's number. */
struct loop_addr {
    uint8_t ip[16];
    uint16_t port;
};

/* "127.0.0.1:7400", "[::1]:7400". str size >= LOOP_ADDR_STR. No names are resolved. */
enum { LOOP_ADDR_STR = 64 };
bool loop_addr_parse(const char *s, struct loop_addr *out);
void loop_addr_format(const struct loop_addr *a, char *dst, size_t dst_size);
bool loop_addr_is_loopback(const struct loop_addr *a);
bool loop_addr_equal(const struct loop_addr *a, const struct loop_addr *b);

/* Port 0: any free one. `bound` tells the address in use. -EADDRINUSE where another process
 * listens. */
int loop_listen(struct loop *l, const struct loop_addr *addr, struct loop_listener **out,
                struct loop_addr *bound);
/* A listener on a unix socket path (not in the simulator): removes a dead socket file first. */
int loop_listen_unix(struct loop *l, const char *path, struct loop_listener **out);
void loop_listener_close(struct loop_listener *s); /* a pending accept ends with -ECANCELED */

void loop_accept(struct loop *l, struct loop_op *op, struct loop_listener *s);
void loop_connect(struct loop *l, struct loop_op *op, const struct loop_addr *addr);

/* Up to len bytes as they come; 0: the peer ended its stream. At most one recv at a time. */
void loop_recv(struct loop *l, struct loop_op *op, struct loop_conn *c, void *buf, size_t len);

/* All bytes of the iovecs or -errno. At most one send at a time. TCP_NODELAY is on. */
void loop_send(struct loop *l, struct loop_op *op, struct loop_conn *c, const struct iovec *iov,
               int iov_count);

/* Ends the connection; ops in flight on it come back with -ECANCELED (or what they had), then its
 * memory goes. */
void loop_conn_close(struct loop_conn *c);

void loop_conn_peer(const struct loop_conn *c, struct loop_addr *out);

/* Give an idle connection (no op in flight) to another loop, which may use it once a later
 * loop_post() tells it so. */
void loop_conn_move(struct loop_conn *c, struct loop *to);

#endif /* IO_LOOP_H */
