#include "tests/sim/cluster.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "osd/pg.h"
#include "store/impl.h"

enum { OSD_BYTES = 256 << 20, SETUP_LIMIT_S = 60 };

static const char node_dir[] = "/node";
static const char raft_dir[] = "/node/raft";
static const char store_path[] = "/osd";
static const uint32_t object_size = 128 << 10;
static const char *const node_names[CLUSTER_NODES] = {"n1", "n2", "n3", "n4"};

/* ---- Wiring of one node ---- */

static struct net *node_route(void *arg, net_endpoint target)
{
    struct cluster_node *n = arg;

    if (target == net_endpoint_make(NET_CONTROL, n->id))
        return n->control_net;
    if (net_endpoint_kind(target) == NET_CONTROL && net_endpoint_id(target) == 0)
        return n->control_net;
    if (n->osd_net != NULL && target == net_endpoint_make(NET_OSD, n->osd))
        return n->osd_net;
    return NULL;
}

static int control_resolve(void *arg, net_endpoint e, struct loop_addr *out)
{
    struct cluster_node *n = arg;

    return n->meta != NULL ? meta_resolve(n->meta, e, out) : -ENOENT;
}

static void control_handle(void *arg, struct rpc_request *req)
{
    struct cluster_node *n = arg;

    if (n->meta != NULL)
        meta_handle(n->meta, req);
    else
        rpc_reply_status(req, -EAGAIN);
}

static void control_peer_up(void *arg, net_endpoint e, uint32_t incarnation)
{
    struct cluster_node *n = arg;

    if (n->meta != NULL)
        meta_peer_up(n->meta, e, incarnation);
}

static void control_peer_lost(void *arg, net_endpoint e, uint32_t incarnation, int why)
{
    struct cluster_node *n = arg;

    if (n->meta != NULL)
        meta_peer_lost(n->meta, e, incarnation, why);
}

static int node_osd_resolve(void *arg, net_endpoint e, struct loop_addr *out)
{
    struct cluster_node *n = arg;

    return n->osd_object != NULL ? osd_resolve(n->osd_object, e, out) : -ENOENT;
}

static void node_osd_handle(void *arg, struct rpc_request *req)
{
    struct cluster_node *n = arg;

    if (n->osd_object != NULL)
        osd_handle(n->osd_object, req);
    else
        rpc_reply_status(req, -EAGAIN);
}

static void node_osd_peer_lost(void *arg, net_endpoint e, uint32_t incarnation, int why)
{
    struct cluster_node *n = arg;

    if (n->osd_object != NULL)
        osd_peer_lost(n->osd_object, e, incarnation, why);
}

static int node_client_resolve(void *arg, net_endpoint e, struct loop_addr *out)
{
    struct cluster_node *n = arg;

    return n->client != NULL ? client_resolve(n->client, e, out) : -ENOENT;
}

static void node_client_handle(void *arg, struct rpc_request *req)
{
    (void)arg;
    rpc_reply_status(req, -EOPNOTSUPP);
}

static void node_client_peer_lost(void *arg, net_endpoint e, uint32_t incarnation, int why)
{
    struct cluster_node *n = arg;

    if (n->client != NULL)
        client_peer_lost(n->client, e, incarnation, why);
}

/* A node that stops by itself: its process is gone, as after a crash. It is cleared away when the
 * simulator gets round to it. */
static void node_fatal(void *arg, const char *what, int error)
{
    struct cluster_node *n = arg;

    n->stopped = true;
    snprintf(n->stopped_why, sizeof(n->stopped_why), "%s (%d)", what, error);
    sim_host_crash(n->host, false);
}

static void node_osd_serving(void *arg, uint32_t osd, uint32_t incarnation)
{
    struct cluster_node *n = arg;

    meta_serve_osd(n->meta, osd, incarnation, true);
}

static void node_osd_failed(void *arg, uint32_t osd, int error, const char *why)
{
    struct cluster_node *n = arg;

    (void)osd;
    n->may_stop = error == -ESTALE;
    node_fatal(n, why, error);
}

static void node_make_nets(struct cluster_node *n)
{
    struct net_config config = {
        .loop = n->control_loop,
        .identity = n->cluster->identity,
        .self = net_endpoint_make(NET_CONTROL, n->id),
        .incarnation = n->starts,
        .resolve = control_resolve,
        .handle = control_handle,
        .peer_up = control_peer_up,
        .peer_lost = control_peer_lost,
        .arg = n,
    };
    struct loop_addr bound;

    config.identity.node = n->id;
    sim_host_addr(n->host, CLUSTER_PORT, &config.identity.advertise);
    check(net_create(&config, &n->control_net) == 0);

    config.loop = n->client_loop;
    config.self = net_endpoint_make(NET_CLIENT, n->id);
    config.resolve = node_client_resolve;
    config.handle = node_client_handle;
    config.peer_up = NULL;
    config.peer_lost = node_client_peer_lost;
    check(net_create(&config, &n->client_net) == 0);

    struct net_acceptor_config acceptor = {
        .loop = n->control_loop,
        .identity = config.identity,
        .incarnation = n->starts,
        .listen = config.identity.advertise,
        .route = node_route,
        .arg = n,
    };
    check(net_acceptor_create(&acceptor, &bound, &n->acceptor) == 0);
}

static void node_open_osd(struct cluster_node *n)
{
    struct net_config config = {
        .loop = n->osd_loop,
        .identity = n->cluster->identity,
        .self = net_endpoint_make(NET_OSD, n->osd),
        .resolve = node_osd_resolve,
        .handle = node_osd_handle,
        .peer_lost = node_osd_peer_lost,
        .arg = n,
    };
    struct osd_config osd = {
        .loop = n->osd_loop,
        .meta = meta_access(n->meta),
        .id = n->osd,
        .node = n->id,
        .path = store_path,
        .serving = node_osd_serving,
        .failed = node_osd_failed,
        .arg = n,
        .scrub_period_s = CLUSTER_SCRUB_S,
        .mutant = n->cluster->mutant,
    };

    config.identity.node = n->id;
    sim_host_addr(n->host, CLUSTER_PORT, &config.identity.advertise);
    check(net_create(&config, &n->osd_net) == 0);
    net_link(n->client_net, config.self, n->osd_net);
    osd.net = n->osd_net;
    memcpy(osd.cluster, n->cluster->identity.cluster, sizeof(osd.cluster));
    check(osd_open(&osd, &n->osd_object) == 0);
}

/* What `skerry init` and `skerry join` leave behind, durably. */
static void make_dirs(struct loop *loop)
{
    check(loop_dir_create(loop, node_dir) == 0);
    check(loop_dir_create(loop, raft_dir) == 0);
    check(loop_dir_sync(loop, node_dir) == 0);
    check(loop_dir_sync(loop, "/") == 0);
}

void cluster_start_node(struct cluster *c, uint32_t index)
{
    struct cluster_node *n = &c->nodes[index];
    struct meta_config meta = {.dir = node_dir};
    struct loop_addr first;

    check(!n->running);
    n->running = true;
    n->stopped = n->may_stop = false;
    n->starts++;
    n->control_loop = sim_loop_create(n->host);
    n->osd_loop = sim_loop_create(n->host);
    n->client_loop = sim_loop_create(n->host);
    make_dirs(n->control_loop);
    node_make_nets(n);

    meta.loop = n->control_loop;
    meta.net = n->control_net;
    meta.node = n->id;
    meta.node_incarnation = n->starts;
    meta.node_name = node_names[index];
    meta.location = meta.node_name;
    meta.fatal = node_fatal;
    meta.arg = n;
    sim_host_addr(n->host, CLUSTER_PORT, &meta.advertise);
    check(meta_open(&meta, &n->meta) == 0 || n->stopped);
    if (n->stopped)
        return;
    sim_host_addr(c->nodes[0].host, CLUSTER_PORT, &first);
    if (n->id == 1)
        meta_init_cluster(n->meta, c->identity.cluster, CLUSTER_FOUNDERS);
    else
        meta_add_contact(n->meta, &first, 1);

    struct client_config client = {
        .loop = n->client_loop,
        .net = n->client_net,
        .meta = meta_access(n->meta),
        .node = n->id,
    };
    check(client_open(&client, &n->client) == 0);
    if (n->osd != 0)
        node_open_osd(n);
}

void cluster_crash_node(struct cluster *c, uint32_t index, bool power_loss)
{
    struct cluster_node *n = &c->nodes[index];

    check(n->running);
    n->running = false;
    if (!n->stopped || power_loss)
        sim_host_crash(n->host, power_loss);
    if (n->meta != NULL)
        meta_close(n->meta); /* first: it holds calls and feeds of the others */
    if (n->osd_object != NULL)
        osd_close(n->osd_object);
    if (n->client != NULL)
        client_close(n->client);
    net_acceptor_destroy(n->acceptor);
    if (n->osd_net != NULL)
        net_destroy(n->osd_net);
    net_destroy(n->client_net);
    net_destroy(n->control_net);
    loop_destroy(n->control_loop);
    loop_destroy(n->osd_loop);
    loop_destroy(n->client_loop);
    n->osd_object = NULL;
    n->client = NULL;
    n->meta = NULL;
    n->osd_net = n->client_net = n->control_net = NULL;
    n->acceptor = NULL;
    n->switching = n->moving = false;
}

/* ---- Commands ---- */

static void command_on_done(struct meta_call *call)
{
    call->loop = NULL; /* what cluster_command() waits for */
}

static bool command_is_done(void *arg)
{
    return ((struct meta_call *)arg)->loop == NULL;
}

bool cluster_command(struct cluster *c, uint32_t index, const struct meta_command *command,
                     struct meta_result *result)
{
    struct cluster_node *n = &c->nodes[index];
    struct meta_access *access = meta_access(n->meta);
    struct meta_call call = {
        .loop = n->control_loop,
        .command = *command,
        .deadline_ns = loop_now(n->control_loop) + 20 * NS_PER_S,
        .done = command_on_done,
    };

    access->submit(access, &call);
    check(sim_run_until_true(c->sim, command_is_done, &call,
                             sim_now(c->sim) + SETUP_LIMIT_S * NS_PER_S));
    *result = call.result;
    return call.result.code == 0;
}

/* ---- Setting up ---- */

static bool first_is_registered(void *arg)
{
    return meta_is_registered(((struct cluster_node *)arg)->meta);
}

static bool setup_first_node(struct cluster *c)
{
    struct cluster_node *n = &c->nodes[0];
    struct loop *loop = sim_loop_create(n->host);

    make_dirs(loop);
    check(raft_core_bootstrap(loop, raft_dir, 1) == 0);
    loop_destroy(loop);
    cluster_start_node(c, 0);
    return sim_run_until_true(c->sim, first_is_registered, &c->nodes[0],
                              sim_now(c->sim) + SETUP_LIMIT_S * NS_PER_S);
}

static bool setup_node_row(struct cluster *c, uint32_t index)
{
    struct meta_result result;
    struct meta_command add = {
        .kind = META_NODE_ADD,
        .name = node_names[index],
        .location = node_names[index],
        .join_id = {1, (uint8_t)index},
    };

    sim_host_addr(c->nodes[index].host, CLUSTER_PORT, &add.addr);
    return cluster_command(c, 0, &add, &result) && result.id == c->nodes[index].id;
}

static bool setup_osd(struct cluster *c, uint32_t index)
{
    struct cluster_node *n = &c->nodes[index];
    struct meta_result result;
    struct meta_command add = {
        .kind = META_OSD_ADD,
        .node = n->id,
        .uuid = {7, (uint8_t)index},
        .size = OSD_BYTES,
    };

    if (!cluster_command(c, 0, &add, &result))
        return false;
    n->osd = (uint32_t)result.id;

    struct store_format format = {.osd = n->osd, .size = OSD_BYTES, .object_size = object_size};
    memcpy(format.cluster, c->identity.cluster, sizeof(format.cluster));
    memcpy(format.uuid, add.uuid, sizeof(format.uuid));
    struct loop *loop = sim_loop_create(n->host);
    bool made =
        store_format(loop, store_path, &format, false) == 0 && loop_dir_sync(loop, "/") == 0;
    loop_destroy(loop);
    if (made && n->running)
        node_open_osd(n);
    return made;
}

static bool whole_now(void *arg)
{
    return cluster_is_whole(arg);
}

bool cluster_create(struct cluster *c, struct sim *sim, uint32_t mutant)
{
    memset(c, 0, sizeof(*c));
    c->sim = sim;
    c->mutant = mutant;
    memset(c->identity.cluster, 0xc1, sizeof(c->identity.cluster));
    memset(c->identity.secret, 0x5e, sizeof(c->identity.secret));
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        c->nodes[i].cluster = c;
        c->nodes[i].id = i + 1;
        c->nodes[i].host = sim_host_create(sim, i + 1);
    }
    if (!setup_first_node(c))
        return false;
    for (uint32_t i = 1; i < CLUSTER_NODES; i++) {
        if (!setup_node_row(c, i))
            return false;
        if (i < CLUSTER_FOUNDERS)
            cluster_start_node(c, i);
    }
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        if (!setup_osd(c, i))
            return false;
    }
    return sim_run_until_true(sim, whole_now, c, sim_now(sim) + SETUP_LIMIT_S * NS_PER_S);
}

void cluster_destroy(struct cluster *c)
{
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        if (c->nodes[i].running)
            cluster_crash_node(c, i, false);
    }
}

/* ---- Looking at it ---- */

bool cluster_has_node(const struct cluster *c, uint32_t index)
{
    return c->nodes[index].starts > 0;
}

uint32_t cluster_node_of_osd(const struct cluster *c, uint32_t osd)
{
    uint32_t i = 0;

    while (i < CLUSTER_NODES && c->nodes[i].osd != osd)
        i++;
    check(i < CLUSTER_NODES);
    return i;
}

static bool set_has(const struct map_pg *pg, uint32_t osd)
{
    for (uint32_t i = 0; i < pg->set_count; i++) {
        if (pg->set[i] == osd)
            return true;
    }
    return false;
}

static bool pg_is_home(const struct map_pg *pg)
{
    bool home = pg->active && pg->set_count == CLUSTER_FOUNDERS && pg->stale_count == 0 &&
                pg->target_count == pg->set_count;

    for (uint32_t i = 0; home && i < pg->target_count; i++)
        home = set_has(pg, pg->target[i]);
    return home;
}

/* A part of the PGs, and not for the time being. */
static bool pgs_are_spread(const struct cluster *c, const struct map *map)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < map->pgs_count; i++)
        count += set_has(&map->pgs[i], c->nodes[CLUSTER_NODES - 1].osd);
    return !cluster_has_node(c, CLUSTER_NODES - 1) || count > map->pgs_count / 2;
}

bool cluster_is_whole(struct cluster *c)
{
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        const struct cluster_node *n = &c->nodes[i];
        if (!cluster_has_node(c, i))
            continue;
        if (!n->running || n->stopped || n->osd_object == NULL)
            return false;
        const struct map *map = n->osd_object->map;
        if (map == NULL || map->pgs_count == 0 || !n->osd_object->registered)
            return false;
        for (uint32_t k = 0; k < map->pgs_count; k++) {
            if (!pg_is_home(&map->pgs[k]))
                return false;
        }
        if (!pgs_are_spread(c, map))
            return false;
    }
    return true;
}

uint64_t cluster_epochs(struct cluster *c, uint32_t index)
{
    const struct osd *o = c->nodes[index].osd_object;
    uint64_t sum = 0;

    if (o == NULL || o->map == NULL)
        return 0;
    for (uint32_t i = 0; i < o->map->pgs_count; i++)
        sum += o->map->pgs[i].epoch;
    return sum;
}

/* ---- Switching primaries ---- */

static void switch_on_done(struct meta_call *call)
{
    struct cluster_node *n = container_of(call, struct cluster_node, switch_call);

    n->switching = false;
}

int cluster_switch_primaries(struct cluster *c, uint32_t index, uint32_t osd)
{
    struct cluster_node *n = &c->nodes[index];
    uint32_t count = 0;

    if (!n->running || n->stopped || n->switching || n->osd_object == NULL ||
        n->osd_object->map == NULL)
        return -1;
    const struct map *map = n->osd_object->map;
    for (uint32_t i = 0; i < map->pgs_count && count < META_LIST_MAX; i++) {
        const struct map_pg *pg = &map->pgs[i];
        if (pg->primary == osd || !set_has(pg, osd))
            continue;
        n->switches[count++] = (struct meta_pg_change){
            .kind = META_PG_SWITCH,
            .pg = pg->id,
            .epoch = pg->epoch,
            .primary = pg->primary,
            .set_count = 1,
            .set = {osd},
        };
    }
    if (count == 0)
        return 0;
    n->switching = true;
    n->switch_call = (struct meta_call){
        .loop = n->control_loop,
        .command = {.kind = META_PG_CHANGE, .list_count = count, .changes = n->switches},
        .deadline_ns = loop_now(n->control_loop) + 5 * NS_PER_S,
        .done = switch_on_done,
    };
    meta_access(n->meta)->submit(meta_access(n->meta), &n->switch_call);
    return (int)count;
}

/* ---- Moving PGs ---- */

static void move_on_done(struct meta_call *call)
{
    container_of(call, struct cluster_node, move_call)->moving = false;
}

static bool target_has(const struct map_pg *pg, uint32_t osd)
{
    for (uint32_t i = 0; i < pg->target_count; i++) {
        if (pg->target[i] == osd)
            return true;
    }
    return false;
}

static void move_one(struct cluster *c, const struct map_pg *pg, struct meta_pg_target *t)
{
    uint32_t out = (uint32_t)prng_below(sim_prng(c->sim), pg->target_count);

    *t = (struct meta_pg_target){.pg = pg->id, .count = pg->target_count};
    memcpy(t->osds, pg->target, sizeof(t->osds));
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        if (!target_has(pg, c->nodes[i].osd))
            t->osds[out] = c->nodes[i].osd;
    }
}

int cluster_move_pgs(struct cluster *c, uint32_t index)
{
    struct cluster_node *n = &c->nodes[index];
    uint32_t count = 0;

    if (!n->running || n->stopped || n->moving || n->osd_object == NULL ||
        n->osd_object->map == NULL)
        return -1;
    const struct map *map = n->osd_object->map;
    for (uint32_t i = 0; i < map->pgs_count && count < META_LIST_MAX; i++) {
        if (map->pgs[i].target_count > 0 && prng_chance(sim_prng(c->sim), 1, 2))
            move_one(c, &map->pgs[i], &n->moves[count++]);
    }
    if (count == 0)
        return 0;
    n->moving = true;
    n->move_call = (struct meta_call){
        .loop = n->control_loop,
        .command = {.kind = META_PG_TARGET, .list_count = count, .targets = n->moves},
        .deadline_ns = loop_now(n->control_loop) + 5 * NS_PER_S,
        .done = move_on_done,
    };
    meta_access(n->meta)->submit(meta_access(n->meta), &n->move_call);
    return (int)count;
}

/* ---- Bit rot ---- */

static bool is_serving(const struct cluster_node *n)
{
    return n->running && !n->stopped && n->osd_object != NULL && n->osd_object->registered;
}

/* Its blocks are not on their way to the device. */
static struct object *find_settled(const struct cluster_node *n, const struct store_id *id)
{
    struct object *o = is_serving(n) ? object_find(n->osd_object->store, id) : NULL;

    return o != NULL && !o->deleted && osd_object_find(n->osd_object, id) == NULL ? o : NULL;
}

bool cluster_rot_block(struct cluster *c, uint32_t index, uint64_t offset, uint32_t bit)
{
    struct cluster_node *n = &c->nodes[index];
    uint32_t block = (uint32_t)(offset % object_size) / STORE_BLOCK;

    if (!is_serving(n) || n->osd_object->map->images_count == 0)
        return false;
    struct store_id id = {n->osd_object->map->images[0].id, offset / object_size};
    const struct object *o = find_settled(n, &id);
    struct layout l;
    if (o == NULL)
        return false;
    object_read(o, &l);
    if (layout_slot(&l, block) == 0)
        return false;
    bool elsewhere = false;
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        const struct object *other = i != index ? find_settled(&c->nodes[i], &id) : NULL;
        elsewhere = elsewhere || (other != NULL && other->version == o->version);
    }
    return elsewhere && sim_disk_flip(n->host, store_path,
                                      8ull * STORE_BLOCK * layout_slot(&l, block) + bit) == 0;
}

bool cluster_object_is_sound(struct cluster *c, uint32_t index, const struct store_id *id)
{
    const struct cluster_node *n = &c->nodes[index];
    const struct object *o = object_find(n->osd_object->store, id);
    uint8_t block[STORE_BLOCK];
    struct layout l;

    if (o == NULL)
        return true;
    object_read(o, &l);
    for (uint32_t b = 0; b < STORE_BLOCKS_MAX; b++) {
        uint64_t slot = layout_slot(&l, b);
        if (slot == 0)
            continue;
        check(sim_disk_peek(n->host, store_path, slot * STORE_BLOCK, block, STORE_BLOCK) == 0);
        if (crc32c_block(id->image, id->object, b, block, STORE_BLOCK) != l.crcs[b])
            return false;
    }
    return true;
}
