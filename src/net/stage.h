/*
 * What lies between the socket and the framing: nothing today (the plain stage), TLS later.
 *
 * The contract of recv and send is that of loop_recv() and loop_send(): one of each at a time,
 * done() exactly once and never before the call returned, result as theirs. close() ends both with
 * -ECANCELED and the stage with them. A stage that must exchange messages of its own (TLS's
 * handshake) does so under the first recv or send.
 *
 * Memory: in its owner; nothing to free.
 */

#ifndef NET_STAGE_H
#define NET_STAGE_H

#include "io/loop.h"

struct stage;

struct stage_ops {
    void (*recv)(struct stage *s, struct loop_op *op, void *buf, size_t len);
    void (*send)(struct stage *s, struct loop_op *op, const struct iovec *iov, int iov_count);
    void (*close)(struct stage *s);
    void (*move)(struct stage *s, struct loop *to); /* no op in flight; as loop_conn_move() */
};

struct stage {
    const struct stage_ops *ops;
    struct loop *loop;
    struct loop_conn *conn; /* NULL once closed */
};

/* Bytes as they are. */
void stage_plain_init(struct stage *s, struct loop *loop, struct loop_conn *conn);

static inline void stage_recv(struct stage *s, struct loop_op *op, void *buf, size_t len)
{
    s->ops->recv(s, op, buf, len);
}

static inline void stage_send(struct stage *s, struct loop_op *op, const struct iovec *iov,
                              int iov_count)
{
    s->ops->send(s, op, iov, iov_count);
}

/* Harmless when it is closed already. */
static inline void stage_close(struct stage *s)
{
    if (s->conn != NULL)
        s->ops->close(s);
    s->conn = NULL;
}

static inline void stage_move(struct stage *s, struct loop *to)
{
    s->ops->move(s, to);
    s->loop = to;
}

#endif /* NET_STAGE_H */
