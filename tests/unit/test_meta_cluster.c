/*
 * Meta over real Raft, real net and real disks, all of them simulated: nodes with nothing but a
 * control loop, and client processes that follow. Every map that anybody is shown is checked
 * against the one before it: revisions rise.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/pool.h"
#include "io/sim.h"
#include "meta/meta_impl.h"
#include "meta/meta_join.h"

enum { NODES_MAX = 8, CLIENT_HOST = 100, PORT = 7400, PENDING = 1 };

struct world;

/* Somebody who is shown maps. */
struct viewer {
    struct map_feed feed;
    const struct map *map; /* the last one */
    uint64_t revision;     /* its */
    uint32_t maps;
};

struct node {
    struct world *world;
    uint32_t id, starts;
    char name[8];
    struct sim_host *host;
    struct loop *loop; /* NULL: no process */
    struct net *net;
    struct net_acceptor *acceptor;
    struct meta *meta;
    struct viewer viewer;
    int fatal;
};

struct client {
    struct world *world;
    struct sim_host *host;
    struct loop *loop;
    struct net *net;
    struct meta_remote *remote;
    struct viewer viewer;
};

struct world {
    struct sim *sim;
    struct net_identity identity;
    struct node nodes[NODES_MAX + 1]; /* by id */
    struct client client;
    uint32_t nodes_count;
    uint32_t snapshot_entries, trailing_entries;
    struct list commands;
};

/* On the heap: its process may die, and then it never comes back. */
struct command {
    struct list link;
    struct loop *loop;
    struct meta_call call;
    struct meta_result *result;
    uint64_t *ended_ns;
};

/* ---- Wiring ---- */

static void viewer_on_map(struct map_feed *f, const struct map *map)
{
    struct viewer *v = container_of(f, struct viewer, feed);

    assert_true(map->revision > v->revision);
    v->map = map;
    v->revision = map->revision;
    v->maps++;
}

static void viewer_start(struct viewer *v, struct loop *loop, struct meta_access *access)
{
    *v = (struct viewer){.feed = {.loop = loop, .on_map = viewer_on_map}};
    access->feed_add(access, &v->feed);
}

static int node_resolve(void *arg, net_endpoint e, struct loop_addr *out)
{
    struct node *n = arg;
    return n->meta != NULL ? meta_resolve(n->meta, e, out) : -ENOENT;
}

static void node_handle(void *arg, struct rpc_request *req)
{
    struct node *n = arg;

    if (n->meta != NULL)
        meta_handle(n->meta, req);
    else
        rpc_reply_status(req, -EAGAIN);
}

static void node_peer_up(void *arg, net_endpoint e, uint32_t incarnation)
{
    struct node *n = arg;
    if (n->meta != NULL)
        meta_peer_up(n->meta, e, incarnation);
}

static void node_peer_lost(void *arg, net_endpoint e, uint32_t incarnation, int why)
{
    struct node *n = arg;
    if (n->meta != NULL)
        meta_peer_lost(n->meta, e, incarnation, why);
}

static struct net *node_route(void *arg, net_endpoint target)
{
    struct node *n = arg;
    return meta_endpoint_is_control_of(target, n->id) ? n->net : NULL;
}

static void node_fatal(void *arg, const char *what, int error)
{
    struct node *n = arg;

    (void)what;
    n->fatal = error;
    sim_host_crash(n->host, false);
}

static void node_open_net(struct node *n)
{
    struct net_config net = {.loop = n->loop,
                             .identity = n->world->identity,
                             .self = net_endpoint_make(NET_CONTROL, n->id),
                             .incarnation = n->starts,
                             .resolve = node_resolve,
                             .handle = node_handle,
                             .peer_up = node_peer_up,
                             .peer_lost = node_peer_lost,
                             .arg = n};
    struct loop_addr bound;

    net.identity.node = n->id;
    sim_host_addr(n->host, PORT, &net.identity.advertise);
    struct net_acceptor_config acceptor = {.loop = n->loop,
                                           .identity = net.identity,
                                           .incarnation = n->starts,
                                           .listen = net.identity.advertise,
                                           .route = node_route,
                                           .arg = n};
    assert_int_equal(net_create(&net, &n->net), 0);
    assert_int_equal(net_acceptor_create(&acceptor, &bound, &n->acceptor), 0);
}

static void node_start(struct node *n)
{
    struct world *w = n->world;
    struct meta_config config = {
        .dir = "/node",
        .node = n->id,
        .node_incarnation = ++n->starts,
        .node_name = n->name,
        .location = n->name,
        .raft = {.snapshot_entries = w->snapshot_entries, .trailing_entries = w->trailing_entries},
        .fatal = node_fatal,
        .arg = n};
    struct loop_addr first;

    n->fatal = 0;
    n->loop = sim_loop_create(n->host);
    assert_int_equal(loop_dir_create(n->loop, "/node"), 0);
    assert_int_equal(loop_dir_sync(n->loop, "/"), 0);
    node_open_net(n);
    config.loop = n->loop;
    config.net = n->net;
    sim_host_addr(n->host, PORT, &config.advertise);
    assert_int_equal(meta_open(&config, &n->meta), 0);
    sim_host_addr(w->nodes[1].host, PORT, &first);
    if (n->id == 1)
        meta_init_cluster(n->meta, w->identity.cluster, 3);
    else
        meta_add_contact(n->meta, &first, 1);
    viewer_start(&n->viewer, n->loop, meta_access(n->meta));
}

static void commands_drop(struct world *w, struct loop *loop)
{
    struct list *next;

    for (struct list *pos = w->commands.next; pos != &w->commands; pos = next) {
        struct command *c = container_of(pos, struct command, link);
        next = pos->next;
        if (c->loop != loop)
            continue;
        list_remove(&c->link);
        free(c);
    }
}

static void node_crash(struct node *n, bool power_loss)
{
    if (n->loop == NULL)
        return;
    if (n->fatal == 0 || power_loss)
        sim_host_crash(n->host, power_loss);
    meta_close(n->meta);
    net_acceptor_destroy(n->acceptor);
    net_destroy(n->net);
    commands_drop(n->world, n->loop);
    loop_destroy(n->loop);
    n->loop = NULL;
    n->meta = NULL;
}

/* SKERRY_TEST_LOG=1: what the nodes say, with virtual time. */
static struct sim *sink_sim;

static void sink_write(struct log_sink *sink, const char *line, uint32_t len)
{
    (void)sink;
    fwrite(line, 1, len, stderr);
}

static uint64_t sink_wall_us(struct log_sink *sink)
{
    (void)sink;
    return sink_sim != NULL ? sim_now(sink_sim) / 1000 : 0;
}

static void world_init(struct world *w, uint64_t seed, uint32_t nodes)
{
    static struct log_sink sink = {.write = sink_write, .wall_us = sink_wall_us};

    memset(w, 0, sizeof(*w));
    w->sim = sim_create(&(struct sim_config){.seed = seed});
    sink_sim = w->sim;
    if (getenv("SKERRY_TEST_LOG") != NULL)
        log_set(&sink, LOG_INFO, "sim");
    memset(w->identity.cluster, 0xc1, sizeof(w->identity.cluster));
    memset(w->identity.secret, 0x5e, sizeof(w->identity.secret));
    w->nodes_count = nodes;
    list_init(&w->commands);
    for (uint32_t id = 1; id <= nodes; id++) {
        struct node *n = &w->nodes[id];
        n->world = w;
        n->id = id;
        snprintf(n->name, sizeof(n->name), "n%u", id);
        n->host = sim_host_create(w->sim, id);
    }
}

static void client_close(struct client *c)
{
    if (c->loop == NULL)
        return;
    sim_host_crash(c->host, false);
    meta_remote_close(c->remote);
    net_destroy(c->net);
    commands_drop(c->world, c->loop);
    loop_destroy(c->loop);
    c->loop = NULL;
}

static void world_deinit(struct world *w)
{
    for (uint32_t id = 1; id <= w->nodes_count; id++) {
        assert_int_equal(w->nodes[id].fatal, 0);
        node_crash(&w->nodes[id], false);
    }
    client_close(&w->client);
    sink_sim = NULL;
    sim_destroy(w->sim);
}

/* ---- Time ---- */

static void pass_ms(struct world *w, uint64_t ms)
{
    sim_run_until(w->sim, sim_now(w->sim) + ms * NS_PER_MS);
}

static bool within(struct world *w, uint64_t ms, bool (*cond)(void *arg), void *arg)
{
    return sim_run_until_true(w->sim, cond, arg, sim_now(w->sim) + ms * NS_PER_MS);
}

/* ---- Commands ---- */

static void command_on_done(struct meta_call *call)
{
    struct command *c = container_of(call, struct command, call);

    assert_int_equal(c->result->code, PENDING);
    *c->result = call->result;
    if (c->ended_ns != NULL)
        *c->ended_ns = loop_now(c->loop);
    list_remove(&c->link);
    free(c);
}

static void command_start(struct world *w, struct loop *loop, struct meta_access *access,
                          const struct meta_command *command, uint64_t deadline_ms,
                          struct meta_result *result, uint64_t *ended_ns)
{
    struct command *c = mem_zalloc(sizeof(*c));

    c->loop = loop;
    c->call.loop = loop;
    c->call.command = *command;
    c->call.deadline_ns = loop_now(loop) + deadline_ms * NS_PER_MS;
    c->call.done = command_on_done;
    c->result = result;
    c->ended_ns = ended_ns;
    result->code = PENDING;
    list_init(&c->link);
    list_push(&w->commands, &c->link);
    access->submit(access, &c->call);
}

static void node_submit(struct node *n, const struct meta_command *command, uint64_t deadline_ms,
                        struct meta_result *result)
{
    command_start(n->world, n->loop, meta_access(n->meta), command, deadline_ms, result, NULL);
}

static bool result_is_there(void *arg)
{
    return ((struct meta_result *)arg)->code != PENDING;
}

static struct meta_result node_command(struct node *n, const struct meta_command *command)
{
    struct meta_result result;

    node_submit(n, command, 20000, &result);
    assert_true(within(n->world, 30000, result_is_there, &result));
    return result;
}

static void add_client(struct node *n)
{
    struct meta_command add = {.kind = META_CLIENT_ADD};
    assert_int_equal(node_command(n, &add).code, 0);
}

/* ---- Who is what ---- */

static struct node *world_leader(struct world *w)
{
    for (uint32_t id = 1; id <= w->nodes_count; id++) {
        struct node *n = &w->nodes[id];
        if (n->loop != NULL && n->fatal == 0 && meta_leading(n->meta))
            return n;
    }
    return NULL;
}

static bool has_leader(void *arg)
{
    return world_leader(arg) != NULL;
}

static struct node *await_leader(struct world *w)
{
    assert_true(within(w, 30000, has_leader, w));
    return world_leader(w);
}

static struct node *a_follower(struct world *w)
{
    struct node *leader = await_leader(w);

    for (uint32_t id = 1; id <= w->nodes_count; id++) {
        if (&w->nodes[id] != leader && w->nodes[id].loop != NULL)
            return &w->nodes[id];
    }
    return NULL;
}

static uint32_t members_as(struct node *n, enum raft_core_role role)
{
    struct raft_core_status s;
    uint32_t count = 0;

    meta_raft_status(n->meta, &s);
    for (uint32_t i = 0; i < s.members_count; i++)
        count += s.members[i].role == role;
    return count;
}

static bool is_registered(void *arg)
{
    return meta_is_registered(((struct node *)arg)->meta);
}

/* The members that live hold the same state. */
static bool is_level(void *arg)
{
    struct world *w = arg;
    struct node *leader = world_leader(w);

    if (leader == NULL)
        return false;
    for (uint32_t id = 1; id <= w->nodes_count; id++) {
        struct node *n = &w->nodes[id];
        struct meta_status s;
        if (n->loop == NULL || n->fatal != 0)
            continue;
        if (!meta_is_registered(n->meta))
            return false;
        meta_status(n->meta, &s);
        if (s.revision != meta_state_revision(leader->meta->state) ||
            n->viewer.revision != s.revision)
            return false;
        if (s.member && meta_state_applied_index(n->meta->state) !=
                            meta_state_applied_index(leader->meta->state))
            return false;
    }
    return true;
}

static uint64_t await_level(struct world *w)
{
    assert_true(within(w, 30000, is_level, w));
    uint64_t hash = meta_state_hash(world_leader(w)->meta->state);
    for (uint32_t id = 1; id <= w->nodes_count; id++) {
        struct node *n = &w->nodes[id];
        struct meta_status s;
        if (n->loop == NULL)
            continue;
        meta_status(n->meta, &s);
        if (s.member)
            assert_int_equal(meta_state_hash(n->meta->state), hash);
    }
    return hash;
}

/* ---- Growing ---- */

static void world_found(struct world *w)
{
    struct node *n = &w->nodes[1];
    struct loop *loop = sim_loop_create(n->host);

    assert_int_equal(loop_dir_create(loop, "/node"), 0);
    assert_int_equal(loop_dir_sync(loop, "/"), 0);
    assert_int_equal(raft_core_bootstrap_sized(loop, "/node/raft", 1, 1 << 20), 0);
    sim_host_crash(n->host, false);
    loop_destroy(loop);
    node_start(n);
    assert_true(within(w, 10000, is_registered, n));
}

struct joiner {
    struct world *world;
    struct rpc_call call;
    uint8_t body[META_JOIN_REQUEST_MAX], answer[META_JOIN_ANSWER_MAX];
    bool done;
};

static int joiner_resolve(void *arg, net_endpoint e, struct loop_addr *out)
{
    struct joiner *j = arg;
    uint64_t place = net_endpoint_id(e) - net_endpoint_id(meta_contact_endpoint(0));

    sim_host_addr(j->world->nodes[place + 1].host, PORT, out);
    return 0;
}

static void nobody_handles(void *arg, struct rpc_request *req)
{
    (void)arg;
    rpc_reply_status(req, -ENOSYS);
}

static void joiner_on_done(struct rpc_call *call)
{
    container_of(call, struct joiner, call)->done = true;
}

static bool joiner_is_done(void *arg)
{
    return ((struct joiner *)arg)->done;
}

/* What `skerry join` does on a machine that has no id yet, by way of node `contact`. */
static int node_try_to_join(struct node *n, uint32_t contact, struct meta_join_answer *answer)
{
    struct joiner j = {.world = n->world};
    struct meta_join_request request = {.join_id = {5, (uint8_t)n->id}};
    struct net_config config = {.identity = n->world->identity,
                                .self = net_endpoint_make(NET_JOINER, 0),
                                .resolve = joiner_resolve,
                                .handle = nobody_handles,
                                .arg = &j};
    struct loop *loop = sim_loop_create(n->host);
    struct net *net;

    config.loop = loop;
    assert_int_equal(net_create(&config, &net), 0);
    snprintf(request.name, sizeof(request.name), "%s", n->name);
    sim_host_addr(n->host, PORT, &request.addr);
    j.call = (struct rpc_call){.to = meta_contact_endpoint(contact - 1),
                               .kind = META_RPC_JOIN,
                               .deadline_ns = loop_now(loop) + 10 * NS_PER_S,
                               .body_buf = j.answer,
                               .body_buf_size = sizeof(j.answer),
                               .done = joiner_on_done};
    j.call.body = (struct slice){j.body, meta_join_request_put(j.body, sizeof(j.body), &request)};
    rpc_call_start(net, &j.call);
    assert_true(within(n->world, 20000, joiner_is_done, &j));
    if (j.call.status == 0)
        assert_int_equal(meta_join_answer_get(j.call.reply_body, answer), 0);
    sim_host_crash(n->host, false);
    net_destroy(net);
    loop_destroy(loop);
    return j.call.status;
}

static struct meta_join_answer node_ask_to_join(struct node *n, uint32_t contact)
{
    struct meta_join_answer answer;

    assert_int_equal(node_try_to_join(n, contact, &answer), 0);
    return answer;
}

static bool voters_are_three(void *arg)
{
    struct node *leader = world_leader(arg);
    return leader != NULL && members_as(leader, RAFT_CORE_VOTER) == 3;
}

static bool voters_are_five(void *arg)
{
    struct node *leader = world_leader(arg);
    return leader != NULL && members_as(leader, RAFT_CORE_VOTER) == 5;
}

static void world_join(struct world *w, uint32_t id)
{
    struct meta_join_answer answer = node_ask_to_join(&w->nodes[id], 1);

    assert_int_equal(answer.code, 0);
    assert_int_equal(answer.node, id);
    assert_memory_equal(answer.cluster, w->identity.cluster, 16);
    node_start(&w->nodes[id]);
    assert_true(within(w, 20000, is_registered, &w->nodes[id]));
}

static void world_open(struct world *w, uint64_t seed, uint32_t nodes)
{
    world_init(w, seed, nodes);
    world_found(w);
    for (uint32_t id = 2; id <= nodes; id++)
        world_join(w, id);
    assert_true(within(w, 60000, nodes >= 5 ? voters_are_five : voters_are_three, w));
    await_level(w);
}

/* ---- Joining ---- */

static bool has_standby(void *arg)
{
    return members_as(arg, RAFT_CORE_STANDBY) == 1;
}

static void a_cluster_grows_from_one_voter_to_three(void **unused)
{
    (void)unused;
    struct world w;
    world_init(&w, 1, 3);
    world_found(&w);
    assert_int_equal(members_as(&w.nodes[1], RAFT_CORE_VOTER), 1);

    world_join(&w, 2);
    assert_true(within(&w, 20000, has_standby, &w.nodes[1]));
    assert_int_equal(members_as(&w.nodes[1], RAFT_CORE_VOTER), 1);

    world_join(&w, 3);
    assert_true(within(&w, 20000, voters_are_three, &w));
    await_level(&w);
    pass_ms(&w, 1000); /* the change's barrier is everywhere */
    assert_int_equal(members_as(&w.nodes[3], RAFT_CORE_VOTER), 3);
    world_deinit(&w);
}

static void a_join_that_is_asked_twice_gives_one_number_and_a_taken_name_none(void **unused)
{
    (void)unused;
    struct world w;
    world_init(&w, 2, 4);
    world_found(&w);
    world_join(&w, 2);

    struct meta_join_answer answer = node_ask_to_join(&w.nodes[3], 2); /* passed on to the leader */
    assert_int_equal(answer.node, 3);
    answer = node_ask_to_join(&w.nodes[3], 1);
    assert_int_equal(answer.node, 3);
    assert_int_equal(answer.contacts_count, 2);

    node_start(&w.nodes[3]);
    assert_true(within(&w, 20000, is_registered, &w.nodes[3]));
    snprintf(w.nodes[4].name, sizeof(w.nodes[4].name), "n3");
    answer = node_ask_to_join(&w.nodes[4], 1);
    assert_int_equal(answer.code, -EEXIST);
    assert_non_null(strstr(answer.message, "n3"));
    world_deinit(&w);
}

static void without_a_leader_a_join_is_refused_at_once(void **unused)
{
    (void)unused;
    struct world w;
    struct meta_join_answer answer;
    world_init(&w, 18, 4);
    world_found(&w);
    world_join(&w, 2);
    world_join(&w, 3);
    assert_true(within(&w, 60000, voters_are_three, &w));
    await_level(&w);
    node_crash(&w.nodes[1], false);
    node_crash(&w.nodes[3], false);
    pass_ms(&w, 3000);
    uint64_t asked = sim_now(w.sim);
    assert_int_equal(node_try_to_join(&w.nodes[4], 2, &answer), -EAGAIN);
    assert_true(sim_now(w.sim) - asked < 500 * NS_PER_MS);

    node_start(&w.nodes[1]);
    await_leader(&w);
    pass_ms(&w, 2000);
    assert_int_equal(node_ask_to_join(&w.nodes[4], 2).node, 4); /* the refused one left no number */
    world_deinit(&w);
}

/* ---- Commands ---- */

static void a_command_given_to_a_follower_is_carried_out_by_the_leader(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 3, 3);
    struct node *follower = a_follower(&w);
    uint64_t proposed = follower->meta->entries_proposed;

    struct meta_command add = {.kind = META_CLIENT_ADD};
    struct meta_result r = node_command(follower, &add);
    assert_int_equal(r.code, 0);
    assert_int_equal(r.id, 1);
    assert_int_equal(follower->meta->entries_proposed, proposed);
    await_level(&w);
    assert_non_null(map_client(meta_map(follower->meta), 1));
    assert_true(follower->viewer.revision >= r.revision);

    struct meta_command bad = {.kind = META_IMAGE_DELETE, .name = "nothing"};
    r = node_command(follower, &bad);
    assert_int_equal(r.code, -ENOENT);
    assert_string_equal(r.message, "there is no image named nothing");
    world_deinit(&w);
}

static void a_retry_after_the_leader_died_gets_the_same_result(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 4, 3);
    struct meta_command add = {.kind = META_CLIENT_ADD, .request_id = {9, 9}};
    struct meta_result first = node_command(a_follower(&w), &add);
    assert_int_equal(first.code, 0);
    add_client(a_follower(&w));

    node_crash(await_leader(&w), false);
    struct meta_result again = node_command(a_follower(&w), &add);
    assert_int_equal(again.code, 0);
    assert_int_equal(again.id, first.id);
    assert_int_equal(again.revision, first.revision);
    await_level(&w);
    assert_int_equal(meta_map(await_leader(&w)->meta)->clients_count, 2);
    world_deinit(&w);
}

/* The leader dies at every moment of a command's way, from before it is there to after it was
 * answered. */
static void a_command_is_carried_out_once_whenever_the_leader_dies(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 5, 3);
    uint32_t unanswered = 0;

    for (uint32_t i = 0; i < 16; i++) {
        struct node *leader = await_leader(&w), *follower = a_follower(&w);
        struct meta_command add = {.kind = META_CLIENT_ADD, .request_id = {7, (uint8_t)i}};
        struct meta_result r;

        node_submit(follower, &add, 20000, &r);
        sim_run_until(w.sim, sim_now(w.sim) + i * NS_PER_MS / 4);
        unanswered += r.code == PENDING;
        node_crash(leader, i % 2 == 0);
        assert_true(within(&w, 2500, result_is_there, &r)); /* an election, and no long pause */
        assert_int_equal(r.code, 0);
        assert_int_equal(r.id, i + 1);
        node_start(leader);
        await_level(&w);
        assert_int_equal(meta_map(follower->meta)->clients_count, i + 1);
    }
    assert_true(unanswered >= 4 && unanswered < 16);
    world_deinit(&w);
}

static void commands_survive_that_the_lead_is_handed_over(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 6, 3);
    struct node *leader = await_leader(&w);
    struct meta_command add = {.kind = META_CLIENT_ADD};
    struct meta_result r[40];
    uint64_t start = sim_now(w.sim);

    for (uint32_t i = 0; i < COUNT_OF(r); i++) {
        if (i == 10)
            meta_step_down(leader->meta);
        node_submit(i % 2 == 0 ? leader : a_follower(&w), &add, 20000, &r[i]);
        pass_ms(&w, 1);
    }
    for (uint32_t i = 0; i < COUNT_OF(r); i++) {
        assert_true(within(&w, 20000, result_is_there, &r[i]));
        assert_int_equal(r[i].code, 0);
    }
    assert_ptr_not_equal(await_leader(&w), leader);
    assert_true(sim_now(w.sim) - start < 300 * NS_PER_MS); /* shorter than an election */
    assert_true(leader->meta->entries_proposed < 100);     /* and not by asking in circles */
    await_level(&w);
    assert_int_equal(meta_map(leader->meta)->clients_count, COUNT_OF(r));
    world_deinit(&w);
}

static void a_lone_leader_that_steps_down_leads_on(void **unused)
{
    (void)unused;
    struct world w;
    world_init(&w, 18, 1);
    world_found(&w);
    for (uint32_t i = 0; i < 3; i++) {
        meta_step_down(w.nodes[1].meta);
        add_client(&w.nodes[1]);
    }
    world_deinit(&w);
}

static void a_leader_that_nobody_can_follow_leads_on(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 19, 3);
    struct node *leader = await_leader(&w);
    struct meta_command add = {.kind = META_CLIENT_ADD};
    struct meta_result r;

    for (uint32_t id = 1; id <= 3; id++) {
        if (&w.nodes[id] != leader)
            sim_disk_set_slow(w.nodes[id].host, 1, 1, 400 * NS_PER_MS);
    }
    node_submit(leader, &add, 20000, &r);
    pass_ms(&w, 5);
    meta_step_down(leader->meta);
    assert_true(within(&w, 20000, result_is_there, &r));
    assert_int_equal(r.code, 0);
    for (uint32_t id = 1; id <= 3; id++)
        sim_disk_clear_faults(w.nodes[id].host);
    add_client(leader);
    await_level(&w);
    world_deinit(&w);
}

static void a_command_too_long_for_the_log_is_refused_at_once(void **unused)
{
    (void)unused;
    struct world w;
    char name[200];
    world_init(&w, 7, 1);
    world_found(&w);
    memset(name, 'x', sizeof(name));
    name[sizeof(name) - 1] = '\0';

    struct meta_command create = {.kind = META_IMAGE_CREATE, .name = name, .size = 1};
    assert_int_equal(node_command(&w.nodes[1], &create).code, -EINVAL);
    world_deinit(&w);
}

/* ---- No quorum ---- */

static void without_a_majority_commands_end_at_their_deadline(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 8, 3);
    struct node *leader = await_leader(&w);
    struct meta_command add = {.kind = META_CLIENT_ADD};
    struct meta_result r[4];
    uint64_t ended[4], start = loop_now(leader->loop);

    for (uint32_t id = 1; id <= 3; id++) {
        if (&w.nodes[id] != leader)
            node_crash(&w.nodes[id], false);
    }
    for (uint32_t i = 0; i < COUNT_OF(r); i++)
        command_start(&w, leader->loop, meta_access(leader->meta), &add, 1000 * (i + 1), &r[i],
                      &ended[i]);
    pass_ms(&w, 5000);
    for (uint32_t i = 0; i < COUNT_OF(r); i++) {
        assert_int_equal(r[i].code, -ETIMEDOUT);
        assert_true(ended[i] >= start + (i + 1) * NS_PER_S);
        assert_true(ended[i] <= start + (i + 1) * NS_PER_S + 50 * NS_PER_MS);
    }
    assert_non_null(strstr(r[3].message, "majority"));
    struct meta_status s;
    meta_status(leader->meta, &s);
    assert_int_equal(s.calls, 0);
    assert_int_equal(s.leader, 0);
    assert_false(s.leading);

    node_start(&w.nodes[leader->id % 3 + 1]); /* and two of three are a majority */
    add_client(leader);
    world_deinit(&w);
}

static void a_leader_whose_disk_hangs_lets_commands_end_at_their_deadline(void **unused)
{
    (void)unused;
    struct world w;
    world_init(&w, 9, 1);
    world_found(&w);
    struct node *n = &w.nodes[1];
    struct meta_command add = {.kind = META_CLIENT_ADD};
    struct meta_result r[12];
    uint64_t ended[12], start = loop_now(n->loop);

    sim_disk_set_slow(n->host, 1, 1, 3600 * NS_PER_S);
    for (uint32_t i = 0; i < COUNT_OF(r); i++) { /* more than entries may be under way */
        command_start(&w, n->loop, meta_access(n->meta), &add, 2000, &r[i], &ended[i]);
        pass_ms(&w, 1);
    }
    pass_ms(&w, 3000);
    for (uint32_t i = 0; i < COUNT_OF(r); i++) {
        assert_int_equal(r[i].code, -ETIMEDOUT);
        assert_true(ended[i] <= start + 2 * NS_PER_S + 100 * NS_PER_MS);
    }
    world_deinit(&w);
}

/* ---- Down and back ---- */

static void a_node_that_was_down_catches_up(bool by_snapshot)
{
    struct world w;
    world_init(&w, 10, 3);
    w.snapshot_entries = by_snapshot ? 40 : 0;
    w.trailing_entries = by_snapshot ? 10 : 0;
    world_found(&w);
    world_join(&w, 2);
    world_join(&w, 3);
    assert_true(within(&w, 60000, voters_are_three, &w));
    struct node *down = a_follower(&w);

    node_crash(down, true);
    for (uint32_t i = 0; i < 150; i++)
        add_client(await_leader(&w));
    node_start(down);
    uint64_t replayed = down->meta->commands_applied;
    await_level(&w);
    assert_int_equal(meta_map(down->meta)->clients_count, 150);
    /* By the log it applied all of them itself. */
    uint64_t applied = down->meta->commands_applied - replayed;
    assert_true(by_snapshot ? applied < 100 : applied >= 150);

    for (uint32_t i = 0; i < 20; i++)
        add_client(down);
    await_level(&w);
    world_deinit(&w);
}

static void a_node_that_was_down_for_a_while_is_sent_the_log(void **unused)
{
    (void)unused;
    a_node_that_was_down_catches_up(false);
}

static void a_node_that_was_down_for_long_is_sent_a_snapshot(void **unused)
{
    (void)unused;
    a_node_that_was_down_catches_up(true);
}

static void the_state_survives_that_all_nodes_lose_power(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 11, 3);
    struct meta_command add = {.kind = META_CLIENT_ADD, .request_id = {3, 1}};
    struct meta_result before = node_command(a_follower(&w), &add);
    assert_int_equal(before.code, 0);
    uint64_t revision = meta_map(await_leader(&w)->meta)->revision;

    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t id = 1; id <= 3; id++)
            node_crash(&w.nodes[id], true);
        for (uint32_t id = 1; id <= 3; id++)
            node_start(&w.nodes[id]);
        await_leader(&w);
        await_level(&w);
        assert_true(meta_map(w.nodes[2].meta)->revision > revision); /* three starts more */
        assert_non_null(map_client(meta_map(w.nodes[2].meta), before.id));
        struct meta_result again = node_command(a_follower(&w), &add);
        assert_int_equal(again.id, before.id);
        assert_int_equal(again.revision, before.revision);
        assert_int_equal(meta_map(w.nodes[3].meta)->clients_count, 1);
    }
    world_deinit(&w);
}

static bool is_whole_member(void *arg)
{
    struct node *n = arg;
    struct meta_status s;

    if (n->fatal != 0)
        return true; /* to be noticed by the caller */
    meta_status(n->meta, &s);
    return s.member && meta_is_registered(n->meta);
}

static void a_node_with_a_damaged_log_mends_it_with_the_others(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 12, 3);
    for (uint32_t i = 0; i < 40; i++)
        add_client(await_leader(&w));
    struct node *n = a_follower(&w);
    uint64_t first_page = n->id == 1 ? 6 : 34; /* of records, by the size of the segments */

    node_crash(n, false);
    assert_int_equal(sim_disk_flip(n->host, "node/raft/log/0000000000000001",
                                   ((first_page + 20) * 4096 + 70) * 8),
                     0);
    node_start(n);
    assert_false(is_whole_member(n)); /* it has to ask the others first */
    assert_true(within(&w, 30000, is_whole_member, n));
    assert_int_equal(n->fatal, 0);
    await_level(&w);
    world_deinit(&w);
}

/* ---- Those who follow ---- */

static int client_resolve(void *arg, net_endpoint e, struct loop_addr *out)
{
    struct client *c = arg;
    return c->remote != NULL ? meta_remote_resolve(c->remote, e, out) : -ENOENT;
}

static void client_open(struct world *w)
{
    struct client *c = &w->client;
    struct loop_addr contacts[NODES_MAX];
    struct net_config net = {.identity = w->identity,
                             .self = net_endpoint_make(NET_CLIENT, 77),
                             .resolve = client_resolve,
                             .handle = nobody_handles,
                             .arg = c};

    c->world = w;
    c->host = sim_host_create(w->sim, CLIENT_HOST);
    c->loop = sim_loop_create(c->host);
    net.loop = c->loop;
    assert_int_equal(net_create(&net, &c->net), 0);
    for (uint32_t i = 0; i < w->nodes_count; i++)
        sim_host_addr(w->nodes[i + 1].host, PORT, &contacts[i]);
    struct meta_remote_config config = {
        .loop = c->loop, .net = c->net, .contacts = contacts, .contacts_count = w->nodes_count};
    assert_int_equal(meta_remote_open(&config, &c->remote), 0);
    viewer_start(&c->viewer, c->loop, meta_remote_access(c->remote));
}

static void assert_same_map(const struct map *a, const struct map *b)
{
    assert_int_equal(a->client_last, b->client_last);
    assert_int_equal(a->nodes_count, b->nodes_count);
    assert_int_equal(a->osds_count, b->osds_count);
    assert_int_equal(a->pgs_count, b->pgs_count);
    assert_int_equal(a->clients_count, b->clients_count);
    assert_memory_equal(a->nodes, b->nodes, a->nodes_count * sizeof(*a->nodes));
    assert_memory_equal(a->osds, b->osds, a->osds_count * sizeof(*a->osds));
    assert_memory_equal(a->pgs, b->pgs, a->pgs_count * sizeof(*a->pgs));
    assert_memory_equal(a->clients, b->clients, a->clients_count * sizeof(*a->clients));
}

/* It is shown what the leader shows: of one revision, the same rows. */
static bool client_is_level(void *arg)
{
    struct world *w = arg;
    struct node *leader = world_leader(w);

    if (leader == NULL || meta_map(leader->meta)->revision != w->client.viewer.revision)
        return false;
    assert_same_map(w->client.viewer.map, meta_map(leader->meta));
    return true;
}

static void a_client_sees_every_change_and_never_an_older_state(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 13, 3);
    client_open(&w);
    assert_true(within(&w, 10000, client_is_level, &w));

    for (uint32_t round = 0; round < 6; round++) {
        struct meta_command add = {.kind = META_CLIENT_ADD};
        struct meta_result r;
        command_start(&w, w.client.loop, meta_remote_access(w.client.remote), &add, 20000, &r,
                      NULL);
        assert_true(within(&w, 30000, result_is_there, &r));
        assert_int_equal(r.code, 0);
        for (uint32_t i = 0; i < 10; i++)
            add_client(a_follower(&w));
        assert_true(within(&w, 10000, client_is_level, &w));
        node_crash(&w.nodes[round % 3 + 1], false); /* whom it follows, among others */
        node_start(&w.nodes[round % 3 + 1]);
        await_level(&w);
        assert_true(within(&w, 10000, client_is_level, &w));
    }
    assert_true(w.client.viewer.maps > 20);
    world_deinit(&w);
}

static void a_client_is_told_of_a_change_at_once(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 14, 3);
    client_open(&w);
    assert_true(within(&w, 10000, client_is_level, &w));
    for (uint32_t i = 0; i < 5; i++) {
        pass_ms(&w, 700); /* a request for rows waits somewhere */
        add_client(await_leader(&w));
        assert_true(within(&w, 250, client_is_level, &w));
    }
    world_deinit(&w);
}

static void a_client_that_was_cut_off_catches_up_from_whoever_is_there(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 15, 3);
    client_open(&w);
    assert_true(within(&w, 10000, client_is_level, &w));

    for (uint32_t id = 1; id <= 3; id++) {
        sim_net_cut(w.sim, id, CLIENT_HOST, true);
        sim_net_cut(w.sim, CLIENT_HOST, id, true);
    }
    for (uint32_t i = 0; i < 100; i++)
        add_client(await_leader(&w));
    for (uint32_t id = 1; id <= 3; id++) { /* nobody remembers what was touched before */
        node_crash(&w.nodes[id], false);
        node_start(&w.nodes[id]);
        await_level(&w);
    }
    assert_false(client_is_level(&w));
    sim_net_heal_all(w.sim);
    assert_true(within(&w, 20000, client_is_level, &w));
    world_deinit(&w);
}

/* What it heard of a leader was long ago, and that leader is dead; the new one cannot reach it. */
static void a_standby_that_the_leader_cannot_reach_follows_another_node(void **unused)
{
    (void)unused;
    struct world w;
    world_open(&w, 16, 4);
    struct node *old = await_leader(&w), *standby = NULL, *other = NULL;
    struct raft_core_status s;

    assert_true(within(&w, 20000, has_standby, old));
    meta_raft_status(old->meta, &s);
    for (uint32_t i = 0; i < s.members_count; i++) {
        if (s.members[i].role == RAFT_CORE_STANDBY)
            standby = &w.nodes[s.members[i].id];
    }
    assert_non_null(standby);
    pass_ms(&w, 1000);
    meta_raft_status(standby->meta, &s);
    assert_int_equal(s.leader, old->id);
    for (uint32_t id = 1; id <= 4; id++) {
        sim_net_cut(w.sim, id, standby->id, true);
        sim_net_cut(w.sim, standby->id, id, true);
    }
    node_crash(old, false);
    struct node *leader = await_leader(&w);
    for (uint32_t id = 1; id <= 4; id++) {
        if (&w.nodes[id] != leader && &w.nodes[id] != old && &w.nodes[id] != standby)
            other = &w.nodes[id];
    }
    sim_net_cut(w.sim, other->id, standby->id, false);
    sim_net_cut(w.sim, standby->id, other->id, false);
    add_client(leader);
    pass_ms(&w, 15000);
    assert_int_equal(standby->viewer.revision, leader->viewer.revision);
    sim_net_heal_all(w.sim);
    add_client(standby);
    world_deinit(&w);
}

/* ---- Voters that die ---- */

struct replaced {
    struct world *w;
    uint32_t node, voters;
};

static bool is_replaced(void *arg)
{
    struct replaced *r = arg;
    struct node *leader = world_leader(r->w);
    struct raft_core_status s;

    if (leader == NULL || members_as(leader, RAFT_CORE_VOTER) != r->voters)
        return false;
    meta_raft_status(leader->meta, &s);
    for (uint32_t i = 0; i < s.members_count; i++) {
        if (s.members[i].id == r->node && s.members[i].role == RAFT_CORE_VOTER)
            return false;
    }
    return true;
}

/* While it is away another one takes its place. It comes back with a log in which it is a voter. */
static void replace_a_voter(uint32_t nodes, uint32_t voters, uint32_t which)
{
    struct world w;
    world_open(&w, 30 + nodes, nodes);
    struct node *lost = which != 0 ? &w.nodes[which] : a_follower(&w);
    struct replaced r = {&w, lost->id, voters};

    assert_int_equal(members_as(world_leader(&w), RAFT_CORE_VOTER), voters);
    pass_ms(&w, 5000); /* standbys */
    node_crash(lost, true);
    pass_ms(&w, 25000);
    assert_false(is_replaced(&r)); /* it may come back */
    assert_true(within(&w, 20000, is_replaced, &r));
    pass_ms(&w, 5000);
    add_client(await_leader(&w));

    node_start(lost);
    assert_true(within(&w, 20000, is_registered, lost));
    for (uint32_t i = 0; i < 20; i++) {
        add_client(await_leader(&w));
        pass_ms(&w, 500);
    }
    assert_true(within(&w, 5000, is_level, &w));
    assert_true(is_replaced(&r)); /* and it is not one again */
    add_client(lost);
    world_deinit(&w);
}

static void a_voter_that_was_replaced_stands_by_when_it_comes_back(void **unused)
{
    (void)unused;
    replace_a_voter(4, 3, 0);
}

/* It has joined nobody and knows no address. */
static void the_first_node_finds_home_when_it_was_replaced(void **unused)
{
    (void)unused;
    replace_a_voter(8, 5, 1);
}

static void a_voter_that_was_replaced_follows_when_there_is_no_place_for_it(void **unused)
{
    (void)unused;
    replace_a_voter(8, 5, 0);
}

/* ---- OSDs ---- */

enum { PGS = 64 };

/* The rows of an OSD that `n` serves, with the same number. */
static void node_add_osd(struct node *n)
{
    struct meta_command add = {
        .kind = META_OSD_ADD, .node = n->id, .uuid = {(uint8_t)n->id}, .size = 10ull << 30};
    struct meta_command up = {.kind = META_OSD_UP,
                              .osd = n->id,
                              .node = n->id,
                              .incarnation = n->starts,
                              .size = 10ull << 30};

    struct meta_result r = node_command(n, &add);
    assert_int_equal(r.code, 0);
    assert_int_equal(r.id, n->id);
    assert_int_equal(node_command(n, &up).code, 0);
    meta_serve_osd(n->meta, n->id, n->starts, true);
}

static bool pool_is_made(void *arg)
{
    struct node *leader = world_leader(arg);
    return leader != NULL && meta_map(leader->meta)->pgs_count == PGS;
}

/* As the primaries would, once each has looked at its peers. */
static void activate_pgs(struct world *w)
{
    static struct meta_pg_change changes[PGS];
    const struct map *map = meta_map(await_leader(w)->meta);
    struct meta_command c = {.kind = META_PG_CHANGE, .changes = changes};

    for (uint32_t i = 0; i < map->pgs_count; i++) {
        const struct map_pg *g = &map->pgs[i];
        struct meta_pg_change *change = &changes[c.list_count];
        if (g->active || g->primary == 0)
            continue;
        *change = (struct meta_pg_change){
            .kind = META_PG_ACTIVATE, .pg = g->id, .epoch = g->epoch, .primary = g->primary};
        change->primary_incarnation = map_osd(map, g->primary)->incarnation;
        change->set_count = g->set_count;
        memcpy(change->set, g->set, sizeof(g->set));
        c.list_count++;
    }
    assert_int_equal(node_command(a_follower(w), &c).id, c.list_count);
    await_level(w);
}

static void world_open_with_osds(struct world *w, uint64_t seed)
{
    world_open(w, seed, 3);
    for (uint32_t id = 1; id <= 3; id++)
        node_add_osd(&w->nodes[id]);
    assert_true(within(w, 5000, pool_is_made, w));
    await_level(w);
    activate_pgs(w);
}

/* More rows than a node remembers to have been touched, and a client that missed them all. */
static void a_client_that_missed_more_than_is_remembered_gets_everything(void **unused)
{
    (void)unused;
    struct world w;
    struct meta_command pool = {.kind = META_POOL_CREATE,
                                .name = "large",
                                .replicas = 1,
                                .min_size = 1,
                                .pg_count = WATCH_LOG_MAX + 1000,
                                .object_size = 4096};
    world_init(&w, 17, 1);
    world_found(&w);
    client_open(&w);
    assert_true(within(&w, 10000, client_is_level, &w));

    sim_net_cut(w.sim, 1, CLIENT_HOST, true);
    sim_net_cut(w.sim, CLIENT_HOST, 1, true);
    node_add_osd(&w.nodes[1]);
    assert_int_equal(node_command(&w.nodes[1], &pool).code, 0);
    assert_int_equal(meta_map(w.nodes[1].meta)->pgs_count, pool.pg_count);
    sim_net_heal_all(w.sim);
    assert_true(within(&w, 20000, client_is_level, &w));
    assert_int_equal(w.client.viewer.map->pgs_count, pool.pg_count);
    add_client(&w.nodes[1]);
    assert_true(within(&w, 20000, client_is_level, &w));
    world_deinit(&w);
}

struct wait_osd {
    struct world *world;
    uint32_t osd;
};

static bool osd_is_down(void *arg)
{
    struct wait_osd *wait = arg;
    struct node *leader = world_leader(wait->world);
    return leader != NULL && !map_osd(meta_map(leader->meta), wait->osd)->up;
}

static bool osd_is_up(void *arg)
{
    struct wait_osd *wait = arg;
    struct node *leader = world_leader(wait->world);
    return leader != NULL && map_osd(meta_map(leader->meta), wait->osd)->up;
}

/* What a PG was, and what it is since `lost` is no more: DESIGN.md R5. */
static void check_pg_after_loss(const struct map *map, const struct map_pg *before, uint32_t lost)
{
    const struct map_pg *now = map_pg(map, before->id);

    assert_memory_equal(now->set, before->set, sizeof(now->set));
    assert_int_equal(now->activated, before->activated);
    if (before->primary != lost) {
        assert_memory_equal(now, before, sizeof(*now));
        return;
    }
    assert_int_equal(now->epoch, before->epoch + 1);
    assert_false(now->active);
    assert_int_not_equal(now->primary, lost);
    assert_true(map_osd(map, now->primary)->up);
    assert_true(now->primary == now->set[0] || now->primary == now->set[1] ||
                now->primary == now->set[2]);
}

static void an_osd_that_is_lost(bool silent)
{
    struct world w;
    static struct map_pg before[PGS];
    world_open_with_osds(&w, silent ? 20 : 21);
    struct node *lost = a_follower(&w);
    const struct map *map = meta_map(await_leader(&w)->meta);
    uint64_t proposed = world_leader(&w)->meta->entries_proposed;

    memcpy(before, map->pgs, sizeof(before));
    if (silent) {
        for (uint32_t id = 1; id <= 3; id++) {
            sim_net_cut(w.sim, id, lost->id, true);
            sim_net_cut(w.sim, lost->id, id, true);
        }
    } else {
        node_crash(lost, false);
    }
    struct wait_osd wait = {&w, lost->id};
    uint64_t start = sim_now(w.sim);
    assert_true(within(&w, 10000, osd_is_down, &wait));
    uint64_t took_ms = (sim_now(w.sim) - start) / NS_PER_MS;
    assert_true(silent ? took_ms >= 2000 && took_ms < 4000 : took_ms < 500);

    map = meta_map(world_leader(&w)->meta);
    const struct map_osd *o = map_osd(map, lost->id);
    assert_int_equal(o->dead_incarnation, silent ? 0 : o->incarnation);
    uint32_t led[4] = {0};
    for (uint32_t i = 0; i < PGS; i++) {
        check_pg_after_loss(map, &before[i], lost->id);
        led[map->pgs[i].primary]++;
    }
    assert_int_equal(led[lost->id], 0);
    for (uint32_t id = 1; id <= 3; id++)
        assert_true(id == lost->id || (led[id] >= PGS / 2 - 1 && led[id] <= PGS / 2 + 1));
    assert_true(world_leader(&w)->meta->entries_proposed - proposed <= 2); /* not one a PG */

    if (silent)
        sim_net_heal_all(w.sim);
    else
        node_start(lost);
    assert_true(within(&w, 20000, is_registered, lost));
    struct meta_command up = {.kind = META_OSD_UP,
                              .osd = lost->id,
                              .node = lost->id,
                              .incarnation = lost->starts,
                              .size = 10ull << 30};
    assert_int_equal(node_command(lost, &up).code, 0);
    meta_serve_osd(lost->meta, lost->id, lost->starts, true);
    pass_ms(&w, 6000); /* and its heartbeats keep it up */
    assert_true(osd_is_up(&wait));
    world_deinit(&w);
}

static void an_osd_whose_process_is_killed_is_dead_at_once(void **unused)
{
    (void)unused;
    an_osd_that_is_lost(false);
}

static void an_osd_whose_host_is_silent_is_down_after_a_while_and_not_dead(void **unused)
{
    (void)unused;
    an_osd_that_is_lost(true);
}

static void a_new_leader_blames_nobody_for_the_time_before_it(void **unused)
{
    (void)unused;
    struct world w;
    world_open_with_osds(&w, 22);
    uint32_t epochs = 0;

    for (uint32_t round = 0; round < 6; round++) {
        struct node *leader = await_leader(&w);
        meta_step_down(leader->meta);
        pass_ms(&w, 3000);
        assert_ptr_not_equal(await_leader(&w), leader);
    }
    const struct map *map = meta_map(await_leader(&w)->meta);
    for (uint32_t i = 0; i < PGS; i++)
        epochs += map->pgs[i].epoch - 1;
    assert_int_equal(epochs, 0);
    world_deinit(&w);
}

static void a_new_leader_notices_at_once_that_a_node_outside_raft_was_killed(void **unused)
{
    (void)unused;
    struct world w;
    struct raft_core_status s;
    struct node *outsider = NULL;
    world_open(&w, 23, 8);
    struct node *leader = await_leader(&w);

    pass_ms(&w, 5000); /* standbys too */
    meta_raft_status(leader->meta, &s);
    assert_int_equal(s.members_count, 7);
    for (uint32_t id = 1; id <= 8; id++) {
        bool member = false;
        for (uint32_t i = 0; i < s.members_count; i++)
            member |= s.members[i].id == id;
        if (!member)
            outsider = &w.nodes[id];
    }
    for (uint32_t id = 1; id <= 8; id++)
        node_add_osd(&w.nodes[id]);
    await_level(&w);
    meta_step_down(leader->meta); /* the new one has never had news of nodes while it led */
    pass_ms(&w, 3000);
    assert_ptr_not_equal(await_leader(&w), leader);

    node_crash(outsider, false);
    struct wait_osd wait = {&w, outsider->id};
    assert_true(within(&w, 600, osd_is_down, &wait));
    const struct map_osd *o = map_osd(meta_map(world_leader(&w)->meta), outsider->id);
    assert_int_equal(o->dead_incarnation, o->incarnation);
    world_deinit(&w);
}

/* ---- What others may not do ---- */

struct stranger {
    struct rpc_call call;
    bool done;
};

static void stranger_on_done(struct rpc_call *call)
{
    container_of(call, struct stranger, call)->done = true;
}

static bool stranger_is_done(void *arg)
{
    return ((struct stranger *)arg)->done;
}

/* The status that node 1 gives to a request of a client. */
static int client_asks(struct world *w, uint16_t kind, const struct pack *body)
{
    struct client *c = &w->client;
    struct stranger s = {.call = {.to = meta_contact_endpoint(0),
                                  .kind = kind,
                                  .body = {body->base, body->len},
                                  .deadline_ns = loop_now(c->loop) + 5 * NS_PER_S,
                                  .done = stranger_on_done}};

    assert_false(body->failed);
    rpc_call_start(c->net, &s.call);
    assert_true(within(w, 10000, stranger_is_done, &s));
    assert_true(s.call.answered);
    return s.call.status;
}

static void a_client_can_neither_speak_for_a_node_nor_stop_the_cluster(void **unused)
{
    (void)unused;
    struct world w;
    uint8_t buf[512];
    struct pack p;
    world_init(&w, 24, 1);
    world_found(&w);
    client_open(&w);

    pack_init(&p, buf, sizeof(buf)); /* a heartbeat of node 77: the client's own number */
    pack_array(&p, 3);
    pack_u64(&p, 77);
    pack_u64(&p, 1);
    pack_array(&p, 0);
    assert_int_equal(client_asks(&w, META_RPC_HEARTBEAT, &p), -EPERM);
    assert_int_equal(client_asks(&w, RAFT_RPC_KIND_FIRST, &p), -EPERM);
    assert_int_equal(client_asks(&w, META_RPC_KIND_LAST, &p), -ENOSYS);

    struct meta_command hash = {
        .kind = META_STATE_HASH, .request_id = {1}, .revision = 1, .hash = 1};
    pack_init(&p, buf, sizeof(buf));
    meta_command_encode(&p, &hash);
    assert_int_equal(client_asks(&w, META_RPC_SUBMIT, &p), -EPERM);

    struct meta_command nameless = {.kind = META_CLIENT_ADD};
    pack_init(&p, buf, sizeof(buf));
    meta_command_encode(&p, &nameless);
    assert_int_equal(client_asks(&w, META_RPC_SUBMIT, &p), -EPROTO);
    p.len--;
    assert_int_equal(client_asks(&w, META_RPC_SUBMIT, &p), -EPROTO);

    nameless.request_id[0] = 1;
    pack_init(&p, buf, sizeof(buf));
    meta_command_encode(&p, &nameless);
    assert_int_equal(client_asks(&w, META_RPC_SUBMIT, &p), 0);
    world_deinit(&w);
}

/* ---- At random ---- */

enum { TRIES = 80 };

struct attempt {
    struct meta_command add;
    struct meta_result result;
};

static void random_fault(struct world *w)
{
    struct prng *p = sim_prng(w->sim);
    struct node *n = &w->nodes[1 + prng_below(p, 3)];
    uint32_t other = 1 + (uint32_t)prng_below(p, 3);

    switch (prng_below(p, 8)) {
    case 0:
    case 1:
        node_crash(n, prng_below(p, 2) == 0);
        break;
    case 2:
        sim_net_cut(w->sim, n->id, other, true);
        break;
    case 3:
        sim_net_cut(w->sim, n->id, other, true);
        sim_net_cut(w->sim, other, n->id, true);
        break;
    case 4:
        sim_net_heal_all(w->sim);
        break;
    case 5:
        sim_host_pause(n->host, prng_below(p, 4 * NS_PER_S));
        break;
    case 6:
        if (n->loop != NULL)
            meta_step_down(n->meta);
        break;
    default:
        sim_net_cut(w->sim, n->id, CLIENT_HOST, prng_below(p, 2) == 0);
        break;
    }
    for (uint32_t id = 1; id <= 3; id++) {
        if (w->nodes[id].loop == NULL && prng_below(p, 3) == 0)
            node_start(&w->nodes[id]);
    }
}

static void random_submit(struct world *w, struct attempt *a)
{
    uint32_t where = (uint32_t)prng_below(sim_prng(w->sim), 4);
    struct node *n = &w->nodes[where];

    if (where == 0)
        command_start(w, w->client.loop, meta_remote_access(w->client.remote), &a->add, 3000,
                      &a->result, NULL);
    else if (n->loop != NULL)
        node_submit(n, &a->add, 3000, &a->result);
}

static void heal_all(struct world *w)
{
    sim_net_heal_all(w->sim);
    for (uint32_t id = 1; id <= 3; id++) {
        if (w->nodes[id].loop == NULL)
            node_start(&w->nodes[id]);
    }
    await_level(w);
    assert_true(within(w, 20000, client_is_level, w));
}

/* Whatever the result was, or if there was none: asked again, each was carried out once. */
static void check_attempts(struct world *w, struct attempt *attempts, uint32_t known_min)
{
    bool taken[TRIES + 1] = {false};
    uint32_t known = 0;

    for (uint32_t i = 0; i < TRIES; i++) {
        struct attempt *a = &attempts[i];
        struct meta_result again = node_command(a_follower(w), &a->add);
        assert_int_equal(again.code, 0);
        assert_true(again.id >= 1 && again.id <= TRIES && !taken[again.id]);
        taken[again.id] = true;
        if (a->result.code == 0) {
            assert_int_equal(a->result.id, again.id);
            assert_int_equal(a->result.revision, again.revision);
            known++;
        } else {
            assert_true(a->result.code == PENDING || a->result.code == -ETIMEDOUT);
        }
    }
    assert_true(known >= known_min);
    await_level(w);
    assert_int_equal(meta_map(world_leader(w)->meta)->clients_count, TRIES);
}

static void random_run(uint64_t seed)
{
    static struct attempt attempts[TRIES];
    struct world w;

    print_message("seed %llu\n", (unsigned long long)seed);
    world_init(&w, seed, 3);
    w.snapshot_entries = seed % 2 == 0 ? 20 : 0;
    w.trailing_entries = seed % 2 == 0 ? 10 : 0;
    world_found(&w);
    world_join(&w, 2);
    world_join(&w, 3);
    assert_true(within(&w, 60000, voters_are_three, &w));
    client_open(&w);
    for (uint32_t i = 0; i < TRIES; i++) {
        attempts[i] =
            (struct attempt){.add = {.kind = META_CLIENT_ADD, .request_id = {0xaa, (uint8_t)i}}};
        attempts[i].result.code = PENDING;
        random_submit(&w, &attempts[i]);
        if (prng_below(sim_prng(w.sim), 3) == 0)
            random_fault(&w);
        pass_ms(&w, prng_below(sim_prng(w.sim), 400));
        if (i % 20 == 19)
            heal_all(&w);
    }
    pass_ms(&w, 4000);
    heal_all(&w);
    check_attempts(&w, attempts, TRIES / 10);
    world_deinit(&w);
}

static void in_random_histories_each_command_is_carried_out_once_and_all_agree(void **unused)
{
    (void)unused;
    const char *wanted = getenv("SKERRY_TEST_SEED");

    for (uint64_t seed = 1; seed <= 12 && wanted == NULL; seed++)
        random_run(seed);
    if (wanted != NULL)
        random_run(strtoull(wanted, NULL, 10));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cluster_grows_from_one_voter_to_three),
        cmocka_unit_test(a_join_that_is_asked_twice_gives_one_number_and_a_taken_name_none),
        cmocka_unit_test(without_a_leader_a_join_is_refused_at_once),
        cmocka_unit_test(a_command_given_to_a_follower_is_carried_out_by_the_leader),
        cmocka_unit_test(a_retry_after_the_leader_died_gets_the_same_result),
        cmocka_unit_test(a_command_is_carried_out_once_whenever_the_leader_dies),
        cmocka_unit_test(commands_survive_that_the_lead_is_handed_over),
        cmocka_unit_test(a_lone_leader_that_steps_down_leads_on),
        cmocka_unit_test(a_leader_that_nobody_can_follow_leads_on),
        cmocka_unit_test(a_command_too_long_for_the_log_is_refused_at_once),
        cmocka_unit_test(without_a_majority_commands_end_at_their_deadline),
        cmocka_unit_test(a_leader_whose_disk_hangs_lets_commands_end_at_their_deadline),
        cmocka_unit_test(a_node_that_was_down_for_a_while_is_sent_the_log),
        cmocka_unit_test(a_node_that_was_down_for_long_is_sent_a_snapshot),
        cmocka_unit_test(the_state_survives_that_all_nodes_lose_power),
        cmocka_unit_test(a_node_with_a_damaged_log_mends_it_with_the_others),
        cmocka_unit_test(a_client_sees_every_change_and_never_an_older_state),
        cmocka_unit_test(a_client_is_told_of_a_change_at_once),
        cmocka_unit_test(a_client_that_was_cut_off_catches_up_from_whoever_is_there),
        cmocka_unit_test(a_standby_that_the_leader_cannot_reach_follows_another_node),
        cmocka_unit_test(a_voter_that_was_replaced_stands_by_when_it_comes_back),
        cmocka_unit_test(the_first_node_finds_home_when_it_was_replaced),
        cmocka_unit_test(a_voter_that_was_replaced_follows_when_there_is_no_place_for_it),
        cmocka_unit_test(a_client_that_missed_more_than_is_remembered_gets_everything),
        cmocka_unit_test(an_osd_whose_process_is_killed_is_dead_at_once),
        cmocka_unit_test(an_osd_whose_host_is_silent_is_down_after_a_while_and_not_dead),
        cmocka_unit_test(a_new_leader_blames_nobody_for_the_time_before_it),
        cmocka_unit_test(a_new_leader_notices_at_once_that_a_node_outside_raft_was_killed),
        cmocka_unit_test(a_client_can_neither_speak_for_a_node_nor_stop_the_cluster),
        cmocka_unit_test(in_random_histories_each_command_is_carried_out_once_and_all_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
