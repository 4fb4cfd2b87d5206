/* Commands about the cluster itself, its nodes and the clients. */

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/text.h"
#include "meta/state_impl.h"

static bool is_zero16(const uint8_t id[16])
{
    static const uint8_t zero[16];
    return memcmp(id, zero, 16) == 0;
}

void apply_cluster_init(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    if (is_zero16(c->cluster) || c->replicas < 1 || c->replicas > META_REPLICAS_MAX) {
        meta_result_set(r, -EINVAL, "a cluster needs an id and 1 to %d replicas",
                        META_REPLICAS_MAX);
        return;
    }
    if (!is_zero16(s->cluster.uuid)) {
        if (memcmp(s->cluster.uuid, c->cluster, 16) != 0)
            meta_result_set(r, -EEXIST, "this is another cluster already");
        return;
    }
    memcpy(s->cluster.uuid, c->cluster, 16);
    s->cluster.default_replicas = c->replicas;
    state_cluster_changed(s);
}

/* ---- Nodes ---- */

/*
 * The row that a join is about, or a new one (id 0). False: the name is another's. Whoever has
 * started under a name keeps it. A number that nobody ever started under is free: its join was
 * given up, and who comes with its name has it. The first node's own row (its join_id is the
 * cluster's id) is never given away. The other way round, a join that comes again under another
 * name is still the same one.
 */
static bool find_joiner(struct meta_state *s, const struct meta_command *c, struct state_node *n)
{
    bool is_named = !is_zero16(c->join_id);

    if (state_node_by_name(s, c->name, n))
        return n->map.incarnation == 0 && is_named &&
               memcmp(n->join_id, s->cluster.uuid, sizeof(n->join_id)) != 0;
    if (!is_named || !state_node_new_by_join(s, c->join_id, n))
        memset(n, 0, sizeof(*n));
    return true;
}

void apply_node_add(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    struct state_node n;
    const char *location = c->location[0] != '\0' ? c->location : c->name;

    if (!name_is_valid(c->name) || !name_is_valid(location)) {
        meta_result_set(r, -EINVAL, "not a valid name or location for a node");
        return;
    }
    if (!is_zero16(c->join_id) && state_node_by_name(s, c->name, &n) &&
        memcmp(n.join_id, c->join_id, sizeof(n.join_id)) == 0) {
        r->id = n.map.id;
        return;
    }
    if (!find_joiner(s, c, &n)) {
        meta_result_set(r, -EEXIST, "there is a node named %.64s already", c->name);
        return;
    }
    if (n.map.id == 0 && state_nodes_count(s) >= META_NODES_MAX) {
        meta_result_set(r, -ENOSPC, "a cluster has at most %d nodes", META_NODES_MAX);
        return;
    }
    if (n.map.id == 0)
        n.map.id = ++s->cluster.node_last;
    memset(n.map.name, 0, sizeof(n.map.name));
    memset(n.map.location, 0, sizeof(n.map.location));
    str_copy(n.map.name, sizeof(n.map.name), c->name);
    str_copy(n.map.location, sizeof(n.map.location), location);
    n.map.addr = c->addr;
    memcpy(n.join_id, c->join_id, sizeof(n.join_id));
    state_node_put(s, &n);
    r->id = n.map.id;
}

/* Clients of an older life of the node can never speak again: whoever holds their id is refused.
 * An id that was given and has no row is fenced (map_client_is_fenced). */
static void fence_clients(struct meta_state *s, uint32_t node, uint32_t incarnation)
{
    uint32_t count;
    uint64_t *ids = state_clients_before(s, node, incarnation, &count);

    for (uint32_t i = 0; i < count; i++)
        state_client_delete(s, ids[i]);
    free(ids);
}

/* A new life of the node's process: the old one is gone, and with it what its OSDs granted, also of
 * those that were taken for down before. All are marked first, so that none inherits from another.
 */
static void end_osds(struct meta_state *s, uint32_t node)
{
    uint32_t count;
    struct map_osd *osds = state_osds(s, &count);

    for (uint32_t i = 0; i < count; i++) {
        struct map_osd o = osds[i];
        if (o.node != node || (!o.up && o.dead_incarnation == o.incarnation))
            continue;
        o.up = false;
        o.dead_incarnation = o.incarnation;
        state_osd_put(s, &o);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (osds[i].node == node && osds[i].up)
            apply_primary_lost(s, osds[i].id);
    }
    free(osds);
}

void apply_node_set(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    struct state_node n, old;

    if (!state_node_get(s, c->node, &n)) {
        meta_result_set(r, -ENOENT, "there is no node.%u", c->node);
        return;
    }
    if (c->location[0] != '\0' && !name_is_valid(c->location)) {
        meta_result_set(r, -EINVAL, "not a valid location");
        return;
    }
    if (!is_zero16(c->join_id) && memcmp(n.join_id, c->join_id, sizeof(n.join_id)) != 0) {
        meta_result_set(r, -EEXIST,
                        "node.%u belongs to another directory: this one's join was given up, and "
                        "its name taken over. Join again under another name",
                        c->node);
        return;
    }
    if (c->incarnation < n.map.incarnation) {
        meta_result_set(r, -ESTALE, "node.%u was started again since (start %u)", c->node,
                        n.map.incarnation);
        return;
    }
    old = n;
    n.map.addr = c->addr;
    n.map.incarnation = c->incarnation;
    if (c->location[0] != '\0') {
        memset(n.map.location, 0, sizeof(n.map.location));
        str_copy(n.map.location, sizeof(n.map.location), c->location);
    }
    if (!loop_addr_equal(&n.map.addr, &old.map.addr) || c->incarnation > old.map.incarnation ||
        strcmp(n.map.location, old.map.location) != 0)
        state_node_put(s, &n);
    if (c->incarnation > old.map.incarnation) {
        fence_clients(s, c->node, c->incarnation);
        end_osds(s, c->node);
    }
}

/* ---- Clients ---- */

/*
 * Tools come and go and say no goodbye; nobody else knows when one has gone. So when there is no
 * room, the oldest goes, fenced: if it lives, it is refused and takes a new id.
 */
static bool make_room_for_client(struct meta_state *s)
{
    if (state_clients_count(s) < META_CLIENTS_MAX)
        return true;
    uint64_t oldest = state_client_oldest_tool(s);
    if (oldest != 0)
        state_client_delete(s, oldest);
    return oldest != 0;
}

void apply_client_add(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    struct state_client client;
    struct state_node n = {0};

    if (c->node != 0 && !state_node_get(s, c->node, &n)) {
        meta_result_set(r, -ENOENT, "there is no node.%u", c->node);
        return;
    }
    if (!is_zero16(c->join_id) && state_client_by_join(s, c->join_id, &client)) {
        r->id = client.map.id;
        return;
    }
    if (!make_room_for_client(s)) {
        meta_result_set(r, -ENOSPC, "a cluster has at most %d clients", META_CLIENTS_MAX);
        return;
    }
    memset(&client, 0, sizeof(client));
    client.map.id = ++s->cluster.client_last;
    client.map.node = c->node;
    client.node_incarnation = n.map.incarnation;
    memcpy(client.join_id, c->join_id, sizeof(client.join_id));
    state_client_put(s, &client);
    state_cluster_changed(s);
    r->id = client.map.id;
}

void apply_client_remove(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    struct state_client client;

    if (c->client == 0 || c->client > s->cluster.client_last)
        meta_result_set(r, -ENOENT, "there never was a client %llu", (unsigned long long)c->client);
    else if (state_client_get(s, c->client, &client))
        state_client_delete(s, c->client);
}
