/*
 * Joining a cluster: what a machine that has no node id yet says to a control endpoint (its net's
 * self is NET_JOINER/0; its hello proves the cluster's secret as everyone's does).
 *
 *     META_RPC_JOIN   body: [name, location, ip, port, join_id]
 *                     answer: status 0 and [errno, message, node, cluster, [[node, ip, port]...]]
 *                     status -EAGAIN: no leader now, ask again (with the same join_id)
 *
 * The same join_id always gets the same node id, so a lost answer costs nothing. A name whose node
 * has never started is given to who asks for it, with its number. Who hears no leader says -EAGAIN
 * at once. The answer lists the nodes known there (at most META_JOIN_CONTACTS_MAX), for the joiner
 * to keep as contacts. All msgpack.
 */

#ifndef META_JOIN_H
#define META_JOIN_H

#include "meta/meta.h"

enum {
    META_RPC_JOIN = 124,
    META_JOIN_CONTACTS_MAX = 16,
    META_JOIN_REQUEST_MAX = 512,
    META_JOIN_ANSWER_MAX = 1536, /* body_buf of the joiner's call */
};

struct meta_join_request {
    char name[META_NAME_MAX];
    char location[META_NAME_MAX]; /* "": the name */
    struct loop_addr addr;        /* of the internal port */
    uint8_t join_id[16];          /* random, kept by the joiner until it has joined */
};

struct meta_join_contact {
    uint32_t node;
    struct loop_addr addr;
};

struct meta_join_answer {
    int code; /* 0, -EEXIST: the name is taken, -EINVAL, ... */
    char message[160];
    uint32_t node;
    uint8_t cluster[16];
    uint32_t contacts_count;
    struct meta_join_contact contacts[META_JOIN_CONTACTS_MAX];
};

/* Bytes written, 0 when `size` is too small. */
size_t meta_join_request_put(void *buf, size_t size, const struct meta_join_request *r);
int meta_join_request_get(struct slice body, struct meta_join_request *out); /* 0 or -EPROTO */
size_t meta_join_answer_put(void *buf, size_t size, const struct meta_join_answer *a);
int meta_join_answer_get(struct slice body, struct meta_join_answer *out);

#endif /* META_JOIN_H */
