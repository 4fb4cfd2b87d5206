#include "gw/nbd.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "gw/nbd_internal.h"

/* ---- Memory ---- */

static void server_pools_init(struct nbd_server *s)
{
    const uint32_t conns_max = s->config.connections_max;
    const uint32_t requests_max = conns_max * NBD_DEPTH_MAX;
    uint32_t small_count = (uint32_t)(s->config.memory_max / 4 / NBD_SMALL_SIZE);
    uint32_t large_count = (uint32_t)(s->config.memory_max / 4 * 3 / NBD_LARGE_SIZE);

    if (large_count < NBD_WINDOW)
        large_count = NBD_WINDOW;
    if (small_count < NBD_DEPTH_MAX)
        small_count = NBD_DEPTH_MAX;
    s->held_max = large_count / 4 < NBD_WINDOW ? NBD_WINDOW : large_count / 4;
    pool_init(&s->conns_pool, conns_max, sizeof(struct nbd_conn), 64);
    pool_init(&s->requests_pool, requests_max, sizeof(struct nbd_request), 64);
    /* One piece without a buffer for each request that needs none. */
    pool_init(&s->pieces_pool, requests_max + small_count + large_count, sizeof(struct nbd_piece),
              64);
    pool_init(&s->buffers[NBD_MEMORY_SMALL], small_count, NBD_SMALL_SIZE, 4096);
    pool_init(&s->buffers[NBD_MEMORY_LARGE], large_count, NBD_LARGE_SIZE, 4096);
    s->status.memory_bytes_max =
        (uint64_t)small_count * NBD_SMALL_SIZE + (uint64_t)large_count * NBD_LARGE_SIZE;
}

static uint64_t memory_size(enum nbd_memory memory)
{
    switch (memory) {
    case NBD_MEMORY_SMALL:
        return NBD_SMALL_SIZE;
    case NBD_MEMORY_LARGE:
        return NBD_LARGE_SIZE;
    case NBD_MEMORY_NONE:
    case NBD_MEMORIES:
        break;
    }
    return 0;
}

/*
 * Who finds its pool empty queues, and is served before anybody who comes later. A
 * connection that has its share does not queue: what it waits for is its own.
 */
static bool memory_is_for(const struct nbd_conn *c, enum nbd_memory memory)
{
    const struct list *waiters = &c->server->waiters[memory];

    if (memory == NBD_MEMORY_LARGE && c->held[memory] >= c->server->held_max)
        return false;
    return list_empty(waiters) || waiters->next == &c->memory_link;
}

static void memory_wake_first(struct nbd_server *s, enum nbd_memory memory)
{
    if (list_empty(&s->waiters[memory]))
        return;
    struct nbd_conn *first = container_of(s->waiters[memory].next, struct nbd_conn, memory_link);
    loop_wake(s->loop, &first->task);
}

void nbd_memory_wait(struct nbd_conn *c, enum nbd_memory memory)
{
    if (memory == NBD_MEMORY_LARGE && c->held[memory] >= c->server->held_max)
        return;
    if (list_empty(&c->memory_link)) {
        c->memory_wanted = memory;
        list_push(&c->server->waiters[memory], &c->memory_link);
    }
}

void nbd_memory_stop_waiting(struct nbd_conn *c)
{
    if (list_empty(&c->memory_link))
        return;
    list_remove(&c->memory_link);
    memory_wake_first(c->server, c->memory_wanted);
}

struct nbd_piece *nbd_piece_get(struct nbd_conn *c, enum nbd_memory memory)
{
    struct nbd_server *s = c->server;
    void *buf = NULL;

    if (memory != NBD_MEMORY_NONE) {
        if (memory_is_for(c, memory))
            buf = pool_get(&s->buffers[memory]);
        if (buf == NULL)
            return NULL;
    }
    struct nbd_piece *p = pool_get(&s->pieces_pool);
    check(p != NULL);
    memset(p, 0, sizeof(*p));
    p->memory = memory;
    p->buf = buf;
    list_init(&p->link);
    list_init(&p->finished_link);
    c->held[memory]++;
    s->status.memory_bytes += memory_size(memory);
    return p;
}

void nbd_piece_put(struct nbd_conn *c, struct nbd_piece *p)
{
    struct nbd_server *s = c->server;
    enum nbd_memory memory = p->memory;

    check(list_empty(&p->link) && list_empty(&p->finished_link));
    c->held[memory]--;
    s->status.memory_bytes -= memory_size(memory);
    if (memory != NBD_MEMORY_NONE)
        pool_put(&s->buffers[memory], p->buf);
    pool_put(&s->pieces_pool, p);
    memory_wake_first(s, memory);
}

/* ---- Accepting ---- */

static void accept_on_socket(struct loop_op *op)
{
    struct nbd_accept *a = container_of(op, struct nbd_accept, op);

    a->is_done = true;
    loop_wake(a->server->loop, &a->task);
}

static void accept_on_retry(struct loop_timer *timer)
{
    struct nbd_accept *a = container_of(timer, struct nbd_accept, retry);

    loop_wake(a->server->loop, &a->task);
}

static void accept_take(struct nbd_accept *a)
{
    struct nbd_server *s = a->server;

    a->is_done = false;
    a->is_waiting = false;
    if (a->op.result == 0 && s->is_stopping) {
        loop_conn_close(a->op.conn);
    } else if (a->op.result == 0) {
        s->status.connections++;
        s->status.connections_total++;
        nbd_conn_start(s, a->op.conn);
    } else if (a->op.result != -ECANCELED) {
        log_warn("nbd", "cannot accept a connection error=%d", (int)-a->op.result);
        loop_timer_start(s->loop, &a->retry, loop_now(s->loop) + NBD_ACCEPT_RETRY_MS * NS_PER_MS);
    }
}

static void server_finish_stop(struct nbd_server *s)
{
    if (!s->is_stopping || s->stop_msg == NULL || !list_empty(&s->conns))
        return;
    for (uint32_t i = 0; i < s->accepts_count; i++) {
        if (s->accepts[i].is_waiting)
            return;
    }
    struct loop_msg *msg = s->stop_msg;
    s->stop_msg = NULL;
    loop_post(s->stop_to, msg);
}

/* Two listeners may both have an accept in flight when one place is left: each keeps one. */
static bool accept_has_room(const struct nbd_accept *a)
{
    const struct nbd_server *s = a->server;

    return s->conns_pool.used + s->accepts_count <= s->conns_pool.count;
}

static void accept_step(struct task *task)
{
    struct nbd_accept *a = container_of(task, struct nbd_accept, task);
    struct nbd_server *s = a->server;

    if (a->is_done)
        accept_take(a);
    if (s->is_stopping) {
        server_finish_stop(s);
        return;
    }
    if (a->is_waiting || loop_timer_is_running(&a->retry) || !accept_has_room(a))
        return;
    a->is_waiting = true;
    loop_accept(s->loop, &a->op, a->listener);
}

void nbd_server_conn_gone(struct nbd_server *s)
{
    s->status.connections--;
    for (uint32_t i = 0; i < s->accepts_count; i++)
        loop_wake(s->loop, &s->accepts[i].task);
}

static void server_add_listener(struct nbd_server *s, struct loop_listener *listener)
{
    struct nbd_accept *a = &s->accepts[s->accepts_count++];

    a->server = s;
    a->listener = listener;
    task_init(&a->task, accept_step);
    loop_op_init(&a->op, accept_on_socket);
    loop_timer_init(&a->retry, accept_on_retry);
    loop_wake(s->loop, &a->task);
}

/* ---- Create, stop, close ---- */

static int server_listen(struct nbd_server *s, struct loop_addr *bound)
{
    struct loop_listener *listener = NULL;
    int error = loop_listen(s->loop, &s->config.listen, &listener, bound);

    if (error != 0)
        return error;
    server_add_listener(s, listener);
    if (s->config.unix_path == NULL)
        return 0;
    error = loop_listen_unix(s->loop, s->config.unix_path, &listener);
    if (error != 0)
        return error;
    server_add_listener(s, listener);
    return 0;
}

static void server_close_listeners(struct nbd_server *s)
{
    for (uint32_t i = 0; i < s->accepts_count; i++) {
        struct nbd_accept *a = &s->accepts[i];
        loop_timer_stop(s->loop, &a->retry);
        if (a->listener != NULL)
            loop_listener_close(a->listener);
        a->listener = NULL;
        loop_wake(s->loop, &a->task);
    }
}

static void server_free(struct nbd_server *s)
{
    pool_deinit(&s->conns_pool);
    pool_deinit(&s->requests_pool);
    pool_deinit(&s->pieces_pool);
    pool_deinit(&s->buffers[NBD_MEMORY_SMALL]);
    pool_deinit(&s->buffers[NBD_MEMORY_LARGE]);
    free(s);
}

int nbd_server_create(const struct nbd_server_config *config, struct nbd_server **out,
                      struct loop_addr *bound)
{
    struct nbd_server *s = mem_zalloc(sizeof(*s));

    s->config = *config;
    s->loop = config->loop;
    s->backend = config->backend;
    if (s->config.connections_max == 0)
        s->config.connections_max = NBD_CONNECTIONS_DEFAULT;
    if (s->config.connections_max < NBD_LISTENERS_MAX)
        s->config.connections_max = NBD_LISTENERS_MAX;
    if (s->config.memory_max == 0)
        s->config.memory_max = NBD_MEMORY_DEFAULT;
    list_init(&s->conns);
    for (uint32_t i = 0; i < NBD_MEMORIES; i++)
        list_init(&s->waiters[i]);

    int error = server_listen(s, bound);
    if (error != 0) {
        for (uint32_t i = 0; i < s->accepts_count; i++)
            task_cancel(&s->accepts[i].task);
        if (s->accepts_count > 0)
            loop_listener_close(s->accepts[0].listener);
        free(s);
        return error;
    }
    server_pools_init(s);
    *out = s;
    return 0;
}

void nbd_server_stop(struct nbd_server *s, struct loop *to, struct loop_msg *done_msg)
{
    check(!s->is_stopping);

    s->is_stopping = true;
    s->stop_to = to;
    s->stop_msg = done_msg;
    server_close_listeners(s);
    list_for_each (pos, &s->conns)
        nbd_conn_end(container_of(pos, struct nbd_conn, link));
}

/* Open handles of a dead loop's connections are the backend's to free, with the backend. */
void nbd_server_close(struct nbd_server *s)
{
    for (uint32_t i = 0; i < s->accepts_count; i++) {
        task_cancel(&s->accepts[i].task);
    }
    server_free(s);
}

void nbd_server_status(const struct nbd_server *s, struct nbd_status *out)
{
    *out = s->status;
}
