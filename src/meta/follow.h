/*
 * Following the state from afar: rows from another node (meta/watch.h), put together to maps.
 *
 * Promise: on_rows() comes with whole states only, each as of one revision, never older than the
 * last. How: rows of a pass over several chunks may mix revisions; they are kept aside, and another
 * pass from the first chunk's revision on follows, until a pass sees one revision only.
 *
 * Threading: the control loop. Every wait ends: the request has a deadline, then another node is
 * asked.
 */

#ifndef META_FOLLOW_H
#define META_FOLLOW_H

#include "meta/watch.h"

struct follow {
    /* Set by the owner. */
    struct loop *loop;
    struct net *net;
    bool (*upstream)(void *arg, uint32_t attempt, net_endpoint *out); /* false: nobody to ask */
    const struct map *(*base)(void *arg);                             /* what we have, or NULL */
    void (*on_map)(void *arg, const struct map *map, struct slice rows, bool whole);
    void (*leader)(void *arg, uint32_t leader);
    void *arg;

    /* Private. */
    bool running, sent, failed;
    uint32_t attempt; /* failures in a row */
    bool whole;       /* the pass replaces everything */
    uint64_t since;   /* of this pass */
    uint64_t first;   /* revision of its first chunk; 0: none came yet */
    uint32_t table;
    uint64_t key;
    struct pack rows; /* gathered */
    struct rpc_call rpc;
    uint8_t body[64];
    uint8_t *buf;
    struct loop_timer timer;
    struct task task;
};

void follow_init(struct follow *f);
void follow_deinit(struct follow *f);

/* Idempotent. A stopped one finishes its request and goes no further. */
void follow_run(struct follow *f, bool run);
void follow_kick(struct follow *f); /* new nodes to ask */

#endif /* META_FOLLOW_H */
