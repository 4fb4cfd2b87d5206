#include "io/uring.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/pool.h"

/*
 * A close with ops in flight: shutdown() makes the kernel end them, the handle is freed when the
 * last one has come back. Ops that never reached the kernel are ended when their turn comes.
 */

enum {
    LISTEN_BACKLOG = 4096,
    CONNECT_SYN_RETRIES = 3, /* a silent host: -ETIMEDOUT after 15 s */
    /* One that falls silent later, with nothing to say to it: after two minutes. */
    KEEPALIVE_IDLE_S = 60,
    KEEPALIVE_INTERVAL_S = 15,
    KEEPALIVE_PROBES = 4,
};

static struct uring_conn *conn_of(struct loop_conn *c)
{
    return (struct uring_conn *)c;
}

static struct uring_listener *listener_of(struct loop_listener *s)
{
    return (struct uring_listener *)s;
}

/* ---- Addresses ---- */

static const uint8_t v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static_assert(sizeof(struct sockaddr_in) <= sizeof(struct sockaddr_in6), "one buffer for both");

static socklen_t addr_to_sockaddr(const struct loop_addr *a, struct sockaddr_in6 *out)
{
    memset(out, 0, sizeof(*out));
    if (memcmp(a->ip, v4_prefix, sizeof(v4_prefix)) == 0) {
        struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(a->port)};
        memcpy(&v4.sin_addr, a->ip + sizeof(v4_prefix), 4);
        memcpy(out, &v4, sizeof(v4));
        return sizeof(v4);
    }
    out->sin6_family = AF_INET6;
    out->sin6_port = htons(a->port);
    memcpy(&out->sin6_addr, a->ip, 16);
    return sizeof(*out);
}

/* No address for anything but IP. */
static void addr_from_sockaddr(const struct sockaddr_in6 *sa, struct loop_addr *out)
{
    *out = (struct loop_addr){0};
    if (sa->sin6_family == AF_INET6) {
        out->port = ntohs(sa->sin6_port);
        memcpy(out->ip, &sa->sin6_addr, 16);
    } else if (sa->sin6_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, sa, sizeof(v4));
        out->port = ntohs(v4.sin_port);
        memcpy(out->ip, v4_prefix, sizeof(v4_prefix));
        memcpy(out->ip + sizeof(v4_prefix), &v4.sin_addr, 4);
    }
}

static void set_option(int fd, int level, int name, int value)
{
    setsockopt(fd, level, name, &value, sizeof(value));
}

/* ---- Connections ---- */

static void conn_set_options(int fd)
{
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
}

static struct loop_conn *conn_new(struct uring_loop *l, int fd, const struct sockaddr_in6 *peer)
{
    struct uring_conn *c = mem_zalloc(sizeof(*c));

    c->base.loop = &l->base;
    c->fd = fd;
    addr_from_sockaddr(peer, &c->peer);
    if (peer->sin6_family != AF_UNIX)
        conn_set_options(fd);
    list_init(&c->link);
    list_push(&l->conns, &c->link);
    return &c->base;
}

static void conn_free_if_done(struct uring_conn *c)
{
    if (!c->is_closing || c->recv != NULL || c->send != NULL)
        return;
    close(c->fd);
    list_remove(&c->link);
    free(c);
}

void uring_conn_close(struct loop_conn *base)
{
    struct uring_conn *c = conn_of(base);

    check(!c->is_closing);
    c->is_closing = true;
    if (c->recv != NULL || c->send != NULL)
        shutdown(c->fd, SHUT_RDWR);
    conn_free_if_done(c);
}

void uring_conn_peer(const struct loop_conn *base, struct loop_addr *out)
{
    *out = ((const struct uring_conn *)base)->peer;
}

static void conn_on_moved(struct loop_msg *msg)
{
    struct uring_conn *c = container_of(msg, struct uring_conn, moved);

    list_push(&uring_loop(c->base.loop)->conns, &c->link);
}

/* Only its own thread may touch the other loop's list of connections: a message carries it over,
 * ahead of the one by which the caller tells of it. */
void uring_conn_move(struct loop_conn *base, struct loop *to)
{
    struct uring_conn *c = conn_of(base);

    check(c->recv == NULL && c->send == NULL && !c->is_closing);
    list_remove(&c->link);
    c->base.loop = to;
    c->moved.run = conn_on_moved;
    loop_post(to, &c->moved);
}

bool uring_net_is_moved(const struct loop_msg *msg)
{
    return msg->run == conn_on_moved;
}

void uring_net_take_moved(struct loop_msg *msg)
{
    conn_on_moved(msg);
}

/* ---- Listeners ---- */

static void listener_free_if_done(struct uring_listener *s)
{
    if (!s->is_closing || s->ops_count > 0)
        return;
    close(s->fd);
    list_remove(&s->link);
    free(s->path);
    free(s);
}

/* The port is free at once, whatever is in flight. */
void uring_listener_close(struct loop_listener *base)
{
    struct uring_listener *s = listener_of(base);

    check(!s->is_closing);
    s->is_closing = true;
    shutdown(s->fd, SHUT_RDWR);
    if (s->path != NULL)
        unlink(s->path);
    listener_free_if_done(s);
}

static struct loop_listener *listener_new(struct loop *l, int fd, const char *path)
{
    struct uring_listener *s = mem_zalloc(sizeof(*s));

    s->base.loop = l;
    s->fd = fd;
    s->path = path == NULL ? NULL : mem_strdup(path);
    list_init(&s->link);
    list_push(&uring_loop(l)->listeners, &s->link);
    return &s->base;
}

static int listen_on(int fd, const struct sockaddr_in6 *sa, socklen_t sa_len,
                     struct loop_addr *bound)
{
    struct sockaddr_in6 name;
    socklen_t name_len = sizeof(name);

    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (sa->sin6_family == AF_INET6)
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (bind(fd, (const struct sockaddr *)sa, sa_len) != 0 || listen(fd, LISTEN_BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&name, &name_len) != 0)
        return -errno;
    if (bound != NULL)
        addr_from_sockaddr(&name, bound);
    return 0;
}

int uring_listen(struct loop *l, const struct loop_addr *addr, struct loop_listener **out,
                 struct loop_addr *bound)
{
    struct sockaddr_in6 sa;
    socklen_t sa_len = addr_to_sockaddr(addr, &sa);
    int fd = socket(sa.sin6_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    int err = listen_on(fd, &sa, sa_len, bound);
    if (err != 0) {
        close(fd);
        return err;
    }
    *out = listener_new(l, fd, NULL);
    return 0;
}

/* 0: nothing is in the way any more. A socket file that nobody answers on is what a dead process
 * left. */
static int unix_clear(const struct sockaddr_un *sa)
{
    struct stat st;

    if (lstat(sa->sun_path, &st) != 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode))
        return -EEXIST;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int err = connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) == 0 ? 0 : -errno;
    close(fd);
    if (err != -ECONNREFUSED)
        return -EADDRINUSE;
    return unlink(sa->sun_path) == 0 ? 0 : -errno;
}

int uring_listen_unix(struct loop *l, const char *path, struct loop_listener **out)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(sa.sun_path))
        return -ENAMETOOLONG;
    memcpy(sa.sun_path, path, strlen(path) + 1);
    int err = unix_clear(&sa);
    if (err != 0)
        return err;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* The mode set before bind() is the mode of the socket's file: at no time is it more. */
    if (fchmod(fd, 0660) != 0 || bind(fd, (const struct sockaddr *)&sa, sizeof(sa)) != 0 ||
        listen(fd, LISTEN_BACKLOG) != 0) {
        err = -errno;
        close(fd);
        return err;
    }
    *out = listener_new(l, fd, path);
    return 0;
}

/* ---- Operations ---- */

static void send_prepare(struct io_uring_sqe *sqe, struct msghdr *msg, const struct uring_state *s)
{
    const struct iovec *iov = s->iov + s->iov_at;
    uint32_t count = s->iov_count - s->iov_at;

    if (s->skip > 0 || count == 1) {
        io_uring_prep_send(sqe, s->fd, (char *)iov->iov_base + s->skip, iov->iov_len - s->skip,
                           MSG_NOSIGNAL | MSG_WAITALL);
        return;
    }
    *msg = (struct msghdr){.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = count};
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
    struct uring_listener *listener = s->listener;

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
        op->conn = conn_new(l, res, &s->addr);
    uring_finish(l, op, res < 0 ? res : 0);
}

/* A connection to a free port of this machine can meet itself: then nobody listened there. */
static bool is_connected_to_itself(int fd, const struct sockaddr_in6 *peer)
{
    struct sockaddr_in6 name;
    struct loop_addr a, b;
    socklen_t name_len = sizeof(name);

    if (getsockname(fd, (struct sockaddr *)&name, &name_len) != 0)
        return false;
    addr_from_sockaddr(&name, &a);
    addr_from_sockaddr(peer, &b);
    return loop_addr_equal(&a, &b);
}

static void connect_complete(struct uring_loop *l, struct loop_op *op, int res)
{
    struct uring_state *s = uring_state(op);

    if (res == 0 && is_connected_to_itself(s->fd, &s->addr))
        res = -ECONNREFUSED;
    if (res == 0)
        op->conn = conn_new(l, s->fd, &s->addr);
    else
        close(s->fd);
    uring_finish(l, op, res);
}

static void recv_complete(struct uring_loop *l, struct loop_op *op, int res)
{
    struct uring_conn *c = uring_state(op)->conn;

    if (!c->is_closing && should_try_again(res)) {
        uring_resume(l, op);
        return;
    }
    c->recv = NULL;
    uring_finish(l, op, c->is_closing && res <= 0 ? -ECANCELED : res);
    conn_free_if_done(c);
}

static void send_complete(struct uring_loop *l, struct loop_op *op, int res)
{
    struct uring_state *s = uring_state(op);
    struct uring_conn *c = s->conn;
    bool is_all = res >= 0 && uring_advance(s, (uint64_t)res);

    if (!is_all && !c->is_closing && (res > 0 || should_try_again(res))) {
        uring_resume(l, op);
        return;
    }
    c->send = NULL;
    if (is_all)
        uring_finish(l, op, (int64_t)s->total);
    else if (c->is_closing)
        uring_finish(l, op, -ECANCELED);
    else
        uring_finish(l, op, res == 0 ? -EPIPE : res);
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
    case URING_FLUSH:
        break;
    }
    never("a file's op among the network's");
}

void uring_accept(struct loop *l, struct loop_op *op, struct loop_listener *base)
{
    struct uring_listener *listener = listener_of(base);
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
    s->addr_len = addr_to_sockaddr(addr, &s->addr);
    s->fd = socket(s->addr.sin6_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->fd < 0) {
        uring_finish(uring_loop(l), op, -errno);
        return;
    }
    set_option(s->fd, IPPROTO_TCP, TCP_SYNCNT, CONNECT_SYN_RETRIES);
    uring_start(uring_loop(l), op);
}

void uring_recv(struct loop *l, struct loop_op *op, struct loop_conn *base, void *buf, size_t len)
{
    struct uring_conn *c = conn_of(base);
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
    struct uring_conn *c = conn_of(base);
    struct uring_state *s = uring_state(op);

    check(c->send == NULL && !c->is_closing);
    c->send = op;
    s->kind = URING_SEND;
    s->conn = c;
    s->fd = c->fd;
    uring_state_set_iov(s, iov, iov_count);
    check(s->total > 0);
    uring_start(uring_loop(l), op);
}

/* ---- The end ---- */

static void socket_end(int fd)
{
    shutdown(fd, SHUT_RDWR); /* an op of a thread that is gone may still refer to it */
    close(fd);
}

void uring_net_end_moved(struct loop_msg *msg)
{
    struct uring_conn *c = container_of(msg, struct uring_conn, moved);

    socket_end(c->fd);
    free(c);
}

static void connects_end(struct list *ops)
{
    list_for_each (pos, ops) {
        struct uring_state *s = uring_state(container_of(pos, struct loop_op, link));
        if (s->kind == URING_CONNECT)
            socket_end(s->fd);
    }
}

void uring_net_close_all(struct uring_loop *l)
{
    connects_end(&l->inflight);
    connects_end(&l->waiting_net);
    list_for_each (pos, &l->listeners) {
        struct uring_listener *s = container_of(pos, struct uring_listener, link);
        socket_end(s->fd);
        if (s->path != NULL && !s->is_closing)
            unlink(s->path);
    }
    list_for_each (pos, &l->conns)
        socket_end(container_of(pos, struct uring_conn, link)->fd);
}

void uring_net_free_all(struct uring_loop *l)
{
    for (struct list *pos = list_pop(&l->listeners); pos != NULL; pos = list_pop(&l->listeners)) {
        struct uring_listener *s = container_of(pos, struct uring_listener, link);
        free(s->path);
        free(s);
    }
    for (struct list *pos = list_pop(&l->conns); pos != NULL; pos = list_pop(&l->conns))
        free(container_of(pos, struct uring_conn, link));
}
