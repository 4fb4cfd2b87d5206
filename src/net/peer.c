/*
 * Our connections to other endpoints: one each, made when somebody needs it.
 *
 *     IDLE --needed--> CONNECTING --welcomed--> UP --lost--> IDLE
 *      ^  \               ^    |failed                        |needed
 *      |   +-no address-> UNKNOWN                             v
 *      |                  ^    |net_kick()                 BACKOFF (IDLE first)
 *      +--------- BACKOFF <----+--its time--> CONNECTING
 *
 * An attempt that fails ends every call that waited for it; later calls wait for the next one. So a
 * call to a dead peer ends after one attempt, and says whether the peer's machine refused it.
 *
 * The first attempt after a connection that lived is made at once (a killed process is known as
 * refused within a round trip); then the pause doubles from 10 ms to 1 s, half of it random.
 *
 * A connect cannot be taken back from the kernel. One that is given up is abandoned: it closes what
 * it gets and frees itself, and there are at most NET_ATTEMPTS_MAX of them for a peer.
 */

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "net/impl.h"

#define CAN_MOVE_TO(state) (1u << (state))

static const uint32_t peer_moves[PEER_STATES] = {
    [PEER_IDLE] =
        CAN_MOVE_TO(PEER_UNKNOWN) | CAN_MOVE_TO(PEER_BACKOFF) | CAN_MOVE_TO(PEER_CONNECTING),
    [PEER_UNKNOWN] = CAN_MOVE_TO(PEER_CONNECTING) | CAN_MOVE_TO(PEER_IDLE),
    [PEER_BACKOFF] =
        CAN_MOVE_TO(PEER_CONNECTING) | CAN_MOVE_TO(PEER_UNKNOWN) | CAN_MOVE_TO(PEER_IDLE),
    [PEER_CONNECTING] = CAN_MOVE_TO(PEER_UP) | CAN_MOVE_TO(PEER_IDLE),
    [PEER_UP] = CAN_MOVE_TO(PEER_IDLE),
};

/* One connect and its handshake. */
struct attempt {
    struct net *net;
    struct peer *peer; /* NULL: abandoned */
    net_endpoint endpoint;
    struct list link; /* net->attempts */
    struct task task;
    struct loop_timer timer;
    struct loop_addr addr;
    struct loop_op connect;
    bool connecting, overdue;
    bool shaking;
    bool finished; /* peer_step() takes it */
    int error;
    struct shake shake;
    struct peer *counted_in;
};

static void peer_check(const struct peer *p)
{
    switch (p->state) {
    case PEER_IDLE:
    case PEER_UNKNOWN:
        check(p->conn == NULL && p->attempt == NULL);
        break;
    case PEER_BACKOFF:
        check(p->conn == NULL && p->attempt == NULL);
        check(loop_timer_is_running(&p->timer));
        break;
    case PEER_CONNECTING:
        check(p->conn == NULL && p->attempt != NULL);
        break;
    case PEER_UP:
        check(p->conn != NULL && p->attempt == NULL && list_empty(&p->waiting));
        break;
    case PEER_STATES:
        never("no state");
    }
}

static void peer_move(struct peer *p, enum peer_state next)
{
    check(peer_moves[p->state] & CAN_MOVE_TO(next));
    p->state = next;
    peer_check(p);
}

/* ---- Attempts ---- */

static void attempt_on_connected(struct loop_op *op)
{
    struct attempt *a = container_of(op, struct attempt, connect);

    a->connecting = false;
    loop_wake(net_loop(a->net), &a->task);
}

static void attempt_on_deadline(struct loop_timer *t)
{
    struct attempt *a = container_of(t, struct attempt, timer);

    a->overdue = true;
    loop_wake(net_loop(a->net), &a->task);
}

static void attempt_free(struct attempt *a)
{
    loop_timer_stop(net_loop(a->net), &a->timer);
    task_cancel(&a->task);
    list_remove(&a->link);
    a->counted_in->attempts--;
    free(a);
}

/* Its peer learns how it ended; whatever the kernel still holds comes back to nobody. */
static void attempt_finish(struct attempt *a, int error)
{
    a->error = error;
    a->finished = true;
    loop_timer_stop(net_loop(a->net), &a->timer);
    loop_wake(net_loop(a->net), &a->peer->task);
}

static void attempt_abandon(struct attempt *a)
{
    a->peer = NULL;
    loop_timer_stop(net_loop(a->net), &a->timer);
    loop_wake(net_loop(a->net), &a->task);
}

static void attempt_step_abandoned(struct attempt *a)
{
    if (a->connecting)
        return;
    if (a->shaking)
        stage_close(&a->shake.stage);
    else if (a->connect.result >= 0)
        loop_conn_close(a->connect.conn);
    a->connect.result = -ECANCELED; /* closed once */
    if (a->shaking && a->shake.busy)
        return;
    attempt_free(a);
}

static void attempt_shake(struct attempt *a)
{
    struct net *n = a->net;
    struct hello_config h = {
        .identity = n->config.identity,
        .self = n->config.self,
        .target = a->endpoint,
        .incarnation = n->config.incarnation,
        .version_min = NET_VERSION,
        .version_max = NET_VERSION,
    };

    loop_random(net_loop(n), h.nonce, sizeof(h.nonce));
    shake_init(&a->shake, net_loop(n), a->connect.conn, &a->task);
    hello_client_init(&a->shake.hello, &h);
    a->shaking = true;
    loop_timer_start(net_loop(n), &a->timer, loop_now(net_loop(n)) + NET_SHAKE_NS);
}

static void attempt_judge(struct attempt *a)
{
    const struct hello *h = &a->shake.hello;
    char endpoint[NET_ENDPOINT_STR], addr[LOOP_ADDR_STR];

    if (h->state == HELLO_WELCOMED) {
        attempt_finish(a, 0);
        return;
    }
    loop_addr_format(&a->addr, addr, sizeof(addr));
    net_endpoint_str(a->endpoint, endpoint);
    if (h->state == HELLO_REFUSED) {
        log_warn("net", "handshake refused by %s: %s self=%s peer=%s addr=%s",
                 h->refused_by_peer ? "the peer" : "us", hello_verdict_text(h->verdict),
                 a->net->name, endpoint, addr);
        attempt_finish(a, hello_verdict_error(h->verdict));
    } else {
        log_info("net", "connection ended in the handshake self=%s peer=%s addr=%s error=%d",
                 a->net->name, endpoint, addr, a->shake.error);
        attempt_finish(a, -EPIPE);
    }
}

static void attempt_step(struct task *task)
{
    struct attempt *a = container_of(task, struct attempt, task);

    if (a->peer == NULL) {
        attempt_step_abandoned(a);
        return;
    }
    if (a->finished)
        return;
    if (a->overdue) {
        attempt_finish(a, -ETIMEDOUT);
        return;
    }
    if (a->connecting)
        return;
    if (!a->shaking) {
        if (a->connect.result < 0) {
            attempt_finish(a, (int)a->connect.result);
            return;
        }
        attempt_shake(a);
    }
    if (!a->shake.busy && shake_step(&a->shake))
        attempt_judge(a);
}

static struct attempt *attempt_start(struct peer *p, const struct loop_addr *addr)
{
    struct net *n = p->net;
    struct attempt *a = mem_zalloc(sizeof(*a));

    a->net = n;
    a->peer = p;
    a->counted_in = p;
    a->endpoint = p->endpoint;
    a->addr = *addr;
    a->connecting = true;
    list_init(&a->link);
    list_push(&n->attempts, &a->link);
    task_init(&a->task, attempt_step);
    loop_timer_init(&a->timer, attempt_on_deadline);
    loop_timer_start(net_loop(n), &a->timer, loop_now(net_loop(n)) + NET_CONNECT_NS);
    loop_op_init(&a->connect, attempt_on_connected);
    p->attempts++;
    loop_connect(net_loop(n), &a->connect, &a->addr);
    return a;
}

void attempt_destroy_all(struct net *n)
{
    struct list *link;

    while ((link = list_pop(&n->attempts)) != NULL)
        free(container_of(link, struct attempt, link));
}

/* ---- Peers ---- */

static bool peer_is_needed(const struct peer *p)
{
    return p->local == NULL && (p->wanted || !list_empty(&p->waiting));
}

static void peer_end_waiting(struct peer *p, int status)
{
    while (!list_empty(&p->waiting))
        call_end(container_of(p->waiting.next, struct rpc_call, link), status, false);
}

static void peer_tell_lost(struct peer *p, int why)
{
    const struct net_config *config = &p->net->config;

    if (config->peer_lost != NULL)
        config->peer_lost(config->arg, p->endpoint, p->incarnation, why);
}

static void peer_on_timer(struct loop_timer *t)
{
    struct peer *p = container_of(t, struct peer, timer);

    loop_wake(net_loop(p->net), &p->task);
}

/* The next pause: doubled, then between half of it and all of it. */
static void peer_back_off(struct peer *p)
{
    struct loop *l = net_loop(p->net);

    p->backoff_ns = p->backoff_ns == 0 ? NET_BACKOFF_MIN_NS : 2 * p->backoff_ns;
    if (p->backoff_ns > NET_BACKOFF_MAX_NS)
        p->backoff_ns = NET_BACKOFF_MAX_NS;
    uint64_t half = p->backoff_ns / 2;
    p->not_before_ns = loop_now(l) + half + loop_random_u64(l) % (half + 1);
}

/* Needed, and neither connected nor connecting: try, or wait for what is missing. */
static void peer_try(struct peer *p)
{
    struct net *n = p->net;
    struct loop_addr addr;
    uint64_t now = loop_now(net_loop(n));

    if ((now < p->not_before_ns && !p->kicked) || p->attempts >= NET_ATTEMPTS_MAX) {
        uint64_t at = p->not_before_ns > now ? p->not_before_ns : now + NET_BACKOFF_MAX_NS;
        loop_timer_start(net_loop(n), &p->timer, at);
        if (p->state != PEER_BACKOFF)
            peer_move(p, PEER_BACKOFF);
        return;
    }
    p->kicked = false;
    loop_timer_stop(net_loop(n), &p->timer);
    if (n->config.resolve == NULL || n->config.resolve(n->config.arg, p->endpoint, &addr) != 0) {
        if (p->state != PEER_UNKNOWN)
            peer_move(p, PEER_UNKNOWN);
        return;
    }
    p->attempt = attempt_start(p, &addr);
    peer_move(p, PEER_CONNECTING);
}

static void peer_come_up(struct peer *p, struct attempt *a)
{
    const struct net_config *config = &p->net->config;

    p->incarnation = a->shake.hello.incarnation;
    p->conn = conn_create(p->net, &a->shake.stage, &a->shake.hello, p);
    p->attempt = NULL;
    attempt_free(a); /* the connection is conn's */
    while (!list_empty(&p->waiting))
        conn_send_call(p->conn, container_of(p->waiting.next, struct rpc_call, link));
    peer_move(p, PEER_UP);
    if (config->peer_up != NULL)
        config->peer_up(config->arg, p->endpoint, p->incarnation);
}

/* What a failed attempt means for a call that waited for it. */
static int peer_call_status(int error)
{
    return error == -ECONNREFUSED || error == -EACCES || error == -EPROTONOSUPPORT ? error : -EPIPE;
}

static void peer_attempt_failed(struct peer *p, struct attempt *a)
{
    int error = a->error;

    p->attempt = NULL;
    attempt_abandon(a);
    peer_back_off(p);
    peer_move(p, PEER_IDLE);
    peer_end_waiting(p, peer_call_status(error));
    peer_tell_lost(p, error == -ETIMEDOUT ? -ETIMEDOUT : peer_call_status(error));
}

/* The address has changed while we wait for the old one to answer. */
static bool peer_attempt_is_stale(const struct peer *p)
{
    const struct net_config *config = &p->net->config;
    struct loop_addr addr;

    return config->resolve(config->arg, p->endpoint, &addr) == 0 &&
           !loop_addr_equal(&addr, &p->attempt->addr);
}

static void peer_step_connecting(struct peer *p)
{
    struct attempt *a = p->attempt;

    if (a->finished && a->error == 0) {
        peer_come_up(p, a);
    } else if (a->finished) {
        peer_attempt_failed(p, a);
    } else if (p->kicked && peer_attempt_is_stale(p)) {
        p->attempt = NULL;
        attempt_abandon(a);
        peer_move(p, PEER_IDLE);
    }
}

static void peer_step(struct task *task)
{
    struct peer *p = container_of(task, struct peer, task);

    if (p->state == PEER_UP && p->conn == NULL) {
        int why = p->lost;
        p->lost = 0;
        peer_move(p, PEER_IDLE);
        if (why != 0)
            peer_tell_lost(p, why);
    }
    if (p->state == PEER_CONNECTING)
        peer_step_connecting(p);
    if (p->state == PEER_CONNECTING || p->state == PEER_UP) {
        p->kicked = false;
        return;
    }
    if (peer_is_needed(p)) {
        peer_try(p);
        return;
    }
    p->kicked = false;
    loop_timer_stop(net_loop(p->net), &p->timer);
    if (p->state != PEER_IDLE)
        peer_move(p, PEER_IDLE);
}

struct peer *peer_get(struct net *n, net_endpoint e)
{
    struct hash_link *found = hash_find(&n->peers_by_endpoint, e);
    if (found != NULL)
        return container_of(found, struct peer, by_endpoint);

    struct peer *p = mem_zalloc(sizeof(*p));
    p->net = n;
    p->endpoint = e;
    list_init(&p->waiting);
    list_init(&p->link);
    task_init(&p->task, peer_step);
    loop_timer_init(&p->timer, peer_on_timer);
    list_push(&n->peers, &p->link);
    hash_insert(&n->peers_by_endpoint, &p->by_endpoint, e);
    return p;
}

void peer_send_call(struct peer *p, struct rpc_call *c)
{
    if (p->conn != NULL) {
        conn_send_call(p->conn, c);
        return;
    }
    list_push(&p->waiting, &c->link);
    call_move(c, CALL_WAITING);
    loop_wake(net_loop(p->net), &p->task);
}

/* why 0: closed because nobody needed it. */
void peer_conn_lost(struct peer *p, int why)
{
    uint64_t lived = loop_now(net_loop(p->net)) - p->conn->opened_ns;

    if (lived >= NET_STEADY_NS) {
        p->backoff_ns = 0;
        p->not_before_ns = 0;
    } else {
        peer_back_off(p);
    }
    p->conn = NULL;
    p->lost = why;
    loop_wake(net_loop(p->net), &p->task);
}

void peer_kick(struct peer *p)
{
    p->kicked = true;
    loop_wake(net_loop(p->net), &p->task);
}

void peer_destroy(struct peer *p)
{
    free(p);
}

void net_want(struct net *n, net_endpoint peer, bool wanted)
{
    struct peer *p = peer_get(n, peer);

    p->wanted = wanted;
    loop_wake(net_loop(n), &p->task);
}

void net_link(struct net *n, net_endpoint peer, struct net *other)
{
    struct peer *p = peer_get(n, peer);

    p->local = other;
    while (!list_empty(&p->waiting)) {
        struct rpc_call *c = container_of(p->waiting.next, struct rpc_call, link);
        list_remove(&c->link);
        local_lend(c, other);
    }
    loop_wake(net_loop(n), &p->task);
}

void net_unlink(struct net *n, net_endpoint peer)
{
    struct peer *p = peer_get(n, peer);

    p->local = NULL;
    loop_wake(net_loop(n), &p->task);
}
