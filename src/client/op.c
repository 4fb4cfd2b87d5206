#include "client/internal.h"

#include <errno.h>

/*
 *     QUEUED --all cut, or failed--> RUNNING --last part--> DONE
 *        |                              ^                    ^
 *        +--refused at once-------------+                    |
 *     FLUSHING --earlier writes of the image are done--------+
 *
 * Ops wait in two queues, reads and writes, each cut in order of arrival: a
 * write that waits for a client id or for room in the window keeps no read back.
 */
#define CAN_MOVE_TO(state) (1u << (state))

static const uint32_t op_moves[] = {
    [CLIENT_OP_QUEUED] = CAN_MOVE_TO(CLIENT_OP_RUNNING),
    [CLIENT_OP_RUNNING] = CAN_MOVE_TO(CLIENT_OP_DONE),
    [CLIENT_OP_FLUSHING] = CAN_MOVE_TO(CLIENT_OP_DONE),
    [CLIENT_OP_DONE] = 0,
};

static void op_move(struct client_op *op, enum client_op_state next)
{
    check(op_moves[op->state] & CAN_MOVE_TO(next));

    op->state = next;
    check(list_empty(&op->link));
}

static bool op_is_write(const struct client_op *op)
{
    return op->kind == CLIENT_WRITE || op->kind == CLIENT_ZERO;
}

/* True when no write of the image that was started before the flush is in flight. */
static bool op_is_flushed(const struct client_op *flush)
{
    const struct client_image *i = flush->image;

    if (list_empty(&i->writes))
        return true;
    return container_of(i->writes.next, struct client_op, image_link)->order > flush->order;
}

static void op_wake_flushes(struct client *c, struct client_image *i)
{
    list_for_each (pos, &i->flushes) {
        struct client_op *flush = container_of(pos, struct client_op, image_link);
        if (!op_is_flushed(flush))
            return;
        loop_wake(c->loop, &flush->task);
    }
}

/* The op is its owner's again: `op` is gone after. */
static void op_finish(struct client_op *op)
{
    struct client *c = op->client;
    struct client_image *i = op->image;
    uint64_t took_ns = loop_now(c->loop) - op->started_ns;

    op_move(op, CLIENT_OP_DONE);
    list_remove(&op->open_link);
    list_remove(&op->image_link);
    if (op_is_write(op))
        op_wake_flushes(c, i);
    i->ops_count--;
    c->status.ops_in_flight--;
    if (took_ns > c->status.stall_ns_max)
        c->status.stall_ns_max = took_ns;
    op->done(op);
}

static void op_step(struct task *task)
{
    struct client_op *op = container_of(task, struct client_op, task);

    switch ((enum client_op_state)op->state) {
    case CLIENT_OP_RUNNING:
        if (op->parts_left == 0)
            op_finish(op);
        return;
    case CLIENT_OP_FLUSHING:
        if (op_is_flushed(op))
            op_finish(op);
        return;
    case CLIENT_OP_QUEUED: /* the queue is cut in its order, by cut_step() */
        return;
    case CLIENT_OP_DONE:
        never("a finished op was woken");
    }
}

void client_op_part_done(struct client_op *op, int result)
{
    check(op->parts_left > 0);

    op->parts_left--;
    if (op->result == 0)
        op->result = result;
    if (op->state == CLIENT_OP_RUNNING && op->parts_left == 0)
        loop_wake(op->client->loop, &op->task);
}

/* ---- Cutting ---- */

static bool cut_is_blocked(const struct client *c, const struct client_op *op)
{
    enum client_queue q = client_queue_of(op);

    if (c->parts_of[q] >= c->parts_of_max || c->parts.used == c->parts.count)
        return true;
    return op_is_write(op) && (c->id_state != CLIENT_ID_VALID || seq_window_is_full(&c->window));
}

/* Give the next piece of `op`, as far as its object goes, to a part. */
static void cut_part(struct client *c, struct client_op *op)
{
    struct client_part *p = pool_get(&c->parts);
    check(p != NULL);

    const uint64_t start = op->offset + op->cut;
    const uint32_t object_size = op->image->object_size;
    const uint64_t left = op->len - op->cut;

    p->object = start / object_size;
    p->offset = (uint32_t)(start % object_size);
    p->len = object_size - p->offset;
    if (p->len > left)
        p->len = (uint32_t)left;
    p->data = op->kind == CLIENT_ZERO ? NULL : (uint8_t *)op->buf + op->cut;

    op->cut += p->len;
    op->parts_left++;
    c->parts_of[client_queue_of(op)]++;
    client_part_start(c, op, p);
}

/* Nothing of a failed op is started any more: what it has in flight is waited for. */
static void cut_queue(struct client *c, struct list *queue)
{
    while (!list_empty(queue)) {
        struct client_op *op = container_of(queue->next, struct client_op, link);

        if (op->cut < op->len && op->result == 0) {
            if (cut_is_blocked(c, op))
                return;
            cut_part(c, op);
            continue;
        }
        list_remove(&op->link);
        op_move(op, CLIENT_OP_RUNNING);
        if (op->parts_left == 0)
            loop_wake(c->loop, &op->task);
    }
}

static void cut_step(struct task *task)
{
    struct client *c = container_of(task, struct client, cut_task);

    cut_queue(c, &c->queues[CLIENT_QUEUE_READS]);
    cut_queue(c, &c->queues[CLIENT_QUEUE_WRITES]);
}

void client_cut_init(struct client *c)
{
    for (uint32_t q = 0; q < CLIENT_QUEUES; q++)
        list_init(&c->queues[q]);
    task_init(&c->cut_task, cut_step);
}

void client_cut_wake(struct client *c)
{
    loop_wake(c->loop, &c->cut_task);
}

/* ---- Starting ---- */

static int op_validate(const struct client_op *op)
{
    if (op->kind == CLIENT_FLUSH)
        return 0;
    if (op->len > CLIENT_IO_MAX || op->offset > op->image->size ||
        op->len > op->image->size - op->offset)
        return -EINVAL;
    return 0;
}

void client_op_start(struct client *c, struct client_op *op)
{
    struct client_image *i = op->image;

    check(op->done != NULL && i != NULL && i->client == c);
    check(op->kind >= CLIENT_READ && op->kind <= CLIENT_FLUSH);
    check((op->kind != CLIENT_READ && op->kind != CLIENT_WRITE) || op->buf != NULL || op->len == 0);

    op->client = c;
    op->result = op_validate(op);
    op->parts_left = 0;
    op->cut = 0;
    op->order = ++i->order_last;
    op->started_ns = loop_now(c->loop);
    task_init(&op->task, op_step);
    list_init(&op->link);
    list_init(&op->open_link);
    list_init(&op->image_link);
    list_push(&c->ops_open, &op->open_link);
    i->ops_count++;
    c->status.ops_total++;
    c->status.ops_in_flight++;

    if (op->kind == CLIENT_FLUSH) {
        op->state = CLIENT_OP_FLUSHING;
        list_push(&i->flushes, &op->image_link);
        loop_wake(c->loop, &op->task);
        return;
    }
    op->state = CLIENT_OP_QUEUED;
    if (op_is_write(op))
        list_push(&i->writes, &op->image_link);
    list_push(&c->queues[client_queue_of(op)], &op->link);
    client_cut_wake(c);
}
