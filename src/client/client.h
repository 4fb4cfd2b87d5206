/*
 * Images as byte ranges: cut into objects, route to the primary, retry for ever
 * with the newest map. What gateways and tools use; later libskerry.
 *
 * Promise: an op that ends with 0 is durable on every in-sync replica (writes) or is the newest
 * data (reads). Ops on overlapping ranges in flight together have no order. An op ends with an
 * error only for what retrying cannot cure: -ENOENT (the image was deleted), -EINVAL (out of
 * range), -ENOSPC, -ENODATA (no copy gives it back), -EPERM (fenced), -ECANCELED (client is being
 * closed).
 *
 * Threading: one loop. Memory: an op and its buffer are the caller's until done().
 */

#ifndef CLIENT_CLIENT_H
#define CLIENT_CLIENT_H

#include "meta/meta.h"
#include "net/rpc.h"

struct client;
struct client_image;

enum { CLIENT_IO_MAX = 32 << 20 }; /* bytes of one op */

struct client_config {
    struct loop *loop;
    struct net *net; /* this loop's; its resolve answers from client_resolve() */
    struct meta_access *meta;
    uint32_t node;      /* the node it runs in; 0: a separate process */
    uint32_t parts_max; /* object requests in flight; the rest queue; 0: 512 */
};

/* Registers a client id through Raft in the background; ops wait for it. */
int client_open(const struct client_config *config, struct client **out);
void client_close(struct client *c); /* its loop is dead, and so is the one of config.meta */
int client_resolve(struct client *c, net_endpoint e,
                   struct loop_addr *out); /* NET_OSD/id -> its node's address, by the newest map */
void client_peer_lost(struct client *c, net_endpoint e, uint32_t incarnation,
                      int why); /* from the net: reports a refused OSD to the leader */

const struct map *client_map(struct client *c); /* NULL before the first */

/* -ENOENT by the newest map; -EAGAIN while there is no map yet. A handle stays valid when the image
 * is deleted. */
int client_image_open(struct client *c, const char *name, struct client_image **out);
void client_image_close(struct client_image *i); /* no op in flight */
uint64_t client_image_size(const struct client_image *i);

enum client_op_kind { CLIENT_READ = 1, CLIENT_WRITE, CLIENT_ZERO, CLIENT_FLUSH };

struct client_op {
    enum client_op_kind kind;
    struct client_image *image;
    uint64_t offset; /* any bytes */
    uint64_t len;
    void *buf; /* READ, WRITE; any alignment (page-aligned is faster) */
    void (*done)(struct client_op *op);
    int result;

    /* Private. */
    struct client *client;
    struct list link;       /* on a queue, until it is cut */
    struct list open_link;  /* on the client's list of ops that are not done */
    struct list image_link; /* writes and flushes: on the image's list, in order of start */
    struct task task;
    uint32_t parts_left;
    uint64_t cut; /* bytes already given to parts */
    uint32_t state;
    uint64_t order; /* among the ops of its image */
    uint64_t started_ns;
};

void client_op_start(struct client *c, struct client_op *op);

struct client_status {
    uint64_t id;
    uint64_t ops_total, parts_total, retries_total;
    uint64_t stall_ns_max; /* longest op since the last call */
    uint32_t ops_in_flight, parts_in_flight;
    uint64_t crc_errors_total; /* answers to reads that did not match their checksums */
    uint64_t fenced_total;     /* times this client lost its id */
};
void client_status(struct client *c, struct client_status *out);

#endif /* CLIENT_CLIENT_H */
