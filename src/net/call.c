/*
 * A call, from rpc_call_start() to done().
 *
 *     WAITING --connection up--> QUEUED --its turn--> SENT --+
 *        |                          |                  |    |answer, or any other end
 *        +---------any end----------+------------------+    v
 *                                                    HELD (socket or other loop uses its memory)
 *     LENT (from WAITING too: net_link()) ------------>|    |
 *                                                      v    v
 *                                                     ENDED --task--> done(), IDLE
 *
 * The happy path: queued on the peer's connection, one batch later sent, its answer received into
 * its buffers by conn.c, call_end().
 * What can end it: the answer, the connection, the deadline, the caller. All go through call_end(),
 * which acts on the first and is told nothing later, because it takes the call off every list that
 * the others would find it on.
 * Only call_step() calls done(), from the run queue.
 */

#include <errno.h>

#include "net/impl.h"

#define CAN_MOVE_TO(state) (1u << (state))

static const uint32_t call_moves[CALL_STATES] = {
    [CALL_IDLE] = CAN_MOVE_TO(CALL_WAITING) | CAN_MOVE_TO(CALL_LENT) | CAN_MOVE_TO(CALL_ENDED) |
                  CAN_MOVE_TO(CALL_QUEUED),
    [CALL_WAITING] = CAN_MOVE_TO(CALL_QUEUED) | CAN_MOVE_TO(CALL_LENT) | CAN_MOVE_TO(CALL_ENDED),
    [CALL_QUEUED] = CAN_MOVE_TO(CALL_SENT) | CAN_MOVE_TO(CALL_ENDED),
    [CALL_SENT] = CAN_MOVE_TO(CALL_HELD) | CAN_MOVE_TO(CALL_ENDED),
    [CALL_LENT] = CAN_MOVE_TO(CALL_HELD) | CAN_MOVE_TO(CALL_ENDED),
    [CALL_HELD] = CAN_MOVE_TO(CALL_ENDED),
    [CALL_ENDED] = CAN_MOVE_TO(CALL_IDLE),
};

enum { CALL_HOLDS = CALL_IN_SEND | CALL_IN_RECV | CALL_IS_LENT };

static void call_check(const struct rpc_call *c)
{
    switch ((enum call_state)c->state) {
    case CALL_WAITING:
    case CALL_QUEUED:
        check(!list_empty(&c->link));
        check((c->flags & CALL_HOLDS) == 0);
        break;
    case CALL_SENT:
        check(c->conn != NULL && c->id != 0);
        break;
    case CALL_LENT:
        check(c->lent_to != NULL && (c->flags & CALL_IS_LENT));
        break;
    case CALL_HELD:
        check((c->flags & CALL_HOLDS) != 0 && (c->flags & CALL_HASHED) == 0);
        break;
    case CALL_ENDED:
    case CALL_IDLE:
        check((c->flags & (CALL_HOLDS | CALL_HASHED)) == 0);
        break;
    case CALL_STATES:
        never("no state");
    }
}

void call_move(struct rpc_call *c, enum call_state next)
{
    check(c->state < CALL_STATES && (call_moves[c->state] & CAN_MOVE_TO(next)));
    c->state = next;
    call_check(c);
}

bool call_is_over(const struct rpc_call *c)
{
    return c->state == CALL_HELD || c->state == CALL_ENDED;
}

static void call_ended(struct rpc_call *c)
{
    check(list_empty(&c->link));
    call_move(c, CALL_ENDED);
    loop_wake(net_loop(c->net), &c->task);
}

void call_end(struct rpc_call *c, int status, bool answered)
{
    check(!call_is_over(c) && c->state != CALL_IDLE);
    check(status <= 0);

    c->end_status = status;
    c->answered = answered;
    if (c->flags & CALL_HASHED) {
        hash_remove(&c->net->calls_by_id, &c->by_id);
        c->flags &= ~(uint32_t)CALL_HASHED;
    }
    if (c->conn != NULL)
        conn_forget_call(c->conn, c);
    if ((c->flags & (CALL_IN_SEND | CALL_IS_LENT)) == 0) /* else the link is the holder's */
        list_remove(&c->link);
    if ((c->flags & CALL_HOLDS) == 0)
        call_ended(c);
    else
        call_move(c, CALL_HELD);
}

void call_unhold(struct rpc_call *c, uint32_t hold)
{
    check(c->flags & hold);

    c->flags &= ~hold;
    if (c->state == CALL_HELD && (c->flags & CALL_HOLDS) == 0)
        call_ended(c);
}

/* `c` is its caller's after this. */
static void call_finish(struct rpc_call *c)
{
    loop_timer_stop(net_loop(c->net), &c->timer);
    if (c->flags & CALL_COUNTED) {
        struct peer *p = c->peer;
        p->calls--;
        c->flags &= ~(uint32_t)CALL_COUNTED;
    }
    c->status = c->end_status;
    if (!c->answered) {
        c->reply_body = (struct slice){NULL, 0};
        c->reply_data_len = 0;
        c->reply_revision = 0;
        c->reply_incarnation = 0;
    }
    c->conn = NULL;
    call_move(c, CALL_IDLE);
    c->done(c);
}

static void call_step(struct task *task)
{
    struct rpc_call *c = container_of(task, struct rpc_call, task);

    if (c->flags & CALL_RETURNED) {
        c->flags &= ~(uint32_t)CALL_RETURNED;
        if (c->state == CALL_LENT) /* else its deadline was first, and it keeps that */
            call_end(c, c->status, c->lent_answered);
        call_unhold(c, CALL_IS_LENT);
        return; /* woken again, ENDED */
    }
    if (c->state == CALL_ENDED) {
        call_finish(c);
        return;
    }
    if ((c->flags & CALL_OVERDUE) && !call_is_over(c))
        call_end(c, -ETIMEDOUT, false);
}

static void call_on_deadline(struct loop_timer *t)
{
    struct rpc_call *c = container_of(t, struct rpc_call, timer);

    c->flags |= CALL_OVERDUE;
    loop_wake(net_loop(c->net), &c->task);
}

static void call_check_arguments(const struct rpc_call *c)
{
    size_t data_len = 0;

    check(c->done != NULL);
    check(c->deadline_ns > 0);
    check(c->body.len <= NET_BODY_MAX);
    check(c->data_count >= 0 && c->data_count <= NET_PIECES_MAX);
    for (int i = 0; i < c->data_count; i++)
        data_len += c->data[i].iov_len;
    check(data_len <= NET_DATA_MAX);
}

static void call_start(struct net *n, struct rpc_call *c, bool oneway)
{
    call_check_arguments(c);

    c->net = n;
    c->conn = NULL;
    c->lent_to = NULL;
    c->state = CALL_IDLE;
    c->flags = 0;
    c->oneway = oneway;
    c->id = ++n->id_last;
    c->end_status = 0;
    c->answered = false;
    c->from_incarnation = n->config.incarnation;
    list_init(&c->link);
    task_init(&c->task, call_step);
    loop_timer_init(&c->timer, call_on_deadline);

    struct peer *p = peer_get(n, c->to);
    c->peer = p;
    if (p->calls >= NET_CALLS_MAX) {
        c->end_status = -EBUSY;
        call_ended(c);
        return;
    }
    p->calls++;
    c->flags |= CALL_COUNTED;
    loop_timer_start(net_loop(n), &c->timer, c->deadline_ns);
    if (p->local != NULL)
        local_lend(c, p->local);
    else
        peer_send_call(p, c);
}

void rpc_call_start(struct net *n, struct rpc_call *c)
{
    call_start(n, c, false);
}

void rpc_send_start(struct net *n, struct rpc_call *c)
{
    call_start(n, c, true);
}

void rpc_call_cancel(struct net *n, struct rpc_call *c)
{
    if (c->state == CALL_IDLE || call_is_over(c))
        return;
    check(c->net == n);
    call_end(c, -ECANCELED, false);
}
