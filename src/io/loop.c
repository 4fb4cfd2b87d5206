#include "io/loop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "io/loop_impl.h"

/*
 * The one way in: arguments are checked here, once for all back ends, and a dead loop lets nothing
 * through. What is the same everywhere (tasks, timers, addresses) is done here too.
 */

void loop_base_init(struct loop *l, const struct loop_backend *backend)
{
    l->backend = backend;
    l->dead = false;
    runq_init(&l->runq);
    heap_init(&l->timers);
}

void loop_base_deinit(struct loop *l)
{
    check(l->dead);
    heap_deinit(&l->timers);
}

void loop_base_kill(struct loop *l)
{
    l->dead = true;
    while (list_pop(&l->runq.ready) != NULL)
        ;
    for (uint32_t i = 0; i < l->timers.count; i++)
        l->timers.nodes[i]->slot = 0;
    l->timers.count = 0;
}

void loop_run(struct loop *l)
{
    check(!l->dead);
    l->backend->run(l);
}

void loop_stop(struct loop *l)
{
    l->backend->stop(l);
}

void loop_halt(struct loop *l)
{
    if (l->dead)
        return;
    if (l->backend->halt != NULL)
        l->backend->halt(l);
    loop_base_kill(l);
}

void loop_destroy(struct loop *l)
{
    loop_halt(l);
    l->backend->destroy(l);
}

/* ---- Tasks, time, randomness ---- */

void loop_wake(struct loop *l, struct task *task)
{
    if (l->dead)
        return;

    bool first = list_empty(&l->runq.ready);
    runq_wake(&l->runq, task);
    if (first)
        l->backend->woken(l);
}

uint64_t loop_now(struct loop *l)
{
    return l->backend->now(l);
}

uint64_t loop_wall_ms(struct loop *l)
{
    return l->backend->wall_ms(l);
}

void loop_random(struct loop *l, void *buf, size_t len)
{
    l->backend->random(l, buf, len);
}

uint64_t loop_random_u64(struct loop *l)
{
    uint64_t x;

    loop_random(l, &x, sizeof(x));
    return x;
}

void loop_timer_init(struct loop_timer *t, void (*fire)(struct loop_timer *t))
{
    *t = (struct loop_timer){.fire = fire};
}

void loop_timer_start(struct loop *l, struct loop_timer *t, uint64_t at_ns)
{
    check(t->fire != NULL);
    if (l->dead)
        return;

    heap_remove(&l->timers, &t->node);
    heap_insert(&l->timers, &t->node, at_ns);
    if (heap_min(&l->timers) == &t->node)
        l->backend->woken(l);
}

void loop_timer_stop(struct loop *l, struct loop_timer *t)
{
    heap_remove(&l->timers, &t->node);
}

uint64_t loop_timers_next(const struct loop *l)
{
    const struct heap_node *n = heap_min(&l->timers);
    return n == NULL ? UINT64_MAX : n->key;
}

/* As many as there were: one that starts itself again in the past must not hold up the loop. */
void loop_timers_fire(struct loop *l, uint64_t now)
{
    for (uint32_t left = l->timers.count; left > 0; left--) {
        struct heap_node *n = heap_min(&l->timers);
        if (n == NULL || n->key > now)
            return;
        heap_remove(&l->timers, n);
        struct loop_timer *t = container_of(n, struct loop_timer, node);
        t->fire(t);
    }
}

void loop_post(struct loop *to, struct loop_msg *msg)
{
    check(msg->run != NULL);
    to->backend->post(to, msg);
}

/* ---- Operations ---- */

enum { LOOP_BLOCK_BYTES = 4096 };

/* False: the loop is dead and the op will never come back. */
static bool op_begin(struct loop *l, struct loop_op *op)
{
    check(op->done != NULL);

    op->result = 0;
    op->conn = NULL;
    op->loop = l;
    list_init(&op->link);
    return !l->dead;
}

static struct iovec *op_iovec(struct loop_op *op, const void *buf, size_t len)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};

    return memcpy(&op->priv[LOOP_PRIV_IOV], &iov, sizeof(iov));
}

static void check_iov(const struct iovec *iov, int iov_count)
{
    check(iov_count > 0 && iov_count <= LOOP_IOV_MAX);
    check(iov != NULL);
}

/* ---- Files ---- */

int loop_file_open(struct loop *l, const char *path, unsigned flags, struct loop_file **out)
{
    check((flags & LOOP_FILE_CREATE) == 0 || (flags & LOOP_FILE_WRITE) != 0);
    check((flags & LOOP_FILE_EXCLUSIVE) == 0 || (flags & LOOP_FILE_CREATE) != 0);

    *out = NULL;
    return l->dead ? -ECANCELED : l->backend->file_open(l, path, flags, out);
}

void loop_file_close(struct loop_file *f)
{
    if (!f->loop->dead)
        f->loop->backend->file_close(f);
}

uint64_t loop_file_size(const struct loop_file *f)
{
    return f->loop->backend->file_size(f);
}

void loop_file_info(const struct loop_file *f, struct loop_file_info *out)
{
    *out = (struct loop_file_info){.is_volatile = true, .io_align = LOOP_BLOCK_BYTES};
    if (!f->loop->dead)
        f->loop->backend->file_info(f, out);
}

int loop_file_resize(struct loop_file *f, uint64_t size, bool reserve)
{
    check(size <= INT64_MAX);
    return f->loop->dead ? -ECANCELED : f->loop->backend->file_resize(f, size, reserve);
}

void loop_readv(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                int iov_count, uint64_t offset)
{
    check(f->loop == l);
    check(offset <= INT64_MAX);
    check_iov(iov, iov_count);
    if (op_begin(l, op))
        l->backend->readv(l, op, f, iov, iov_count, offset);
}

static void write_begin(struct loop *l, struct loop_op *op, struct loop_file *f,
                        const struct iovec *iov, int iov_count, uint64_t offset, bool is_durable)
{
    check(f->loop == l);
    check(offset <= INT64_MAX);
    check_iov(iov, iov_count);
    if (op_begin(l, op))
        l->backend->writev(l, op, f, iov, iov_count, offset, is_durable);
}

void loop_writev(struct loop *l, struct loop_op *op, struct loop_file *f, const struct iovec *iov,
                 int iov_count, uint64_t offset)
{
    write_begin(l, op, f, iov, iov_count, offset, false);
}

void loop_read(struct loop *l, struct loop_op *op, struct loop_file *f, void *buf, size_t len,
               uint64_t offset)
{
    loop_readv(l, op, f, op_iovec(op, buf, len), 1, offset);
}

void loop_write(struct loop *l, struct loop_op *op, struct loop_file *f, const void *buf,
                size_t len, uint64_t offset)
{
    write_begin(l, op, f, op_iovec(op, buf, len), 1, offset, false);
}

void loop_write_durable(struct loop *l, struct loop_op *op, struct loop_file *f, const void *buf,
                        size_t len, uint64_t offset)
{
    write_begin(l, op, f, op_iovec(op, buf, len), 1, offset, true);
}

void loop_discard(struct loop *l, struct loop_op *op, struct loop_file *f, uint64_t offset,
                  uint64_t len)
{
    check(f->loop == l);
    check(offset % LOOP_BLOCK_BYTES == 0 && len % LOOP_BLOCK_BYTES == 0);
    check(len > 0 && offset <= INT64_MAX && len <= INT64_MAX - offset);
    if (op_begin(l, op))
        l->backend->discard(l, op, f, offset, len);
}

void loop_flush(struct loop *l, struct loop_op *op, struct loop_file *f)
{
    check(f->loop == l);
    if (op_begin(l, op))
        l->backend->flush(l, op, f);
}

int64_t loop_read_now(struct loop_file *f, void *buf, size_t len, uint64_t offset)
{
    check(len <= INT64_MAX && offset <= INT64_MAX - len);
    return f->loop->dead ? -ECANCELED : f->loop->backend->read_now(f, buf, len, offset);
}

int64_t loop_write_now(struct loop_file *f, const void *buf, size_t len, uint64_t offset)
{
    check(len <= INT64_MAX && offset <= INT64_MAX - len);
    return f->loop->dead ? -ECANCELED : f->loop->backend->write_now(f, buf, len, offset);
}

int loop_flush_now(struct loop_file *f)
{
    return f->loop->dead ? -ECANCELED : f->loop->backend->flush_now(f);
}

int loop_buffers_register(struct loop *l, void *base, size_t len)
{
    check(base != NULL && len > 0);
    if (l->dead)
        return -ECANCELED;
    return l->backend->buffers_register == NULL ? -ENOTSUP
                                                : l->backend->buffers_register(l, base, len);
}

int loop_buffers_unregister(struct loop *l, void *base)
{
    if (l->dead)
        return -ECANCELED;
    return l->backend->buffers_unregister == NULL ? -ENOENT
                                                  : l->backend->buffers_unregister(l, base);
}

int loop_dir_create(struct loop *l, const char *path)
{
    return l->dead ? -ECANCELED : l->backend->dir_create(l, path);
}

int loop_dir_sync(struct loop *l, const char *path)
{
    return l->dead ? -ECANCELED : l->backend->dir_sync(l, path);
}

int loop_dir_list(struct loop *l, const char *path, void (*each)(void *arg, const char *name),
                  void *arg)
{
    return l->dead ? -ECANCELED : l->backend->dir_list(l, path, each, arg);
}

int loop_rename(struct loop *l, const char *from, const char *to)
{
    return l->dead ? -ECANCELED : l->backend->rename(l, from, to);
}

int loop_unlink(struct loop *l, const char *path)
{
    return l->dead ? -ECANCELED : l->backend->unlink(l, path);
}

int64_t loop_disk_free(struct loop *l, const char *path)
{
    return l->dead ? -ECANCELED : l->backend->disk_free(l, path);
}

/* ---- Addresses ---- */

static const uint8_t v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool addr_is_v4(const struct loop_addr *a)
{
    return memcmp(a->ip, v4_prefix, sizeof(v4_prefix)) == 0;
}

/* Split at the last colon; an IPv6 address stands in brackets. */
bool loop_addr_parse(const char *s, struct loop_addr *out)
{
    char host[LOOP_ADDR_STR];
    const char *colon = strrchr(s, ':');
    uint64_t port;

    *out = (struct loop_addr){0};
    if (colon == NULL || (size_t)(colon - s) >= sizeof(host) || colon == s)
        return false;
    if (strlen(colon + 1) > 5 || !str_to_u64(colon + 1, &port) || port > UINT16_MAX)
        return false;
    size_t host_len = (size_t)(colon - s);
    memcpy(host, s, host_len);
    host[host_len] = '\0';

    struct loop_addr a = {.port = (uint16_t)port};
    if (host[0] == '[') {
        if (host[host_len - 1] != ']')
            return false;
        host[host_len - 1] = '\0';
        if (inet_pton(AF_INET6, host + 1, a.ip) != 1)
            return false;
    } else {
        memcpy(a.ip, v4_prefix, sizeof(v4_prefix));
        if (inet_pton(AF_INET, host, a.ip + sizeof(v4_prefix)) != 1)
            return false;
    }
    *out = a;
    return true;
}

void loop_addr_format(const struct loop_addr *a, char *dst, size_t dst_size)
{
    char host[INET6_ADDRSTRLEN];

    check(dst_size >= LOOP_ADDR_STR);
    if (addr_is_v4(a)) {
        inet_ntop(AF_INET, a->ip + sizeof(v4_prefix), host, sizeof(host));
        snprintf(dst, dst_size, "%s:%" PRIu16, host, a->port);
    } else {
        inet_ntop(AF_INET6, a->ip, host, sizeof(host));
        snprintf(dst, dst_size, "[%s]:%" PRIu16, host, a->port);
    }
}

bool loop_addr_is_loopback(const struct loop_addr *a)
{
    static const uint8_t v6_loopback[16] = {[15] = 1};

    return (addr_is_v4(a) && a->ip[12] == 127) || memcmp(a->ip, v6_loopback, 16) == 0;
}

bool loop_addr_equal(const struct loop_addr *a, const struct loop_addr *b)
{
    return a->port == b->port && memcmp(a->ip, b->ip, sizeof(a->ip)) == 0;
}

/* ---- Connections ---- */

int loop_listen(struct loop *l, const struct loop_addr *addr, struct loop_listener **out,
                struct loop_addr *bound)
{
    *out = NULL;
    return l->dead ? -ECANCELED : l->backend->listen(l, addr, out, bound);
}

int loop_listen_unix(struct loop *l, const char *path, struct loop_listener **out)
{
    *out = NULL;
    return l->dead ? -ECANCELED : l->backend->listen_unix(l, path, out);
}

void loop_listener_close(struct loop_listener *s)
{
    if (!s->loop->dead)
        s->loop->backend->listener_close(s);
}

void loop_accept(struct loop *l, struct loop_op *op, struct loop_listener *s)
{
    check(s->loop == l);
    if (op_begin(l, op))
        l->backend->accept(l, op, s);
}

void loop_connect(struct loop *l, struct loop_op *op, const struct loop_addr *addr)
{
    if (op_begin(l, op))
        l->backend->connect(l, op, addr);
}

void loop_recv(struct loop *l, struct loop_op *op, struct loop_conn *c, void *buf, size_t len)
{
    check(c->loop == l);
    check(len > 0);
    if (op_begin(l, op))
        l->backend->recv(l, op, c, buf, len);
}

void loop_send(struct loop *l, struct loop_op *op, struct loop_conn *c, const struct iovec *iov,
               int iov_count)
{
    check(c->loop == l);
    check_iov(iov, iov_count);
    if (op_begin(l, op))
        l->backend->send(l, op, c, iov, iov_count);
}

void loop_conn_close(struct loop_conn *c)
{
    if (!c->loop->dead)
        c->loop->backend->conn_close(c);
}

void loop_conn_peer(const struct loop_conn *c, struct loop_addr *out)
{
    c->loop->backend->conn_peer(c, out);
}

void loop_conn_move(struct loop_conn *c, struct loop *to)
{
    check(c->loop->backend == to->backend);
    if (!c->loop->dead)
        c->loop->backend->conn_move(c, to);
}
