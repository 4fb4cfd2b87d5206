/*
 * What the back ends over a real system share (loop_uring.c, loop_uv.c): they differ in how they
 * wait and in how bytes move, and in nothing else.
 *   os_loop.c  messages between threads, clocks, what has finished, the end of a loop
 *   os_file.c  files, devices, names
 *   os_info.c  what the kernel tells about a device
 *   os_net.c   addresses, listeners, connections
 *
 * A back end's loop begins with struct os_loop. Files, listeners and connections are these structs
 * in both.
 */

#ifndef IO_OS_H
#define IO_OS_H

#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "io/loop_impl.h"

struct luv_watch;

struct os_loop {
    struct loop base;
    bool is_stopping;
    struct list finished; /* struct loop_op: the result is known; done() runs in os_deliver() */
    uint32_t finished_count;

    struct list files; /* struct os_file, and so on: for the end */
    struct list listeners;
    struct list conns;

    /* Touched by other threads. */
    _Atomic(struct loop_msg *) inbox;      /* newest first; or a mark, see os_loop.c */
    _Atomic(struct loop_msg *) moved_late; /* connections that came after the halt */
    atomic_bool stop_posted;
    struct loop_msg stop_msg;
    int wake_fd; /* an eventfd: written to by whoever posts to a loop that sleeps */
};

struct os_file {
    struct loop_file base;
    struct list link;
    int fd;
    bool is_device;
    bool is_direct;
    bool has_no_discard_cmd; /* a device to which the ring's command for it means nothing */
    dev_t device;            /* its number */
    uint64_t size;           /* of a device */
    uint32_t ops_count;
};

struct os_listener {
    struct loop_listener base;
    struct list link;
    int fd;
    bool is_closing;
    uint32_t ops_count;
    char *path;              /* of a unix socket, else NULL */
    struct luv_watch *watch; /* over libuv: see uv_impl.h */
};

struct os_conn {
    struct loop_conn base;
    struct list link;
    int fd;
    bool is_closing;
    struct loop_op *recv;
    struct loop_op *send;
    struct loop_addr peer;
    struct loop_msg moved;
    struct luv_watch *watch; /* over libuv: see uv_impl.h */
};

/* How far a transfer is through the caller's iovecs, which stay as they are. */
struct os_iov {
    const struct iovec *iov;
    uint32_t count;
    uint32_t at;   /* the first iovec that is not all done, ... */
    uint64_t skip; /* ... and how much of it is */
    uint64_t total;
    uint64_t moved;
};

/* O_DIRECT moves whole sectors; so a transfer that ends inside one ended at the end of the file. */
enum { OS_SECTOR = 512 };

enum { OS_BLOCK = 4096 }; /* what is asked of nobody to be able to do less than */

static inline struct os_loop *os_loop(struct loop *l)
{
    return (struct os_loop *)l;
}

static inline struct os_file *os_file(struct loop_file *f)
{
    return (struct os_file *)f;
}

static inline struct os_listener *os_listener(struct loop_listener *s)
{
    return (struct os_listener *)s;
}

static inline struct os_conn *os_conn(struct loop_conn *c)
{
    return (struct os_conn *)c;
}

/* ---- The loop: os_loop.c ---- */

int os_loop_init(struct os_loop *l, const struct loop_backend *backend);
void os_loop_deinit(struct os_loop *l); /* after os_loop_close(), or when nothing was opened */

/* The last look at what was posted: after this, messages are their owners' to free. */
void os_inbox_halt(struct os_loop *l);
void os_loop_close(struct os_loop *l); /* every descriptor of a handle */

/* How a turn begins: messages, timers that are due, results that are known, a bounded number of
 * tasks. */
void os_turn(struct os_loop *l);

/* How it ends. True: nothing is left to do, and from here on, whoever posts writes to wake_fd. */
bool os_may_sleep(struct os_loop *l);

/* The op has its result; done() follows in the next turn. */
void os_finish(struct os_loop *l, struct loop_op *op, int64_t result);

/* The table's, as they stand. */
void os_stop(struct loop *l);
void os_post(struct loop *to, struct loop_msg *msg);
void os_woken(struct loop *l);
uint64_t os_now(struct loop *l);
uint64_t os_wall_ms(struct loop *l);
void os_random(struct loop *l, void *buf, size_t len);

/* ---- Files: os_file.c ---- */

void os_iov_init(struct os_iov *v, const struct iovec *iov, int iov_count);

/* Some of the bytes are done; true when all are. */
bool os_iov_advance(struct os_iov *v, uint64_t len);

/*
 * What goes in one call: what is left over of an iovec that was done in part goes alone, the whole
 * ones after it together. `part` holds the former.
 */
const struct iovec *os_iov_next(const struct os_iov *v, struct iovec *part, int *count);

/* All of it, blocking; of a read, as much as there is. Bytes or -errno. */
int64_t os_file_read(const struct os_file *f, struct os_iov *v, uint64_t offset);
int64_t os_file_write(const struct os_file *f, struct os_iov *v, uint64_t offset, bool is_durable);
int os_file_discard(const struct os_file *f, uint64_t offset, uint64_t len);

int os_file_open(struct loop *l, const char *path, unsigned flags, struct loop_file **out);
void os_file_close(struct loop_file *f);
uint64_t os_file_size(const struct loop_file *f);
void os_file_info(const struct loop_file *f, struct loop_file_info *out);
int os_file_resize(struct loop_file *f, uint64_t size, bool reserve);
int64_t os_read_now(struct loop_file *f, void *buf, size_t len, uint64_t offset);
int64_t os_write_now(struct loop_file *f, const void *buf, size_t len, uint64_t offset);
int os_flush_now(struct loop_file *f);
int os_dir_create(struct loop *l, const char *path);
int os_dir_sync(struct loop *l, const char *path);
int os_dir_list(struct loop *l, const char *path, void (*each)(void *arg, const char *name),
                void *arg);
int os_rename(struct loop *l, const char *from, const char *to);
int os_unlink(struct loop *l, const char *path);
int64_t os_disk_free(struct loop *l, const char *path);

/* ---- Devices: os_info.c ---- */

/* The folder of a device in sysfs, or of a partition: then the queue is its parent's. Sets all of
 * *out but is_device and is_sparse. */
void os_device_info(const char *sysfs_dir, struct loop_file_info *out);

/* ---- Connections: os_net.c ---- */

/* A socket that is to be connected to `addr`, or -errno. `flags`: SOCK_NONBLOCK or 0. */
int os_connect_socket(const struct loop_addr *addr, int flags, struct sockaddr_in6 *sa,
                      socklen_t *sa_len);

/* A connection to a free port of this machine can meet itself: then nobody listened there. */
bool os_is_connected_to_itself(int fd, const struct sockaddr_in6 *peer);

struct os_conn *os_conn_new(struct os_loop *l, int fd, const struct sockaddr_in6 *peer);
void os_conn_free(struct os_conn *c); /* closes it */
void os_listener_free(struct os_listener *s);

int os_listen(struct loop *l, const struct loop_addr *addr, struct loop_listener **out,
              struct loop_addr *bound);
int os_listen_unix(struct loop *l, const char *path, struct loop_listener **out);
void os_conn_peer(const struct loop_conn *c, struct loop_addr *out);
void os_conn_move(struct loop_conn *c, struct loop *to);

/* A connection on its way to another loop; the message is in that loop's inbox. */
bool os_conn_is_moved(const struct loop_msg *msg);
void os_conn_take_moved(struct loop_msg *msg);
void os_conn_end_moved(struct loop_msg *msg); /* close and free it */

/* Shut down and close: the port is free at once, whatever still refers to the socket. */
void os_socket_end(int fd);

/* What both tables have. */
#define OS_BACKEND                                                                                 \
    .stop = os_stop, .woken = os_woken, .now = os_now, .wall_ms = os_wall_ms, .random = os_random, \
    .post = os_post, .file_open = os_file_open, .file_close = os_file_close,                       \
    .file_size = os_file_size, .file_resize = os_file_resize, .read_now = os_read_now,             \
    .write_now = os_write_now, .flush_now = os_flush_now, .dir_create = os_dir_create,             \
    .dir_sync = os_dir_sync, .dir_list = os_dir_list, .rename = os_rename, .unlink = os_unlink,    \
    .disk_free = os_disk_free, .listen = os_listen, .listen_unix = os_listen_unix,                 \
    .conn_peer = os_conn_peer

#endif /* IO_OS_H */
