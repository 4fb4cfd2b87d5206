/*
 * What a back end of io/loop.h implements. loop.c checks arguments and calls
 * through this table; tasks and timers are the same for all back ends.
 *
 * A back end's own structs begin with these: loop, file, listener, conn.
 */

#ifndef IO_LOOP_IMPL_H
#define IO_LOOP_IMPL_H

#include "io/loop.h"

struct loop_backend {
    const char *name;
    void (*run)(struct loop *l);
    void (*stop)(struct loop *l);
    void (*halt)(struct loop *l);    /* end what the kernel holds; NULL: nothing to do. Once. */
    void (*destroy)(struct loop *l); /* after halt: free the loop and its handles */
    void (*woken)(struct loop *l);   /* a task or an earlier timer was added from the loop's own
                                        thread: see to it that the loop turns */
    uint64_t (*now)(struct loop *l);
    uint64_t (*wall_ms)(struct loop *l);
    void (*random)(struct loop *l, void *buf, size_t len);
    void (*post)(struct loop *to, struct loop_msg *msg);

    int (*file_open)(struct loop *l, const char *path, unsigned flags, struct loop_file **out);
    void (*file_close)(struct loop_file *f);
    uint64_t (*file_size)(const struct loop_file *f);
    void (*file_info)(const struct loop_file *f, struct loop_file_info *out);
    int (*file_resize)(struct loop_file *f, uint64_t size, bool reserve);
    void (*readv)(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                  int iov_count, uint64_t offset);
    void (*writev)(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                   int iov_count, uint64_t offset, bool is_durable);
    void (*discard)(struct loop *l, struct loop_op *op, struct loop_file *f, uint64_t offset,
                    uint64_t len);
    void (*flush)(struct loop *l, struct loop_op *op, struct loop_file *f);
    int64_t (*read_now)(struct loop_file *f, void *buf, size_t len, uint64_t offset);
    int64_t (*write_now)(struct loop_file *f, const void *buf, size_t len, uint64_t offset);
    int (*flush_now)(struct loop_file *f);
    int (*buffers_register)(struct loop *l, void *base, size_t len); /* NULL: has no such thing */
    int (*buffers_unregister)(struct loop *l, void *base);

    int (*dir_create)(struct loop *l, const char *path);
    int (*dir_sync)(struct loop *l, const char *path);
    int (*dir_list)(struct loop *l, const char *path, void (*each)(void *arg, const char *name),
                    void *arg);
    int (*rename)(struct loop *l, const char *from, const char *to);
    int (*unlink)(struct loop *l, const char *path);
    int64_t (*disk_free)(struct loop *l, const char *path);

    int (*listen)(struct loop *l, const struct loop_addr *addr, struct loop_listener **out,
                  struct loop_addr *bound);
    int (*listen_unix)(struct loop *l, const char *path, struct loop_listener **out);
    void (*listener_close)(struct loop_listener *s);
    void (*accept)(struct loop *l, struct loop_op *op, struct loop_listener *s);
    void (*connect)(struct loop *l, struct loop_op *op, const struct loop_addr *addr);
    void (*recv)(struct loop *l, struct loop_op *op, struct loop_conn *c, void *buf, size_t len);
    void (*send)(struct loop *l, struct loop_op *op, struct loop_conn *c, const struct iovec *iov,
                 int iov_count);
    void (*conn_close)(struct loop_conn *c);
    void (*conn_peer)(const struct loop_conn *c, struct loop_addr *out);
    void (*conn_move)(struct loop_conn *c, struct loop *to);
};

struct loop {
    const struct loop_backend *backend;
    struct runq runq;
    struct heap timers; /* struct loop_timer.node, keyed by loop_now() */
    bool dead;          /* calls nobody any more; loop.c lets no call through to the back end */
};

/* What loop_create() chooses from. */
int loop_uring_create(struct loop **out, uint32_t entries);
int loop_uv_create(struct loop **out, uint32_t entries);

/* For back ends: what is the same in all of them. */

void loop_base_init(struct loop *l, const struct loop_backend *backend);
void loop_base_deinit(struct loop *l);

/* The loop is dead from here on: it forgets its tasks and timers, so that their owners may free
 * them in any order. */
void loop_base_kill(struct loop *l);

/* When the next timer is due; UINT64_MAX: there is none. */
uint64_t loop_timers_next(const struct loop *l);

/* Fire what is due at `now`; a timer started meanwhile waits for the next call. */
void loop_timers_fire(struct loop *l, uint64_t now);

/*
 * The single-buffer calls are the vectored ones with an iovec that loop.c keeps in priv[8..9]:
 * priv[0..7] are the back end's.
 */
enum { LOOP_PRIV_IOV = 8 };
static_assert(sizeof(struct iovec) == 2 * sizeof(uint64_t), "an iovec fits into two words");

struct loop_file {
    struct loop *loop;
};

struct loop_listener {
    struct loop *loop;
};

struct loop_conn {
    struct loop *loop;
};

#endif /* IO_LOOP_IMPL_H */
