#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "net/impl.h"

enum {
    REQUESTS_DEFAULT = 1024,
    BUFFERS_DEFAULT = 256,
    /* Every class can hold one request of the largest kind, whatever the configuration says. */
    CLASS_PAGES_MIN = (NET_BODY_MAX + NET_DATA_MAX) / ARENA_PAGE,
    CLASS_REQUESTS_MIN = 2,
    CALLS_EXPECTED = 4096, /* the hash grows beyond, once */
    PEERS_EXPECTED = 64,
};

const char *net_endpoint_str(net_endpoint e, char dst[NET_ENDPOINT_STR])
{
    static const char *const kinds[] = {"none", "control", "osd", "client", "joiner"};
    unsigned kind = (unsigned)(e >> 56);

    snprintf(dst, NET_ENDPOINT_STR, "%s.%" PRIu64, kind < COUNT_OF(kinds) ? kinds[kind] : "none",
             net_endpoint_id(e));
    return dst;
}

static uint32_t at_least(uint32_t value, uint32_t min)
{
    return value < min ? min : value;
}

static void intake_init(struct intake *in, struct net *n, uint32_t requests, uint32_t pages)
{
    in->net = n;
    in->conn_requests_max = at_least(requests / 2, 1);
    pool_init(&in->requests, requests, sizeof(struct request), 64);
    arena_init(&in->arena, pages);
    for (int i = 0; i < LINE_COUNT; i++)
        list_init(&in->lines[i]);
}

/* Half of the requests each; three eighths of the memory each, a quarter for answers. */
static void net_init_limits(struct net *n)
{
    uint32_t requests = n->config.requests_max > 0 ? n->config.requests_max : REQUESTS_DEFAULT;
    uint32_t buffers = n->config.data_buffers > 0 ? n->config.data_buffers : BUFFERS_DEFAULT;
    uint32_t eighth = buffers * (NET_BUFFER / ARENA_PAGE / 8);

    for (int i = 0; i < INTAKE_COUNT; i++)
        intake_init(&n->intakes[i], n, at_least(requests / 2, CLASS_REQUESTS_MIN),
                    at_least(3 * eighth, CLASS_PAGES_MIN));
    arena_init(&n->replies, at_least(2 * eighth, NET_DATA_MAX / ARENA_PAGE));
}

/* A welcomed connection is ours now; the handshake's memory goes back to the acceptor. */
static void net_take_arrival(struct net *n, struct arrival *a)
{
    struct shake *s = a->shake;

    a->refused = n->conns_incoming >= NET_CONNS_MAX;
    if (a->refused) {
        stage_move(&s->stage, a->home);
    } else {
        hello_decide(&s->hello, HELLO_OK, n->config.identity.node, n->config.incarnation);
        conn_create(n, &s->stage, &s->hello, NULL);
    }
    a->msg.run = a->returned;
    loop_post(a->home, &a->msg);
}

static void net_step(struct task *task)
{
    struct net *n = container_of(task, struct net, task);
    struct list *link;

    while ((link = list_pop(&n->arrivals)) != NULL)
        net_take_arrival(n, container_of(link, struct arrival, link));
    local_serve(n);
}

static void net_on_arrival(struct loop_msg *msg)
{
    struct arrival *a = container_of(msg, struct arrival, msg);

    list_push(&a->net->arrivals, &a->link);
    loop_wake(net_loop(a->net), &a->net->task);
}

void net_arrive(struct net *n, struct arrival *a)
{
    a->net = n;
    a->msg.run = net_on_arrival;
    list_init(&a->link);
    loop_post(net_loop(n), &a->msg);
}

int net_create(const struct net_config *config, struct net **out)
{
    check(config->loop != NULL && config->handle != NULL);

    struct net *n = mem_zalloc(sizeof(*n));
    n->config = *config;
    task_init(&n->task, net_step);
    list_init(&n->peers);
    list_init(&n->conns);
    list_init(&n->attempts);
    list_init(&n->arrivals);
    hash_init(&n->peers_by_endpoint, PEERS_EXPECTED);
    hash_init(&n->calls_by_id, CALLS_EXPECTED);
    net_init_limits(n);
    net_endpoint_str(config->self, n->name);
    *out = n;
    return 0;
}

/* The loop is dead: nothing comes back, and nobody is told. */
static void net_destroy_conn(struct conn *c)
{
    conn_destroy(c);
}

void net_destroy(struct net *n)
{
    struct list *link;

    while ((link = list_pop(&n->conns)) != NULL)
        net_destroy_conn(container_of(link, struct conn, link));
    attempt_destroy_all(n);
    while ((link = list_pop(&n->peers)) != NULL)
        peer_destroy(container_of(link, struct peer, link));
    for (int i = 0; i < INTAKE_COUNT; i++) {
        pool_deinit(&n->intakes[i].requests);
        arena_deinit(&n->intakes[i].arena);
    }
    arena_deinit(&n->replies);
    hash_deinit(&n->calls_by_id);
    hash_deinit(&n->peers_by_endpoint);
    free(n);
}

void net_set_incarnation(struct net *n, uint32_t incarnation)
{
    n->config.incarnation = incarnation;
}

void net_kick(struct net *n)
{
    list_for_each (pos, &n->peers)
        peer_kick(container_of(pos, struct peer, link));
}
