#include "net/stage.h"

static void plain_recv(struct stage *s, struct loop_op *op, void *buf, size_t len)
{
    loop_recv(s->loop, op, s->conn, buf, len);
}

static void plain_send(struct stage *s, struct loop_op *op, const struct iovec *iov, int iov_count)
{
    loop_send(s->loop, op, s->conn, iov, iov_count);
}

static void plain_close(struct stage *s)
{
    loop_conn_close(s->conn);
}

static void plain_move(struct stage *s, struct loop *to)
{
    loop_conn_move(s->conn, to);
}

static const struct stage_ops stage_plain = {plain_recv, plain_send, plain_close, plain_move};

void stage_plain_init(struct stage *s, struct loop *loop, struct loop_conn *conn)
{
    *s = (struct stage){.ops = &stage_plain, .loop = loop, .conn = conn};
}
