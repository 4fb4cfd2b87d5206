#include "io/uring.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/*
 * A close with ops in flight: shutdown() makes the kernel end them, the handle is freed when the
 * last one has come back. Ops that never reached the kernel are ended when their turn comes.
 */

/* ---- Closing ---- */

static void conn_free_if_done(struct os_conn *c)
{
    if (c->is_closing && c->recv == NULL && c->send == NULL)
        os_conn_free(c);
}

void uring_conn_close(struct loop_conn *base)
{
    struct os_conn *c = os_conn(base);

    check(!c->is_closing);
    c->is_closing = true;
    if (c->recv != NULL || c->send != NULL)
        shutdown(c->fd, SHUT_RDWR);
    conn_free_if_done(c);
}

static void listener_free_if_done(struct os_listener *s)
{
    if (s->is_closing && s->ops_count == 0)
        os_listener_free(s);
}

/* The port is free at once, whatever is in flight. */
void uring_listener_close(struct loop_listener *base)
{
    struct os_listener *s = os_listener(base);

    check(!s->is_closing);
    s->is_closing = true;
    shutdown(s->fd, SHUT_RDWR);
    if (s->path != NULL)
        unlink(s->path);
    listener_free_if_done(s);
}

/* ---- Operations ---- */

static void send_prepare(struct io_uring_sqe *sqe, struct msghdr *msg, const struct uring_state *s)
{
    struct iovec part;
    int count;
    const struct iovec *iov = os_iov_next(&s->v, &part, &count);

    if (count == 1) {
        io_uring_prep_send(sqe, s->fd, iov->iov_base, iov->iov_len, MSG_NOSIGNAL | MSG_WAITALL);
        return;
    }
    *msg = (struct msghdr){.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)count};
    io_uring_prep_sendmsg(sqe, s->fd, msg, MSG_NOSIGNAL | MSG_WAITALL);
}

void uring_net_prepare(struct io_uring_sqe *sqe, struct msghdr *msg, struct uring_state *s)
{
    switch (s->kind) {
    case URING_ACCEPT:
        io_uring_prep_accept(sqe, s->fd, (struct sockaddr *)&s->addr, &s->addr_len, SOCK_CLOEXEC);
        return;
    case URING_CONNECT:
        io_uring_prep_connect(sqe, s->fd, (struct sockaddr *)&s->addr, s->addr_len);
        return;
    case URING_RECV:
        io_uring_prep_recv(sqe, s->fd, s->buf, s->len, 0);
        return;
    case URING_SEND:
        send_prepare(sqe, msg, s);
        return;
    case URING_READ:
    case URING_WRITE:
    case URING_WRITE_DURABLE:
    case URING_DISCARD:
    case URING_FLUSH:
        break;
    }
    never("a file's op among the network's");
}

bool uring_net_is_closing(struct uring_state *s)
{
    switch (s->kind) {
    case URING_ACCEPT:
        return s->listener->is_closing;
    case URING_RECV:
    case URING_SEND:
        return s->conn->is_closing;
    case URING_CONNECT:
    case URING_READ:
    case URING_WRITE:
    case URING_WRITE_DURABLE:
    case URING_DISCARD:
    case URING_FLUSH:
        break;
    }
    return false;
}

static bool should_try_again(int res)
{
    return res == -EINTR || res == -EAGAIN;
}

static void accept_complete(struct uring_loop *l, struct loop_op *op, int res)
{
    struct uring_state *s = uring_state(op);
    struct os_listener *listener = s->listener;

    if (!listener->is_closing && should_try_again(res)) {
        uring_resume(l, op);
        return;
    }
    listener->ops_count--;
    if (listener->is_closing) {
        if (res >= 0)
            close(res);
        res = -ECANCELED;
        listener_free_if_done(listener);
    }
    if (res >= 0)
        op->conn = &os_conn_new(&l->os, res, &s->addr)->base;
    os_finish(&l->os, op, res < 0 ? res : 0);
}

static void connect_complete(struct uring_loop *l, struct loop_op *op, int res)
{
    struct uring_state *s = uring_state(op);

    if (res == 0 && os_is_connected_to_itself(s->fd, &s->addr))
        res = -ECONNREFUSED;
    if (res == 0)
        op->conn = &os_conn_new(&l->os, s->fd, &s->addr)->base;
    else
        close(s->fd);
    os_finish(&l->os, op, res);
}

static void recv_complete(struct uring_loop *l, struct loop_op *op, int res)
{
    struct os_conn *c = uring_state(op)->conn;

    if (!c->is_closing && should_try_again(res)) {
        uring_resume(l, op);
        return;
    }
    c->recv = NULL;
    os_finish(&l->os, op, c->is_closing && res <= 0 ? -ECANCELED : res);
    conn_free_if_done(c);
}

static void send_complete(struct uring_loop *l, struct loop_op *op, int res)
{
    struct uring_state *s = uring_state(op);
    struct os_conn *c = s->conn;
    bool is_all = res >= 0 && os_iov_advance(&s->v, (uint64_t)res);

    if (!is_all && !c->is_closing && (res > 0 || should_try_again(res))) {
        uring_resume(l, op);
        return;
    }
    c->send = NULL;
    if (is_all)
        os_finish(&l->os, op, (int64_t)s->v.total);
    else if (c->is_closing)
        os_finish(&l->os, op, -ECANCELED);
    else
        os_finish(&l->os, op, res == 0 ? -EPIPE : res);
    conn_free_if_done(c);
}

void uring_net_complete(struct uring_loop *l, struct loop_op *op, int res)
{
    switch (uring_state(op)->kind) {
    case URING_ACCEPT:
        accept_complete(l, op, res);
        return;
    case URING_CONNECT:
        connect_complete(l, op, res);
        return;
    case URING_RECV:
        recv_complete(l, op, res);
        return;
    case URING_SEND:
        send_complete(l, op, res);
        return;
    case URING_READ:
    case URING_WRITE:
    case URING_WRITE_DURABLE:
    case URING_DISCARD:
    case URING_FLUSH:
        break;
    }
    never("a file's op among the network's");
}

void uring_accept(struct loop *l, struct loop_op *op, struct loop_listener *base)
{
    struct os_listener *listener = os_listener(base);
    struct uring_state *s = uring_state(op);

    check(!listener->is_closing);
    listener->ops_count++;
    s->kind = URING_ACCEPT;
    s->listener = listener;
    s->fd = listener->fd;
    memset(&s->addr, 0, sizeof(s->addr));
    s->addr_len = sizeof(s->addr);
    uring_start(uring_loop(l), op);
}

void uring_connect(struct loop *l, struct loop_op *op, const struct loop_addr *addr)
{
    struct uring_state *s = uring_state(op);

    s->kind = URING_CONNECT;
    s->fd = os_connect_socket(addr, 0, &s->addr, &s->addr_len);
    if (s->fd < 0) {
        os_finish(os_loop(l), op, s->fd);
        return;
    }
    uring_start(uring_loop(l), op);
}

void uring_recv(struct loop *l, struct loop_op *op, struct loop_conn *base, void *buf, size_t len)
{
    struct os_conn *c = os_conn(base);
    struct uring_state *s = uring_state(op);

    check(c->recv == NULL && !c->is_closing);
    c->recv = op;
    s->kind = URING_RECV;
    s->conn = c;
    s->fd = c->fd;
    s->buf = buf;
    s->len = len > 1u << 30 ? 1u << 30 : len;
    uring_start(uring_loop(l), op);
}

void uring_send(struct loop *l, struct loop_op *op, struct loop_conn *base, const struct iovec *iov,
                int iov_count)
{
    struct os_conn *c = os_conn(base);
    struct uring_state *s = uring_state(op);

    check(c->send == NULL && !c->is_closing);
    c->send = op;
    s->kind = URING_SEND;
    s->conn = c;
    s->fd = c->fd;
    os_iov_init(&s->v, iov, iov_count);
    check(s->v.total > 0);
    uring_start(uring_loop(l), op);
}

/* ---- The end ---- */

static void connects_end(struct list *ops)
{
    list_for_each (pos, ops) {
        struct uring_state *s = uring_state(container_of(pos, struct loop_op, link));
        if (s->kind == URING_CONNECT)
            os_socket_end(s->fd);
    }
}

void uring_net_end(struct uring_loop *l)
{
    connects_end(&l->inflight);
    connects_end(&l->waiting_net);
}
