#include <errno.h>

#include "net/impl.h"

static void shake_on_done(struct loop_op *op)
{
    struct shake *s = container_of(op, struct shake, op);

    s->busy = false;
    s->came = true;
    loop_wake(s->stage.loop, s->task);
}

void shake_init(struct shake *s, struct loop *loop, struct loop_conn *conn, struct task *task)
{
    stage_plain_init(&s->stage, loop, conn);
    loop_op_init(&s->op, shake_on_done);
    s->busy = false;
    s->came = false;
    s->error = 0;
    s->task = task;
}

static void shake_take(struct shake *s)
{
    s->came = false;
    if (s->op.result < 0)
        s->error = (int)s->op.result;
    else if (s->sending)
        hello_output_sent(&s->hello);
    else if (s->op.result == 0)
        s->error = -EPIPE;
    else
        hello_input(&s->hello, (uint32_t)s->op.result);
}

static void shake_send(struct shake *s, const uint8_t *out, uint32_t len)
{
    s->iov = (struct iovec){(void *)(uintptr_t)out, len};
    s->busy = true;
    s->sending = true;
    stage_send(&s->stage, &s->op, &s->iov, 1);
}

static void shake_receive(struct shake *s, uint8_t *room, uint32_t len)
{
    s->busy = true;
    s->sending = false;
    stage_recv(&s->stage, &s->op, room, len);
}

bool shake_step(struct shake *s)
{
    const uint8_t *out;
    uint8_t *room;

    check(!s->busy);
    if (s->came)
        shake_take(s);
    if (s->error != 0)
        return true;

    uint32_t len = hello_output(&s->hello, &out);
    if (len > 0) {
        shake_send(s, out, len);
        return false;
    }
    len = hello_room(&s->hello, &room);
    if (len > 0) {
        shake_receive(s, room, len);
        return false;
    }
    return true;
}
