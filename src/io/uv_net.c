#include "io/uv_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/pool.h"

/*
 * Sockets do not block; libuv says when one is ready, and the op is done then.
 *
 * Changing what a socket is polled for costs libuv two system calls. So what was waited for stays
 * polled when the op has come back, in the hope of the next one; only when the socket is ready and
 * nobody waits, that event is taken out.
 */

/* ---- Watches ---- */

static void conn_on_ready(struct os_conn *c);
static void listener_on_ready(struct os_listener *s);

static void watch_on_event(uv_poll_t *poll, int status, int events)
{
    struct luv_watch *w = (struct luv_watch *)poll;

    (void)events;
    if (status < 0)
        w->events = 0; /* the socket has an error: libuv stopped, the op that is tried gets it */
    if (w->conn != NULL)
        conn_on_ready(w->conn);
    else
        listener_on_ready(w->listener);
}

static void watch_set(struct luv_watch *w, int events)
{
    if (w->events == events)
        return;
    w->events = events;
    if (events == 0)
        check(uv_poll_stop(&w->poll) == 0);
    else
        check(uv_poll_start(&w->poll, events, watch_on_event) == 0);
}

static void watch_free(uv_handle_t *handle)
{
    free((struct luv_watch *)handle);
}

/* 0, or -errno: the kernel has no room for another watch. */
static int watch_open(struct loop *l, struct luv_watch **out, int fd)
{
    if (*out != NULL) {
        check((*out)->poll.loop == &luv_loop(l)->uv);
        return 0;
    }
    struct luv_watch *w = mem_zalloc(sizeof(*w));
    int err = uv_poll_init(&luv_loop(l)->uv, &w->poll, fd);
    if (err != 0) {
        free(w);
        return err;
    }
    list_init(&w->accepts);
    *out = w;
    return 0;
}

void luv_watch_close(struct luv_watch **watch)
{
    if (*watch != NULL)
        uv_close((uv_handle_t *)&(*watch)->poll, watch_free);
    *watch = NULL;
}

/* ---- Closing ---- */

static void conn_end(struct os_conn *c)
{
    luv_watch_close(&c->watch);
    os_conn_free(c);
}

void luv_conn_close(struct loop_conn *base)
{
    struct os_conn *c = os_conn(base);
    struct os_loop *l = os_loop(base->loop);

    if (c->recv != NULL)
        os_finish(l, c->recv, -ECANCELED);
    if (c->send != NULL)
        os_finish(l, c->send, -ECANCELED);
    conn_end(c);
}

void luv_conn_move(struct loop_conn *base, struct loop *to)
{
    luv_watch_close(&os_conn(base)->watch);
    os_conn_move(base, to);
}

void luv_listener_close(struct loop_listener *base)
{
    struct os_listener *s = os_listener(base);
    struct list *pos;

    while (s->watch != NULL && (pos = list_pop(&s->watch->accepts)) != NULL)
        os_finish(os_loop(base->loop), container_of(pos, struct loop_op, link), -ECANCELED);
    luv_watch_close(&s->watch);
    if (s->path != NULL)
        unlink(s->path);
    os_listener_free(s);
}

/* ---- Operations ---- */

/* The result of a call that should be tried again when the socket is ready. */
enum { NOT_YET = -EAGAIN };

static int64_t call_result(ssize_t n)
{
    if (n >= 0)
        return n;
    return errno == EINTR ? NOT_YET : -errno;
}

static int64_t try_recv(struct os_conn *c)
{
    struct luv_state *s = luv_state(c->recv);

    return call_result(recv(c->fd, s->buf, s->len, 0));
}

/* Two calls: what is left of an iovec that was cut, and the whole ones after it. */
static int64_t try_send(struct os_conn *c)
{
    struct os_iov *v = &luv_state(c->send)->v;

    for (int i = 0; i < 2; i++) {
        struct iovec part;
        int count;
        const struct iovec *iov = os_iov_next(v, &part, &count);
        struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov,
                             .msg_iovlen = (size_t)count};
        int64_t n = call_result(sendmsg(c->fd, &msg, MSG_NOSIGNAL));
        if (n < 0)
            return n;
        if (os_iov_advance(v, (uint64_t)n))
            return (int64_t)v->total;
    }
    return NOT_YET;
}

static int64_t try_connect(struct os_conn *c)
{
    int err = 0;
    socklen_t len = sizeof(err);

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0)
        return -errno;
    if (err == 0 && os_is_connected_to_itself(c->fd, &luv_state(c->send)->addr))
        return -ECONNREFUSED;
    return -err;
}

/* What failed here was no connection yet. */
static void connect_finish(struct os_conn *c, int64_t result)
{
    struct loop_op *op = c->send;

    c->send = NULL;
    os_finish(os_loop(c->base.loop), op, result);
    if (result == 0)
        op->conn = &c->base;
    else
        conn_end(c);
}

static void recv_finish(struct os_conn *c, int64_t result)
{
    struct loop_op *op = c->recv;

    c->recv = NULL;
    os_finish(os_loop(c->base.loop), op, result);
}

static void send_finish(struct os_conn *c, int64_t result)
{
    struct loop_op *op = c->send;

    c->send = NULL;
    os_finish(os_loop(c->base.loop), op, result);
}

static void conn_on_ready(struct os_conn *c)
{
    int64_t result;

    if (c->send != NULL && luv_state(c->send)->kind == LUV_CONNECT) {
        connect_finish(c, try_connect(c));
        return;
    }
    int waited_for = (c->recv != NULL ? UV_READABLE : 0) | (c->send != NULL ? UV_WRITABLE : 0);
    if (c->recv != NULL && (result = try_recv(c)) != NOT_YET)
        recv_finish(c, result);
    if (c->send != NULL && (result = try_send(c)) != NOT_YET)
        send_finish(c, result);
    watch_set(c->watch, waited_for);
}

static void listener_on_ready(struct os_listener *s)
{
    struct os_loop *l = os_loop(s->base.loop);
    struct list *accepts = &s->watch->accepts;
    int waited_for = list_empty(accepts) ? 0 : UV_READABLE;

    while (!list_empty(accepts)) {
        struct loop_op *op = container_of(accepts->next, struct loop_op, link);
        struct sockaddr_in6 addr = {0};
        socklen_t addr_len = sizeof(addr);
        int flags = SOCK_CLOEXEC | SOCK_NONBLOCK;
        int64_t fd = call_result(accept4(s->fd, (struct sockaddr *)&addr, &addr_len, flags));
        if (fd == NOT_YET)
            break;
        list_remove(&op->link);
        if (fd >= 0)
            op->conn = &os_conn_new(l, (int)fd, &addr)->base;
        os_finish(l, op, fd < 0 ? fd : 0);
    }
    watch_set(s->watch, waited_for);
}

void luv_accept(struct loop *l, struct loop_op *op, struct loop_listener *base)
{
    struct os_listener *s = os_listener(base);
    int err = watch_open(l, &s->watch, s->fd);

    if (err != 0) {
        os_finish(os_loop(l), op, err);
        return;
    }
    luv_state(op)->kind = LUV_ACCEPT;
    s->watch->listener = s;
    list_push(&s->watch->accepts, &op->link);
    watch_set(s->watch, UV_READABLE);
}

/* Poll for this, too. -errno: it cannot be. */
static int conn_wait(struct os_conn *c, int event)
{
    int err = watch_open(c->base.loop, &c->watch, c->fd);

    if (err != 0)
        return err;
    c->watch->conn = c;
    watch_set(c->watch, c->watch->events | event);
    return 0;
}

void luv_connect(struct loop *l, struct loop_op *op, const struct loop_addr *addr)
{
    struct luv_state *s = luv_state(op);
    socklen_t addr_len;
    int fd = os_connect_socket(addr, SOCK_NONBLOCK, &s->addr, &addr_len);

    s->kind = LUV_CONNECT;
    if (fd < 0) {
        os_finish(os_loop(l), op, fd);
        return;
    }
    struct os_conn *c = os_conn_new(os_loop(l), fd, &s->addr);
    c->send = op;
    int err = connect(fd, (struct sockaddr *)&s->addr, addr_len) == 0 ? 0 : -errno;
    if (err == 0 || err == -EINPROGRESS || err == -EINTR)
        err = conn_wait(c, UV_WRITABLE); /* one way for all */
    if (err != 0)
        connect_finish(c, err);
}

/* Most receives start before there is anything, so that trying at once is a call for nothing. */
void luv_recv(struct loop *l, struct loop_op *op, struct loop_conn *base, void *buf, size_t len)
{
    struct os_conn *c = os_conn(base);
    struct luv_state *s = luv_state(op);

    (void)l;
    check(c->recv == NULL);
    c->recv = op;
    s->kind = LUV_RECV;
    s->buf = buf;
    s->len = len;
    int err = conn_wait(c, UV_READABLE);
    if (err != 0)
        recv_finish(c, err);
}

/* Most sends fit into the socket's buffer and need not wait. */
void luv_send(struct loop *l, struct loop_op *op, struct loop_conn *base, const struct iovec *iov,
              int iov_count)
{
    struct os_conn *c = os_conn(base);
    struct luv_state *s = luv_state(op);

    (void)l;
    check(c->send == NULL);
    c->send = op;
    s->kind = LUV_SEND;
    os_iov_init(&s->v, iov, iov_count);
    check(s->v.total > 0);
    int64_t result = try_send(c);
    if (result == NOT_YET)
        result = conn_wait(c, UV_WRITABLE);
    if (result != 0)
        send_finish(c, result);
}
