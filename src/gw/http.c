#include "gw/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/pool.h"
#include "base/text.h"

struct http_server {
    struct http_config config;
    char unix_path[108];
    struct MHD_Daemon *daemon;
    atomic_bool refusing;
    atomic_int under_way; /* requests the loop has been given whose answer has not left */
};

/* ---- The listening socket ---- */

static int http_unix_bind(int fd, const struct sockaddr_un *name)
{
    if (bind(fd, (const struct sockaddr *)name, sizeof(*name)) < 0)
        return -errno;
    /* The peer's uid is checked on every request, so the moment before this gives nothing away. */
    return chmod(name->sun_path, 0660) < 0 ? -errno : 0;
}

/* 0: what was in the way is gone, a socket file that nobody answers on. Anything else stays. */
static int http_unix_clear(const struct sockaddr_un *name)
{
    struct stat st;
    if (lstat(name->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode))
        return -EEXIST;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int error = connect(fd, (const struct sockaddr *)name, sizeof(*name)) < 0 ? errno : 0;
    close(fd);
    if (error != ECONNREFUSED)
        return -EADDRINUSE;
    return unlink(name->sun_path) < 0 ? -errno : 0;
}

static int http_listen_unix(const char *path, int *out)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    if (!str_copy(name.sun_path, sizeof(name.sun_path), path))
        return -ENAMETOOLONG;

    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;

    int result = http_unix_bind(fd, &name);
    if (result == -EADDRINUSE) {
        result = http_unix_clear(&name);
        if (result == 0)
            result = http_unix_bind(fd, &name);
    }
    if (result == 0 && listen(fd, HTTP_REQUESTS_MAX) < 0)
        result = -errno;
    if (result < 0) {
        close(fd);
        return result;
    }
    *out = fd;
    return 0;
}

static int http_listen_tcp(const struct loop_addr *addr, int *out)
{
    struct sockaddr_in6 name = {.sin6_family = AF_INET6, .sin6_port = htons(addr->port)};
    memcpy(&name.sin6_addr, addr->ip, sizeof(addr->ip));

    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(fd, (const struct sockaddr *)&name, sizeof(name)) < 0 ||
        listen(fd, HTTP_REQUESTS_MAX) < 0) {
        int result = -errno;
        close(fd);
        return result;
    }
    *out = fd;
    return 0;
}

/* ---- Requests, on libmicrohttpd's thread ---- */

static bool http_peer_is_trusted(const struct http_server *s, struct MHD_Connection *connection)
{
    if (s->config.unix_path == NULL)
        return true;

    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct ucred peer;
    socklen_t len = sizeof(peer);
    if (info == NULL || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return false;
    return peer.uid == 0 || peer.uid == geteuid();
}

static enum MHD_Result http_answer(struct MHD_Connection *connection, unsigned status,
                                   const char *type, char *text)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (response == NULL) {
        free(text);
        return MHD_NO;
    }
    MHD_add_response_header(response, "Content-Type", type);
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result http_answer_problem(struct MHD_Connection *connection,
                                           const struct problem *p)
{
    json_t *body = json_pack("{s:o}", "error", problem_to_json(p));
    char *text = json_dumps(body, JSON_COMPACT);
    json_decref(body);
    return http_answer(connection, problem_http_status(p->kind), "application/problem+json", text);
}

static enum MHD_Result http_refuse_early(struct http_server *s, struct http_request *req,
                                         struct MHD_Connection *connection, bool *refused)
{
    struct problem p;
    *refused = true;
    if (!http_peer_is_trusted(s, connection)) {
        problem_set(&p, PROBLEM_NOT_PERMITTED, "not_permitted",
                    "this socket is for root and uid %u only", (unsigned)geteuid());
        problem_action(&p, "run the command as that user, or with sudo");
        return http_answer_problem(connection, &p);
    }
    if (req->refused_body) {
        problem_set(&p, PROBLEM_USAGE, "body_too_long", "the request's body is over %d bytes",
                    HTTP_BODY_MAX);
        return http_answer_problem(connection, &p);
    }
    if (atomic_load(&s->refusing)) {
        problem_set(&p, PROBLEM_UNREACHABLE, "stopping", "this node is stopping");
        problem_action(&p, "ask another node, or wait for this one to come back");
        return http_answer_problem(connection, &p);
    }
    *refused = false;
    return MHD_YES;
}

static void http_on_loop(struct loop_msg *msg)
{
    struct http_request *req = container_of(msg, struct http_request, msg);
    req->server->config.handle(req->server->config.arg, req);
}

static enum MHD_Result http_begin(struct http_server *s, struct MHD_Connection *connection,
                                  const char *url, const char *method, void **state)
{
    struct http_request *req = mem_zalloc(sizeof(*req));
    req->server = s;
    req->connection = connection;
    *state = req;
    if (!str_copy(req->method, sizeof(req->method), method) ||
        !str_copy(req->path, sizeof(req->path), url))
        req->path[0] = '\0'; /* no route has an empty path: 404 */
    const char *key = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Idempotency-Key");
    if (key != NULL)
        str_copy(req->key, sizeof(req->key), key);
    return MHD_YES;
}

static void http_add_body(struct http_request *req, const char *data, size_t len)
{
    if (req->body_len + len > HTTP_BODY_MAX) {
        req->refused_body = true;
        return;
    }
    req->body = mem_realloc(req->body, req->body_len + len + 1);
    memcpy(req->body + req->body_len, data, len);
    req->body_len += len;
    req->body[req->body_len] = '\0';
}

static enum MHD_Result http_on_request(void *arg, struct MHD_Connection *connection,
                                       const char *url, const char *method, const char *version,
                                       const char *data, size_t *data_len, void **state)
{
    struct http_server *s = arg;
    struct http_request *req = *state;
    (void)version;

    if (req == NULL)
        return http_begin(s, connection, url, method, state);
    if (*data_len > 0) {
        http_add_body(req, data, *data_len);
        *data_len = 0;
        return MHD_YES;
    }
    if (req->posted) {
        char *text = req->reply;
        req->reply = NULL;
        return http_answer(connection, req->status, req->reply_type, text);
    }

    /* Counted before it is looked whether we refuse: who refuses and then sees nothing under way
     * can rely on it. */
    bool refused;
    atomic_fetch_add(&s->under_way, 1);
    enum MHD_Result result = http_refuse_early(s, req, connection, &refused);
    if (refused) {
        atomic_fetch_sub(&s->under_way, 1);
        return result;
    }

    req->posted = true;
    req->msg.run = http_on_loop;
    MHD_suspend_connection(connection);
    loop_post(s->config.loop, &req->msg);
    return MHD_YES;
}

static void http_on_completed(void *arg, struct MHD_Connection *connection, void **state,
                              enum MHD_RequestTerminationCode code)
{
    struct http_server *s = arg;
    struct http_request *req = *state;
    (void)connection;
    (void)code;

    if (req == NULL)
        return;
    if (req->posted)
        atomic_fetch_sub(&s->under_way, 1);
    free(req->reply);
    free(req->body);
    free(req);
}

/* Names may hold an encoded slash: the API decodes each part of the path by itself. */
static size_t http_keep_escapes(void *arg, struct MHD_Connection *connection, char *text)
{
    (void)arg;
    (void)connection;
    return strlen(text);
}

/* ---- For the owner ---- */

void http_reply(struct http_request *req, unsigned status, const char *type, char *text)
{
    check(req->posted && req->reply == NULL && text != NULL);

    req->status = status;
    req->reply_type = type;
    req->reply = text;
    MHD_resume_connection(req->connection);
}

int http_open(const struct http_config *config, struct http_server **out)
{
    int fd = -1;
    int result = config->unix_path != NULL ? http_listen_unix(config->unix_path, &fd)
                                           : http_listen_tcp(&config->addr, &fd);
    if (result < 0)
        return result;

    struct http_server *s = mem_zalloc(sizeof(*s));
    s->config = *config;
    if (config->unix_path != NULL) {
        str_copy(s->unix_path, sizeof(s->unix_path), config->unix_path);
        s->config.unix_path = s->unix_path;
    }
    s->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, http_on_request, s,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_REQUESTS_MAX,
        MHD_OPTION_CONNECTION_TIMEOUT, 30u, MHD_OPTION_NOTIFY_COMPLETED, http_on_completed, s,
        MHD_OPTION_UNESCAPE_CALLBACK, http_keep_escapes, NULL, MHD_OPTION_END);
    if (s->daemon == NULL) {
        close(fd);
        free(s);
        return -ENOMEM;
    }
    *out = s;
    return 0;
}

void http_refuse(struct http_server *s)
{
    atomic_store(&s->refusing, true);
}

bool http_idle(struct http_server *s)
{
    return atomic_load(&s->under_way) == 0;
}

void http_close(struct http_server *s)
{
    if (s->unix_path[0] != '\0')
        unlink(s->unix_path);
    MHD_stop_daemon(s->daemon);
    free(s);
}
