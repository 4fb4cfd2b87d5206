/*
 * A few nodes with nothing but Raft, in the simulator: hosts, nets, acceptors, cores, and a state
 * machine that is a list of numbers. Every application is checked against what any node ever
 * applied at that place: two histories are noticed at once.
 */

#ifndef RAFT_CLUSTER_H
#define RAFT_CLUSTER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#include "base/log.h"
#include "base/pool.h"
#include "io/sim.h"
#include "raft/core.h"

enum {
    CLUSTER_NODES_MAX = 5,
    CLUSTER_SEGMENT = 1 << 20, /* the default would make each load read 8 MiB */
};

struct cluster;

struct node {
    struct cluster *cluster;
    uint32_t id;
    struct sim_host *host;
    struct loop *loop; /* NULL: the process is dead */
    struct net *net;
    struct net_acceptor *acceptor;
    struct raft_core *core;
    uint64_t count; /* applied */
    int fatal;
    int open_result;
    bool leading;
};

struct cluster {
    struct sim *sim;
    struct net_identity identity;
    struct node nodes[CLUSTER_NODES_MAX + 1]; /* by id */
    uint32_t nodes_count;
    bool damaged[CLUSTER_NODES_MAX + 1];
    uint64_t *history;
    uint64_t history_count, history_capacity;
    uint64_t *acked;
    uint64_t acked_count, acked_capacity;
    uint64_t value_next;
    uint32_t snapshot_entries, trailing_entries, value_bytes;
    struct list proposals;
    bool quiet;
};

/* A proposal on the heap: its node may die, and then it never comes back. */
struct proposal {
    struct list link;
    struct node *node;
    struct raft_proposal raft;
    uint64_t value;
    bool done;
    int *result;
    uint8_t *entry;
};

static inline void cluster_push(uint64_t **array, uint64_t *count, uint64_t *capacity, uint64_t v)
{
    if (*count == *capacity) {
        *capacity = *capacity == 0 ? 256 : 2 * *capacity;
        *array = mem_realloc(*array, *capacity * sizeof(**array));
    }
    (*array)[(*count)++] = v;
}

static inline void machine_apply(void *arg, uint64_t index, struct slice entry, void **result)
{
    struct node *n = arg;
    struct cluster *c = n->cluster;
    uint64_t value = get_u64(entry.base);

    (void)index;
    *result = NULL;
    if (n->count < c->history_count) {
        if (c->history[n->count] != value)
            fail_msg("node %u applied %llu at place %llu, where another applied %llu", n->id,
                     (unsigned long long)value, (unsigned long long)n->count,
                     (unsigned long long)c->history[n->count]);
    } else {
        cluster_push(&c->history, &c->history_count, &c->history_capacity, value);
    }
    n->count++;
    sim_trace_note(c->sim, value ^ n->id);
}

static inline int machine_snapshot(void *arg, void **buf, size_t *len)
{
    struct node *n = arg;

    *len = 8 * (n->count + 1);
    *buf = malloc(*len);
    put_u64(*buf, n->count);
    for (uint64_t i = 0; i < n->count; i++)
        put_u64((uint8_t *)*buf + 8 * (i + 1), n->cluster->history[i]);
    return 0;
}

static inline int machine_restore(void *arg, struct slice s)
{
    struct node *n = arg;
    uint64_t count = get_u64(s.base);

    assert_int_equal(s.len, 8 * (count + 1));
    assert_true(count <= n->cluster->history_count);
    for (uint64_t i = 0; i < count; i++)
        assert_int_equal(get_u64((const uint8_t *)s.base + 8 * (i + 1)), n->cluster->history[i]);
    n->count = count;
    return 0;
}

static inline void machine_leading(void *arg, bool leading)
{
    struct node *n = arg;
    n->leading = leading;
}

static inline void machine_fatal(void *arg, const char *what, int error)
{
    struct node *n = arg;
    (void)what;
    n->fatal = error;
}

static inline int node_resolve(void *arg, net_endpoint e, struct loop_addr *out)
{
    struct node *n = arg;
    uint64_t id = net_endpoint_id(e);

    if (id == 0 || id > n->cluster->nodes_count)
        return -ENOENT;
    sim_host_addr(n->cluster->nodes[id].host, 7400, out);
    return 0;
}

static inline void node_handle(void *arg, struct rpc_request *req)
{
    struct node *n = arg;

    if (n->core == NULL)
        rpc_reply_status(req, -EAGAIN);
    else
        raft_core_handle(n->core, req);
}

static inline struct net *node_route(void *arg, net_endpoint target)
{
    struct node *n = arg;
    return target == net_endpoint_make(NET_CONTROL, n->id) ? n->net : NULL;
}

static inline void node_open_net(struct node *n)
{
    struct net_identity identity = n->cluster->identity;
    struct loop_addr addr;

    identity.node = n->id;
    sim_host_addr(n->host, 7400, &addr);
    identity.advertise = addr;
    struct net_config net = {.loop = n->loop,
                             .identity = identity,
                             .self = net_endpoint_make(NET_CONTROL, n->id),
                             .incarnation = 1,
                             .resolve = node_resolve,
                             .handle = node_handle,
                             .arg = n};
    struct net_acceptor_config acceptor = {
        .loop = n->loop, .identity = identity, .listen = addr, .route = node_route, .arg = n};
    assert_int_equal(net_create(&net, &n->net), 0);
    assert_int_equal(net_acceptor_create(&acceptor, &addr, &n->acceptor), 0);
}

/* The result of raft_core_open(). */
static inline int node_start(struct node *n)
{
    struct cluster *c = n->cluster;
    struct raft_core_config config = {.election_ms = 300,
                                      .heartbeat_ms = 30,
                                      .dir = "raft",
                                      .id = n->id,
                                      .snapshot_entries = c->snapshot_entries,
                                      .trailing_entries = c->trailing_entries,
                                      .segment_size = CLUSTER_SEGMENT,
                                      .fsm = {.apply = machine_apply,
                                              .snapshot = machine_snapshot,
                                              .restore = machine_restore,
                                              .leading = machine_leading,
                                              .arg = n},
                                      .fatal = machine_fatal};

    n->loop = sim_loop_create(n->host);
    n->count = 0;
    n->fatal = 0;
    n->leading = false;
    node_open_net(n);
    config.loop = n->loop;
    config.net = n->net;
    n->open_result = raft_core_open(&config, &n->core);
    if (n->open_result != 0)
        n->core = NULL;
    return n->open_result;
}

static inline void node_crash(struct node *n, bool power_loss)
{
    if (n->loop == NULL)
        return;
    sim_host_crash(n->host, power_loss);
    if (n->core != NULL)
        raft_core_close(n->core);
    net_acceptor_destroy(n->acceptor);
    net_destroy(n->net);
    loop_destroy(n->loop);
    n->core = NULL;
    n->loop = NULL;
    n->leading = false;
    struct list *next;
    for (struct list *pos = n->cluster->proposals.next; pos != &n->cluster->proposals; pos = next) {
        struct proposal *p = container_of(pos, struct proposal, link);
        next = pos->next;
        if (p->node == n) {
            list_remove(&p->link);
            free(p->entry);
            free(p);
        }
    }
}

/* SKERRY_TEST_LOG=1: what the servers say, with virtual time. */
static inline void sink_write(struct log_sink *sink, const char *line, uint32_t len)
{
    (void)sink;
    fwrite(line, 1, len, stderr);
}

static struct sim *sink_sim;

static inline uint64_t sink_wall_us(struct log_sink *sink)
{
    (void)sink;
    return sink_sim != NULL ? sim_now(sink_sim) / 1000 : 0;
}

static inline void cluster_log(struct cluster *c)
{
    static struct log_sink sink = {.write = sink_write, .wall_us = sink_wall_us};

    sink_sim = c->sim;
    if (getenv("SKERRY_TEST_LOG") != NULL)
        log_set(&sink, LOG_INFO, "sim");
}

static inline void cluster_init(struct cluster *c, uint64_t seed, uint32_t nodes)
{
    memset(c, 0, sizeof(*c));
    c->sim = sim_create(&(struct sim_config){.seed = seed});
    cluster_log(c);
    memset(c->identity.cluster, 0xc1, 16);
    memset(c->identity.secret, 0x5e, 32);
    c->nodes_count = nodes;
    c->value_next = 1;
    c->value_bytes = 8;
    list_init(&c->proposals);
    for (uint32_t id = 1; id <= nodes; id++) {
        struct node *n = &c->nodes[id];
        n->cluster = c;
        n->id = id;
        n->host = sim_host_create(c->sim, id);
    }
}

/* Node 1 as the only voter. */
static inline void cluster_bootstrap(struct cluster *c)
{
    struct node *n = &c->nodes[1];
    struct loop *l = sim_loop_create(n->host);

    assert_int_equal(raft_core_bootstrap_sized(l, "raft", 1, CLUSTER_SEGMENT), 0);
    sim_host_crash(n->host, false);
    loop_destroy(l);
    assert_int_equal(node_start(n), 0);
}

static inline void cluster_deinit(struct cluster *c)
{
    for (uint32_t id = 1; id <= c->nodes_count; id++)
        node_crash(&c->nodes[id], false);
    sim_destroy(c->sim);
    free(c->history);
    free(c->acked);
}

static inline void proposal_on_done(struct raft_proposal *raft)
{
    struct proposal *p = container_of(raft, struct proposal, raft);
    struct cluster *c = p->node->cluster;

    if (p->result != NULL)
        *p->result = raft->result;
    if (raft->result == 0 && p->value != 0)
        cluster_push(&c->acked, &c->acked_count, &c->acked_capacity, p->value);
    list_remove(&p->link);
    free(p->entry);
    free(p);
}

enum { PENDING = 1 };

static inline struct proposal *proposal_new(struct node *n, int *result)
{
    struct proposal *p = mem_zalloc(sizeof(*p));

    p->node = n;
    p->result = result;
    if (result != NULL)
        *result = PENDING;
    p->raft.done = proposal_on_done;
    list_init(&p->link);
    list_push(&n->cluster->proposals, &p->link);
    return p;
}

static inline void node_propose(struct node *n, int *result)
{
    struct cluster *c = n->cluster;
    struct proposal *p = proposal_new(n, result);

    p->value = c->value_next++;
    p->entry = mem_zalloc(c->value_bytes);
    put_u64(p->entry, p->value);
    p->raft.entry = p->entry;
    p->raft.len = c->value_bytes;
    raft_core_propose(n->core, &p->raft);
}

static inline bool cluster_is_over(void *arg)
{
    return *(int *)arg != PENDING;
}

static inline int cluster_wait(struct cluster *c, int *result, uint64_t seconds)
{
    sim_run_until_true(c->sim, cluster_is_over, result, sim_now(c->sim) + seconds * NS_PER_S);
    return *result;
}

static inline int node_assign(struct node *n, uint32_t id, enum raft_core_role role)
{
    int result;
    raft_core_assign(n->core, &proposal_new(n, &result)->raft, id, role);
    return cluster_wait(n->cluster, &result, 60);
}

static inline struct node *cluster_leader(struct cluster *c)
{
    for (uint32_t id = 1; id <= c->nodes_count; id++) {
        if (c->nodes[id].loop != NULL && c->nodes[id].leading && c->nodes[id].fatal == 0)
            return &c->nodes[id];
    }
    return NULL;
}

static inline bool cluster_has_leader(void *arg)
{
    return cluster_leader(arg) != NULL;
}

static inline struct node *cluster_await_leader(struct cluster *c)
{
    assert_true(sim_run_until_true(c->sim, cluster_has_leader, c, sim_now(c->sim) + 60 * NS_PER_S));
    return cluster_leader(c);
}

static inline bool cluster_is_even(void *arg)
{
    struct cluster *c = arg;

    for (uint32_t id = 1; id <= c->nodes_count; id++) {
        if (c->nodes[id].loop != NULL && c->nodes[id].count != c->history_count)
            return false;
    }
    return true;
}

/* All that live have applied all. */
static inline void cluster_await_even(struct cluster *c)
{
    if (sim_run_until_true(c->sim, cluster_is_even, c, sim_now(c->sim) + 60 * NS_PER_S))
        return;
    for (uint32_t id = 1; id <= c->nodes_count; id++) {
        struct raft_core_status s = {0};
        if (c->nodes[id].core != NULL)
            raft_core_status(c->nodes[id].core, &s);
        print_message(
            "node %u: state %d term %llu last %llu commit %llu snapshot %llu count %llu\n", id,
            s.state, (unsigned long long)s.term, (unsigned long long)s.last_index,
            (unsigned long long)s.commit_index, (unsigned long long)s.snapshot_index,
            (unsigned long long)c->nodes[id].count);
    }
    fail_msg("the nodes did not come level");
}

static inline void cluster_grow(struct cluster *c, uint32_t voters)
{
    cluster_await_leader(c);
    for (uint32_t id = 2; id <= voters; id++) {
        assert_int_equal(node_start(&c->nodes[id]), 0);
        assert_int_equal(node_assign(cluster_leader(c), id, RAFT_CORE_VOTER), 0);
    }
}

static inline void cluster_check_acked(struct cluster *c)
{
    for (uint64_t i = 0; i < c->acked_count; i++) {
        bool found = false;
        for (uint64_t j = 0; j < c->history_count && !found; j++)
            found = c->history[j] == c->acked[i];
        if (!found)
            fail_msg("the acknowledged value %llu is lost", (unsigned long long)c->acked[i]);
    }
}

#endif /* RAFT_CLUSTER_H */
