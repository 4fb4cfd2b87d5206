/*
 * The NBD gateway: images as exports, over TCP and, if wanted, a unix socket.
 *
 * Promise: a request answered without error is carried out and durable in the
 * whole cluster, so FUA and FLUSH add nothing and any number of connections, to any gateways, see
 * the same data. An error is answered only for what is wrong with the request or the
 * image. Trouble of the cluster makes a request wait; an end of this node, or a fenced client,
 * drops the connection instead, so that a client that reconnects loses nothing.
 *
 * Limits: connections, 64 requests in flight for each, memory for all together. At a limit we stop
 * reading from the socket. gw/README.md has the argument why that never locks up.
 *
 * Threading: one loop. Memory: all of it is reserved by nbd_server_create().
 */

#ifndef GW_NBD_H
#define GW_NBD_H

#include "client/client.h"

/* What the exports are. `op->image` is the handle that open() gave. */
struct nbd_backend {
    /* 0; -ENOENT: no such image; -EAGAIN: not known yet, ask again. */
    int (*open)(struct nbd_backend *b, const char *name, struct client_image **image,
                uint64_t *size);
    void (*close)(struct nbd_backend *b, struct client_image *image); /* no op in flight */
    /* The first export after *cursor (0 to begin), which is moved to it. False: no more. */
    bool (*next)(struct nbd_backend *b, uint64_t *cursor, char name[META_NAME_MAX]);
    /* As client_op_start(). */
    void (*submit)(struct nbd_backend *b, struct client_op *op);
};

/* The images of a cluster. */
struct nbd_client_backend {
    struct nbd_backend base;
    struct client *client;
};
void nbd_client_backend_init(struct nbd_client_backend *b, struct client *client);

struct nbd_server;

struct nbd_server_config {
    struct loop *loop;
    struct nbd_backend *backend;
    struct loop_addr listen;  /* port 0: any free one */
    const char *unix_path;    /* NULL: none */
    uint32_t connections_max; /* 0: 256 */
    uint64_t memory_max;      /* bytes of data buffers; 0: 64 MiB */
};

/* -errno of the listeners. `bound`: the address in use. */
int nbd_server_create(const struct nbd_server_config *config, struct nbd_server **out,
                      struct loop_addr *bound);

/*
 * Orderly stop: accept nobody, start nothing new, answer what is in flight, drop the connections.
 * Then `done_msg` is posted to `to`. It takes as long as the cluster needs to answer: the caller
 * has a deadline, and may close without it.
 */
void nbd_server_stop(struct nbd_server *s, struct loop *to, struct loop_msg *done_msg);

void nbd_server_close(struct nbd_server *s); /* stopped, or its loop is dead */

struct nbd_status {
    uint32_t connections, requests_in_flight;
    uint64_t connections_total, requests_total, errors_total;
    uint64_t read_bytes_total, written_bytes_total;
    uint64_t memory_bytes, memory_bytes_max;
};
void nbd_server_status(const struct nbd_server *s, struct nbd_status *out);

#endif /* GW_NBD_H */
