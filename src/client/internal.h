/*
 * What the files of client/ share. Three machines, each with one step function:
 *
 *   id    (client.c)  which client id our writes go under
 *   op    (op.c)      a range of an image, cut into parts
 *   part  (part.c)    a range of one object: routed, sent, and sent again
 */

#ifndef CLIENT_INTERNAL_H
#define CLIENT_INTERNAL_H

#include "base/pool.h"
#include "client/client.h"
#include "client/window.h"
#include "net/wire_osd.h"

enum {
    CLIENT_PARTS_DEFAULT = 512,
    CLIENT_TRY_MS = 2000,        /* an attempt without an answer is given up, and made again */
    CLIENT_BACKOFF_MS_MIN = 5,   /* after a refusal ... */
    CLIENT_BACKOFF_MS_MAX = 200, /* ... doubling up to this, with jitter */
    CLIENT_PROBE_MS = 1000,      /* where the map shows nobody who serves */
    CLIENT_ID_RETRY_MS = 500,
    CLIENT_TRIES_LOGGED = 16,
};

/* Where a client id stands. */
enum client_id_state {
    CLIENT_ID_ASKING,  /* waits for Raft to give one */
    CLIENT_ID_REFUSED, /* waits for a timer, then asks again */
    CLIENT_ID_VALID,   /* waits for nothing: writes go under it */
    CLIENT_ID_FENCED   /* waits until no write of it is in flight, then asks for a new one */
};

enum client_op_state {
    CLIENT_OP_QUEUED,   /* waits for a part, a client id, a place in the window */
    CLIENT_OP_RUNNING,  /* all cut (or failed): waits for its parts */
    CLIENT_OP_FLUSHING, /* waits for the writes of its image that were started before it */
    CLIENT_OP_DONE
};

enum client_part_state {
    CLIENT_PART_WAITING, /* a newer map, or its timer */
    CLIENT_PART_SENT,    /* the answer to its call */
    CLIENT_PART_UNNAMED, /* a client id: the one it had was fenced before the write was executed */
    CLIENT_PART_DONE
};

enum client_queue { CLIENT_QUEUE_READS, CLIENT_QUEUE_WRITES, CLIENT_QUEUES };

struct client_image {
    struct client *client;
    struct list link;
    struct list writes;  /* client_op.image_link, in order of start */
    struct list flushes; /* client_op.image_link, in order of start */
    uint64_t order_last;
    uint64_t id, root, size;
    uint32_t pool, object_size;
    uint32_t ops_count;
};

/* Who serves an object, by one map. */
struct client_route {
    uint64_t pg;
    uint32_t epoch, primary, incarnation;
    uint32_t image_epoch;
    bool serves; /* the primary is up and its PG active */
};

struct client_part {
    struct client *client;
    struct client_op *op;
    struct list link; /* in client.parts_open */
    struct task task;
    struct loop_timer timer;
    enum client_part_state state;

    uint64_t object;
    uint32_t offset, len; /* in the object */
    uint8_t *data;        /* in the op's buffer; NULL for ZERO */
    uint64_t seq;         /* 0: a read, or unnamed */

    bool call_is_done;
    bool maybe_executed; /* an attempt ended without saying that it was not */
    uint32_t tries;
    struct client_route route; /* of the last look at the map */
    struct rpc_call call;
    struct iovec iov;
    uint8_t body[WIRE_OSD_IO_SIZE + 4 * WIRE_OSD_PIECES_MAX];
    uint8_t crcs[4 * WIRE_OSD_PIECES_MAX]; /* of a read's answer */
};

/* The incarnation an OSD had in the map that its address was last taken from (client_peer_lost). */
struct client_peer {
    uint32_t osd, incarnation;
};

struct client {
    struct client_config config;
    struct loop *loop;

    struct map_feed feed;
    const struct map *map;
    struct task map_task;
    uint64_t addresses_hash;
    struct client_peer *peers; /* sorted by OSD id */
    uint32_t peers_count;

    enum client_id_state id_state;
    uint64_t id;
    struct seq_window window;
    uint32_t named_count; /* parts that carry a number of `id` */
    struct task id_task;
    struct loop_timer id_timer;
    struct meta_call id_call;
    bool id_call_is_done;

    struct list images;
    struct list ops_open;
    struct list queues[CLIENT_QUEUES]; /* client_op.link */
    struct task cut_task;
    struct pool parts;
    struct list parts_open;
    uint32_t parts_of[CLIENT_QUEUES]; /* parts in use by ops of each queue */
    uint32_t parts_of_max;            /* so that neither kind can keep the other out */

    struct client_status status;
};

static inline enum client_queue client_queue_of(const struct client_op *op)
{
    return op->kind == CLIENT_READ ? CLIENT_QUEUE_READS : CLIENT_QUEUE_WRITES;
}

/* client.c: our id is fenced, as an OSD or the map says. Idempotent. */
void client_set_fenced(struct client *c);

/* op.c */
void client_cut_init(struct client *c);
void client_cut_wake(struct client *c);
/* `p` is done and gone. */
void client_op_part_done(struct client_op *op, int result);

/* part.c */
void client_part_start(struct client *c, struct client_op *op, struct client_part *p);
void client_part_see_map(struct client_part *p);
void client_part_see_id(struct client_part *p);

#endif /* CLIENT_INTERNAL_H */
