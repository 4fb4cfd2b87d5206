/*
 * Commands on their way: what meta_submit() started, until its result is known.
 *
 *     WAITING --this node leads--> QUEUED --in an entry--> PROPOSED --applied--> done
 *        ^  \--another leads--> SENT --its answer--> done     |
 *        |                       |                            |
 *        +----- no answer -------+--- leadership lost --------+
 *
 * A command keeps its request id however often it is sent, so that it is executed once; its result
 * comes from whichever way is first: the entry being applied here (calls_applied), or the answer of
 * the node it was sent to. Only a deadline ends a command without a result: -ETIMEDOUT, unknown.
 *
 * Threading: the control loop; calls_submit() on any.
 */

#ifndef META_CALLS_H
#define META_CALLS_H

#include "meta/meta.h"

enum { META_RPC_SUBMIT = META_RPC_KIND_FIRST };

enum calls_route { CALLS_NOWHERE, CALLS_HERE, CALLS_THERE };

struct calls {
    /* Set by the owner. */
    struct loop *loop;
    struct net *net;
    /* Where commands go now. `attempts`: how often this one was tried before. */
    enum calls_route (*route)(void *arg, uint32_t attempts, net_endpoint *to);
    void (*queued)(void *arg);                  /* calls.queue is not empty */
    void (*leader)(void *arg, uint32_t leader); /* somebody says who leads; 0: he knows none */
    bool (*may_send)(void *arg);                /* false: calls of our own have to wait */
    void *arg;

    /* Private. */
    struct list all;   /* meta_call.link */
    struct list queue; /* meta_call.queued, in order of arrival */
    struct list buffers;
    struct hash by_request;
    uint32_t count;
    uint8_t *arena;
};

void calls_init(struct calls *c);
void calls_deinit(struct calls *c); /* the loop has stopped; calls are their owners' */

void calls_submit(struct calls *c, struct meta_call *call);
/* The same on the control loop; `urgent`: does not wait for may_send(). */
void calls_start(struct calls *c, struct meta_call *call, bool urgent);
/* A command that came encoded, and has been decoded; copied. `here`: it is not sent on: without
 * leadership it ends with -EAGAIN and call->nowhere. */
void calls_start_encoded(struct calls *c, struct meta_call *call, struct slice command, bool here);

/* Something has changed: who waits tries again. */
void calls_kick(struct calls *c);

/* An entry with this command was applied here. */
void calls_applied(struct calls *c, const uint8_t request_id[16], const struct meta_result *r);

/* Take from the queue what fits into an entry; number of commands, 0: none. They are in `batch`. */
uint32_t calls_take_batch(struct calls *c, struct pack *entry, uint32_t batch);
/* This node leads no more: what waits for an entry goes another way. */
void calls_unqueue(struct calls *c);
/* The entry with `batch` is done: 0, -EAGAIN or -EINPROGRESS. */
void calls_batch_done(struct calls *c, uint32_t batch, int result);

/* Answer of META_RPC_SUBMIT: [leader, result] with the result as meta_result_encode() has it. */
size_t calls_answer_put(void *buf, size_t size, uint32_t leader, const struct meta_result *r);

#endif /* META_CALLS_H */
