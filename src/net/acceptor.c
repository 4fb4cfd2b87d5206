/*
 * The node's port: accepts, does the handshake on its own loop, and hands the connection to the net
 * that serves the endpoint the client asked for.
 *
 *     FREE --accepted--> SHAKING --proven, route known--> LENT --taken--> FREE
 *       ^                  |  ^                             |
 *       |                  |  +--------- too many there ----+
 *       +----- CLOSING <---+ refused, overdue, or the connection ended
 *
 * A slot holds one handshake. With all of them taken nothing is accepted: strangers wait in the
 * kernel's queue. Each has NET_SHAKE_SERVER_NS.
 */

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "net/impl.h"

enum { HANDSHAKES_DEFAULT = 64 };

enum slot_state {
    SLOT_FREE,    /* a connection */
    SLOT_SHAKING, /* the client */
    SLOT_LENT,    /* the other loop */
    SLOT_CLOSING, /* the socket's last op */
    SLOT_STATES,
};

struct slot {
    struct net_acceptor *acceptor;
    struct list link; /* free */
    enum slot_state state;
    struct task task;
    struct loop_timer timer;
    bool overdue, returned;
    struct shake shake;
    struct arrival arrival;
};

struct net_acceptor {
    struct net_acceptor_config config;
    struct loop_listener *listener; /* NULL: closed */
    struct task task;
    struct loop_op accept;
    bool accepting, accept_came;
    struct loop_timer pause; /* after an accept that failed */
    struct list free;
    uint32_t slots_count;
    struct slot *slots;
};

#define CAN_MOVE_TO(state) (1u << (state))

static const uint32_t slot_moves[SLOT_STATES] = {
    [SLOT_FREE] = CAN_MOVE_TO(SLOT_SHAKING),
    [SLOT_SHAKING] = CAN_MOVE_TO(SLOT_LENT) | CAN_MOVE_TO(SLOT_CLOSING),
    [SLOT_LENT] = CAN_MOVE_TO(SLOT_FREE) | CAN_MOVE_TO(SLOT_SHAKING),
    [SLOT_CLOSING] = CAN_MOVE_TO(SLOT_FREE),
};

static struct loop *acceptor_loop(const struct net_acceptor *a)
{
    return a->config.loop;
}

static void slot_move(struct slot *s, enum slot_state next)
{
    check(slot_moves[s->state] & CAN_MOVE_TO(next));
    s->state = next;
    check(s->state == SLOT_FREE || list_empty(&s->link));
    check(s->state != SLOT_LENT || !s->shake.busy);
}

static void slot_free(struct slot *s)
{
    slot_move(s, SLOT_FREE);
    list_push(&s->acceptor->free, &s->link);
    loop_wake(acceptor_loop(s->acceptor), &s->acceptor->task);
}

static void slot_log(const struct slot *s, const char *what, const char *why)
{
    const struct hello *h = &s->shake.hello;
    char from[NET_ENDPOINT_STR], target[NET_ENDPOINT_STR], addr[LOOP_ADDR_STR];
    struct loop_addr peer;

    loop_conn_peer(s->shake.stage.conn, &peer);
    loop_addr_format(&peer, addr, sizeof(addr));
    log_warn("net", "%s: %s addr=%s claims=%s target=%s", what, why, addr,
             net_endpoint_str(h->from, from), net_endpoint_str(h->target, target));
}

static void slot_close(struct slot *s)
{
    loop_timer_stop(acceptor_loop(s->acceptor), &s->timer);
    stage_close(&s->shake.stage);
    slot_move(s, SLOT_CLOSING);
    if (!s->shake.busy)
        slot_free(s);
}

/* On the acceptor's loop: the other loop took the connection, or had no room. */
static void slot_on_returned(struct loop_msg *msg)
{
    struct slot *s = container_of(msg, struct slot, arrival.msg);

    s->returned = true;
    loop_wake(acceptor_loop(s->acceptor), &s->task);
}

/* A loop that hangs takes nothing; it must not keep the slots that lead to the others. */
static bool acceptor_may_lend(const struct net_acceptor *a, const struct net *to)
{
    uint32_t lent = 0;

    for (uint32_t i = 0; i < a->slots_count; i++)
        lent += a->slots[i].state == SLOT_LENT && a->slots[i].arrival.net == to;
    return lent == 0 || lent < a->slots_count / 4;
}

static void slot_route(struct slot *s)
{
    struct net_acceptor *a = s->acceptor;
    struct net *n = a->config.route(a->config.arg, s->shake.hello.target);

    if (n == NULL || !acceptor_may_lend(a, n)) {
        hello_decide(&s->shake.hello, n == NULL ? HELLO_BAD_ENDPOINT : HELLO_BUSY, 0, 0);
        loop_wake(acceptor_loop(a), &s->task);
        return;
    }
    loop_timer_stop(acceptor_loop(a), &s->timer);
    stage_move(&s->shake.stage, net_loop(n));
    slot_move(s, SLOT_LENT);
    s->arrival = (struct arrival){
        .shake = &s->shake,
        .home = acceptor_loop(a),
        .returned = slot_on_returned,
    };
    net_arrive(n, &s->arrival);
}

static void slot_step_shaking(struct slot *s)
{
    const struct hello *h = &s->shake.hello;

    if (s->overdue) {
        slot_log(s, "handshake given up", "it took too long");
        slot_close(s);
        return;
    }
    if (s->shake.busy || !shake_step(&s->shake))
        return;
    if (s->shake.error != 0) {
        slot_log(s, "handshake given up", "the connection ended");
        slot_close(s);
    } else if (h->state == HELLO_AWAIT_ROUTE) {
        slot_route(s);
    } else {
        slot_log(s, h->refused_by_peer ? "handshake refused by the peer" : "handshake refused",
                 hello_verdict_text(h->verdict));
        slot_close(s);
    }
}

static void slot_step_returned(struct slot *s)
{
    s->returned = false;
    if (!s->arrival.refused) {
        slot_free(s);
        return;
    }
    slot_move(s, SLOT_SHAKING);
    hello_decide(&s->shake.hello, HELLO_BUSY, 0, 0);
    loop_timer_start(acceptor_loop(s->acceptor), &s->timer,
                     loop_now(acceptor_loop(s->acceptor)) + NET_SHAKE_SERVER_NS);
    slot_step_shaking(s);
}

static void slot_step(struct task *task)
{
    struct slot *s = container_of(task, struct slot, task);

    switch (s->state) {
    case SLOT_SHAKING:
        slot_step_shaking(s);
        return;
    case SLOT_LENT:
        if (s->returned)
            slot_step_returned(s);
        return;
    case SLOT_CLOSING:
        if (!s->shake.busy)
            slot_free(s);
        return;
    case SLOT_FREE:
        return;
    case SLOT_STATES:
        break;
    }
    never("no state");
}

static void slot_on_deadline(struct loop_timer *t)
{
    struct slot *s = container_of(t, struct slot, timer);

    s->overdue = true;
    loop_wake(acceptor_loop(s->acceptor), &s->task);
}

static void slot_start(struct slot *s, struct loop_conn *conn)
{
    struct net_acceptor *a = s->acceptor;
    struct hello_config h = {
        .identity = a->config.identity,
        .incarnation = a->config.incarnation,
        .version_min = NET_VERSION,
        .version_max = NET_VERSION,
    };

    loop_random(acceptor_loop(a), h.nonce, sizeof(h.nonce));
    s->overdue = false;
    s->returned = false;
    shake_init(&s->shake, acceptor_loop(a), conn, &s->task);
    hello_server_init(&s->shake.hello, &h);
    slot_move(s, SLOT_SHAKING);
    loop_timer_start(acceptor_loop(a), &s->timer, loop_now(acceptor_loop(a)) + NET_SHAKE_SERVER_NS);
    loop_wake(acceptor_loop(a), &s->task);
}

/* ---- Accepting ---- */

static void acceptor_on_accepted(struct loop_op *op)
{
    struct net_acceptor *a = container_of(op, struct net_acceptor, accept);

    a->accept_came = true;
    loop_wake(acceptor_loop(a), &a->task);
}

static void acceptor_on_pause_over(struct loop_timer *t)
{
    struct net_acceptor *a = container_of(t, struct net_acceptor, pause);

    loop_wake(acceptor_loop(a), &a->task);
}

static void acceptor_take(struct net_acceptor *a)
{
    a->accept_came = false;
    a->accepting = false;
    if (a->accept.result >= 0) {
        struct list *link = list_pop(&a->free);
        check(link != NULL);
        slot_start(container_of(link, struct slot, link), a->accept.conn);
    } else if (a->listener != NULL) {
        log_warn("net", "accept failed error=%d", (int)a->accept.result);
        loop_timer_start(acceptor_loop(a), &a->pause, loop_now(acceptor_loop(a)) + 100 * NS_PER_MS);
    }
}

static void acceptor_step(struct task *task)
{
    struct net_acceptor *a = container_of(task, struct net_acceptor, task);

    if (a->accept_came)
        acceptor_take(a);
    if (a->accepting || a->listener == NULL || list_empty(&a->free) ||
        loop_timer_is_running(&a->pause))
        return;
    a->accepting = true;
    loop_accept(acceptor_loop(a), &a->accept, a->listener);
}

int net_acceptor_create(const struct net_acceptor_config *config, struct loop_addr *bound,
                        struct net_acceptor **out)
{
    struct net_acceptor *a = mem_zalloc(sizeof(*a));

    check(config->route != NULL);
    a->config = *config;
    int error = loop_listen(config->loop, &config->listen, &a->listener, bound);
    if (error != 0) {
        free(a);
        return error;
    }
    task_init(&a->task, acceptor_step);
    loop_op_init(&a->accept, acceptor_on_accepted);
    loop_timer_init(&a->pause, acceptor_on_pause_over);
    list_init(&a->free);
    a->slots_count = config->handshakes_max > 0 ? config->handshakes_max : HANDSHAKES_DEFAULT;
    a->slots = mem_zalloc(a->slots_count * sizeof(*a->slots));
    for (uint32_t i = 0; i < a->slots_count; i++) {
        struct slot *s = &a->slots[i];
        s->acceptor = a;
        list_init(&s->link);
        task_init(&s->task, slot_step);
        loop_timer_init(&s->timer, slot_on_deadline);
        list_push(&a->free, &s->link);
    }
    loop_wake(config->loop, &a->task);
    *out = a;
    return 0;
}

void net_acceptor_close_listener(struct net_acceptor *a)
{
    if (a->listener != NULL)
        loop_listener_close(a->listener);
    a->listener = NULL;
}

void net_acceptor_destroy(struct net_acceptor *a)
{
    free(a->slots);
    free(a);
}
