/*
 * A small HTTP server in front of a loop: libmicrohttpd's own thread reads requests, hands each
 * over to the loop and sleeps it; the loop answers when it likes. The thread decides nothing.
 *
 * Promise: handle() is called once per whole request, on the loop; http_reply() must be called
 * exactly once for each, from any thread, and never fails. Who may speak: on a unix socket root
 * and the uid of this process only (SO_PEERCRED); others get 403 without reaching the loop.
 *
 * Limits: HTTP_REQUESTS_MAX connections at once, HTTP_BODY_MAX bytes of body, 30 s of silence.
 */

#ifndef GW_HTTP_H
#define GW_HTTP_H

#include <stdatomic.h>
#include <stdbool.h>

#include "gw/problem.h"
#include "io/loop.h"

enum { HTTP_REQUESTS_MAX = 64, HTTP_BODY_MAX = 64 << 10, HTTP_PATH_MAX = 512 };

struct http_server;

struct http_request {
    char method[8];
    char path[HTTP_PATH_MAX]; /* as sent: percent signs not decoded */
    char key[64];             /* the Idempotency-Key header, or empty */
    char *body;               /* terminated by a zero; NULL when there is none */
    size_t body_len;
    void *user; /* for the handler */

    /* Private. */
    struct http_server *server;
    void *connection;
    struct loop_msg msg;
    bool refused_body; /* it was too long */
    bool posted;
    unsigned status;
    char *reply;
    const char *reply_type;
};

struct http_config {
    struct loop *loop;
    const char *unix_path; /* listen there, mode 0660 … */
    struct loop_addr addr; /* … or here, when unix_path is NULL */
    void (*handle)(void *arg, struct http_request *req);
    void *arg;
};

/* -ENAMETOOLONG: the path does not fit a socket address (107 bytes). -EADDRINUSE: somebody answers
 * there; a dead socket file is replaced. */
int http_open(const struct http_config *config, struct http_server **out);

/* `text` is malloc()ed and becomes the server's. */
void http_reply(struct http_request *req, unsigned status, const char *type, char *text);

/* Take no new requests. Those under way are answered as usual; http_idle() tells when all are. */
void http_refuse(struct http_server *s);
bool http_idle(struct http_server *s);

/* Only when http_idle() after http_refuse(). Joins the server's thread. Removes the socket file. */
void http_close(struct http_server *s);

#endif /* GW_HTTP_H */
