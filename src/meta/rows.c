#include "meta/rows.h"

#include <errno.h>

#include "base/check.h"

static void put_ids(struct pack *p, const uint32_t *ids, uint8_t count)
{
    check(count <= META_REPLICAS_MAX);
    pack_array(p, count);
    for (uint8_t i = 0; i < count; i++)
        pack_u64(p, ids[i]);
}

static uint8_t get_ids(struct unpack *u, uint32_t *ids)
{
    uint32_t count = unpack_array(u, META_REPLICAS_MAX);

    for (uint32_t i = 0; i < count; i++)
        ids[i] = unpack_u32(u);
    return (uint8_t)count;
}

/* ---- cluster: [uuid, default replicas, client_last, image_last] ---- */

static void put_cluster(struct pack *p, const struct meta_row_cluster *c)
{
    pack_array(p, 4);
    pack_bin(p, c->cluster, sizeof(c->cluster));
    pack_u64(p, c->default_replicas);
    pack_u64(p, c->client_last);
    pack_u64(p, c->image_last);
}

static void get_cluster(struct unpack *u, struct meta_row *r)
{
    unpack_array_exact(u, 4);
    unpack_bin_exact(u, r->cluster.cluster, sizeof(r->cluster.cluster));
    r->cluster.default_replicas = unpack_u32(u);
    r->cluster.client_last = unpack_u64(u, UINT64_MAX);
    r->cluster.image_last = unpack_u64(u, UINT64_MAX);
    if (r->key != 0)
        u->failed = true;
}

/* ---- node: [name, location, ip, port, incarnation] ---- */

static void put_node(struct pack *p, const struct map_node *n)
{
    pack_array(p, 5);
    pack_str(p, n->name);
    pack_str(p, n->location);
    pack_bin(p, n->addr.ip, sizeof(n->addr.ip));
    pack_u64(p, n->addr.port);
    pack_u64(p, n->incarnation);
}

static void get_node(struct unpack *u, struct meta_row *r)
{
    struct map_node *n = &r->node;

    unpack_array_exact(u, 5);
    n->id = (uint32_t)r->key;
    unpack_text(u, n->name, sizeof(n->name));
    unpack_text(u, n->location, sizeof(n->location));
    unpack_bin_exact(u, n->addr.ip, sizeof(n->addr.ip));
    n->addr.port = (uint16_t)unpack_u64(u, UINT16_MAX);
    n->incarnation = unpack_u32(u);
}

/* ---- osd: [node, incarnation, dead incarnation, up, failed, size, weight, uuid] ---- */

static void put_osd(struct pack *p, const struct map_osd *o)
{
    pack_array(p, 8);
    pack_u64(p, o->node);
    pack_u64(p, o->incarnation);
    pack_u64(p, o->dead_incarnation);
    pack_bool(p, o->up);
    pack_bool(p, o->failed);
    pack_u64(p, o->size);
    pack_u64(p, o->weight);
    pack_bin(p, o->uuid, sizeof(o->uuid));
}

static void get_osd(struct unpack *u, struct meta_row *r)
{
    struct map_osd *o = &r->osd;

    unpack_array_exact(u, 8);
    o->id = (uint32_t)r->key;
    o->node = unpack_u32(u);
    o->incarnation = unpack_u32(u);
    o->dead_incarnation = unpack_u32(u);
    o->up = unpack_bool(u);
    o->failed = unpack_bool(u);
    o->size = unpack_u64(u, UINT64_MAX);
    o->weight = unpack_u32(u);
    unpack_bin_exact(u, o->uuid, sizeof(o->uuid));
}

/* ---- pool: [name, replicas, min_size, pg_count, object_size] ---- */

static void put_pool(struct pack *p, const struct map_pool *o)
{
    pack_array(p, 5);
    pack_str(p, o->name);
    pack_u64(p, o->replicas);
    pack_u64(p, o->min_size);
    pack_u64(p, o->pg_count);
    pack_u64(p, o->object_size);
}

static void get_pool(struct unpack *u, struct meta_row *r)
{
    struct map_pool *o = &r->pool;

    unpack_array_exact(u, 5);
    o->id = (uint32_t)r->key;
    unpack_text(u, o->name, sizeof(o->name));
    o->replicas = (uint32_t)unpack_u64(u, META_REPLICAS_MAX);
    o->min_size = (uint32_t)unpack_u64(u, META_REPLICAS_MAX);
    o->pg_count = (uint32_t)unpack_u64(u, META_PGS_MAX);
    o->object_size = (uint32_t)unpack_u64(u, META_OBJECT_SIZE_MAX);
    if (o->replicas == 0 || o->min_size == 0 || o->pg_count == 0 || o->object_size == 0)
        u->failed = true;
}

/* ---- pg: [epoch, primary, activated, active, [S], [target], [[osd, version]]] ---- */

static void put_pg(struct pack *p, const struct map_pg *g)
{
    check(g->stale_count <= META_STALE_MAX);
    pack_array(p, 7);
    pack_u64(p, g->epoch);
    pack_u64(p, g->primary);
    pack_u64(p, g->activated);
    pack_bool(p, g->active);
    put_ids(p, g->set, g->set_count);
    put_ids(p, g->target, g->target_count);
    pack_array(p, g->stale_count);
    for (uint8_t i = 0; i < g->stale_count; i++) {
        pack_array(p, 2);
        pack_u64(p, g->stale[i].osd);
        pack_u64(p, g->stale[i].version);
    }
}

static void get_pg(struct unpack *u, struct meta_row *r)
{
    struct map_pg *g = &r->pg;

    unpack_array_exact(u, 7);
    g->id = r->key;
    g->epoch = unpack_u32(u);
    g->primary = unpack_u32(u);
    g->activated = unpack_u32(u);
    g->active = unpack_bool(u);
    g->set_count = get_ids(u, g->set);
    g->target_count = get_ids(u, g->target);
    g->stale_count = (uint8_t)unpack_array(u, META_STALE_MAX);
    for (uint8_t i = 0; i < g->stale_count; i++) {
        unpack_array_exact(u, 2);
        g->stale[i].osd = unpack_u32(u);
        g->stale[i].version = unpack_u64(u, UINT64_MAX);
    }
}

/* ---- image: [root, name, size, pool, epoch]; client: [node, fenced] ---- */

static void put_image(struct pack *p, const struct map_image *i)
{
    pack_array(p, 5);
    pack_u64(p, i->root);
    pack_str(p, i->name);
    pack_u64(p, i->size);
    pack_u64(p, i->pool);
    pack_u64(p, i->epoch);
}

static void get_image(struct unpack *u, struct meta_row *r)
{
    struct map_image *i = &r->image;

    unpack_array_exact(u, 5);
    i->id = r->key;
    i->root = unpack_u64(u, UINT64_MAX);
    unpack_text(u, i->name, sizeof(i->name));
    i->size = unpack_u64(u, UINT64_MAX);
    i->pool = unpack_u32(u);
    i->epoch = unpack_u32(u);
}

static void put_client(struct pack *p, const struct map_client *c)
{
    pack_array(p, 2);
    pack_u64(p, c->node);
    pack_bool(p, c->fenced);
}

static void get_client(struct unpack *u, struct meta_row *r)
{
    unpack_array_exact(u, 2);
    r->client.id = r->key;
    r->client.node = unpack_u32(u);
    r->client.fenced = unpack_bool(u);
}

/* ---- Rows ---- */

void meta_row_put(struct pack *p, const struct meta_row *row)
{
    pack_array(p, 3);
    pack_u64(p, (uint64_t)row->table);
    pack_u64(p, row->key);
    if (!row->present) {
        pack_nil(p);
        return;
    }
    switch (row->table) {
    case META_TABLE_CLUSTER:
        put_cluster(p, &row->cluster);
        break;
    case META_TABLE_NODE:
        put_node(p, &row->node);
        break;
    case META_TABLE_OSD:
        put_osd(p, &row->osd);
        break;
    case META_TABLE_POOL:
        put_pool(p, &row->pool);
        break;
    case META_TABLE_PG:
        put_pg(p, &row->pg);
        break;
    case META_TABLE_IMAGE:
        put_image(p, &row->image);
        break;
    case META_TABLE_CLIENT:
        put_client(p, &row->client);
        break;
    }
}

int meta_row_get(struct unpack *u, struct meta_row *out)
{
    static void (*const get[])(struct unpack *, struct meta_row *) = {
        [META_TABLE_CLUSTER] = get_cluster, [META_TABLE_NODE] = get_node,
        [META_TABLE_OSD] = get_osd,         [META_TABLE_POOL] = get_pool,
        [META_TABLE_PG] = get_pg,           [META_TABLE_IMAGE] = get_image,
        [META_TABLE_CLIENT] = get_client,
    };

    memset(out, 0, sizeof(*out));
    unpack_array_exact(u, 3);
    uint64_t table = unpack_u64(u, META_TABLE_LAST);
    if (table == 0)
        u->failed = true;
    bool wide = table == META_TABLE_PG || table == META_TABLE_IMAGE || table == META_TABLE_CLIENT;
    out->table = (enum meta_table)table;
    out->key = unpack_u64(u, wide ? UINT64_MAX : UINT32_MAX);
    if (u->failed)
        return -EPROTO;
    if (unpack_try_nil(u))
        return 0;
    out->present = true;
    get[table](u, out);
    return u->failed ? -EPROTO : 0;
}
