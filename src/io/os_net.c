#include "io/os.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/pool.h"

enum {
    LISTEN_BACKLOG = 4096,
    CONNECT_SYN_RETRIES = 3, /* a silent host: -ETIMEDOUT after 15 s */
    /* One that falls silent later, with nothing to say to it: after two minutes. */
    KEEPALIVE_IDLE_S = 60,
    KEEPALIVE_INTERVAL_S = 15,
    KEEPALIVE_PROBES = 4,
};

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

struct os_conn *os_conn_new(struct os_loop *l, int fd, const struct sockaddr_in6 *peer)
{
    struct os_conn *c = mem_zalloc(sizeof(*c));

    c->base.loop = &l->base;
    c->fd = fd;
    addr_from_sockaddr(peer, &c->peer);
    if (peer->sin6_family != AF_UNIX)
        conn_set_options(fd);
    list_init(&c->link);
    list_push(&l->conns, &c->link);
    return c;
}

void os_conn_free(struct os_conn *c)
{
    if (c->fd >= 0)
        close(c->fd);
    list_remove(&c->link);
    free(c);
}

void os_conn_peer(const struct loop_conn *base, struct loop_addr *out)
{
    *out = ((const struct os_conn *)base)->peer;
}

static void conn_on_moved(struct loop_msg *msg)
{
    struct os_conn *c = container_of(msg, struct os_conn, moved);

    list_push(&os_loop(c->base.loop)->conns, &c->link);
}

/* Only its own thread may touch the other loop's list of connections: a message carries it over,
 * ahead of the one by which the caller tells of it. */
void os_conn_move(struct loop_conn *base, struct loop *to)
{
    struct os_conn *c = os_conn(base);

    check(c->recv == NULL && c->send == NULL && !c->is_closing);
    list_remove(&c->link);
    c->base.loop = to;
    c->moved.run = conn_on_moved;
    loop_post(to, &c->moved);
}

bool os_conn_is_moved(const struct loop_msg *msg)
{
    return msg->run == conn_on_moved;
}

void os_conn_take_moved(struct loop_msg *msg)
{
    conn_on_moved(msg);
}

void os_socket_end(int fd)
{
    shutdown(fd, SHUT_RDWR);
    close(fd);
}

void os_conn_end_moved(struct loop_msg *msg)
{
    struct os_conn *c = container_of(msg, struct os_conn, moved);

    os_socket_end(c->fd);
    free(c);
}

int os_connect_socket(const struct loop_addr *addr, int flags, struct sockaddr_in6 *sa,
                      socklen_t *sa_len)
{
    *sa_len = addr_to_sockaddr(addr, sa);
    int fd = socket(sa->sin6_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

    if (fd < 0)
        return -errno;
    set_option(fd, IPPROTO_TCP, TCP_SYNCNT, CONNECT_SYN_RETRIES);
    return fd;
}

bool os_is_connected_to_itself(int fd, const struct sockaddr_in6 *peer)
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

/* ---- Listeners ---- */

static struct loop_listener *listener_new(struct loop *l, int fd, const char *path)
{
    struct os_listener *s = mem_zalloc(sizeof(*s));

    s->base.loop = l;
    s->fd = fd;
    s->path = path == NULL ? NULL : mem_strdup(path);
    list_init(&s->link);
    list_push(&os_loop(l)->listeners, &s->link);
    return &s->base;
}

void os_listener_free(struct os_listener *s)
{
    if (s->fd >= 0)
        close(s->fd);
    list_remove(&s->link);
    free(s->path);
    free(s);
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

int os_listen(struct loop *l, const struct loop_addr *addr, struct loop_listener **out,
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

int os_listen_unix(struct loop *l, const char *path, struct loop_listener **out)
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
