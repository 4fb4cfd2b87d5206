/* The state as JSON, for people and for tests: the rows of the newest map, table by table. */

#include <jansson.h>
#include <stdio.h>

#include "base/check.h"
#include "base/text.h"
#include "meta/meta_impl.h"

static json_t *id_text(uint64_t id)
{
    return json_sprintf("%llu", (unsigned long long)id);
}

static json_t *bin_text(const uint8_t bytes[16])
{
    char text[33];

    hex_encode(bytes, 16, text, sizeof(text));
    return json_string(text);
}

static json_t *ids_array(const uint32_t *ids, uint8_t count)
{
    json_t *array = json_array();

    for (uint8_t i = 0; i < count; i++)
        json_array_append_new(array, json_integer(ids[i]));
    return array;
}

static json_t *cluster_table(const struct map *m)
{
    json_t *array = json_array();

    json_array_append_new(array,
                          json_pack("{s:o, s:o, s:i, s:o, s:o}", "uuid", bin_text(m->cluster),
                                    "revision", id_text(m->revision), "default_replicas",
                                    (int)m->default_replicas, "client_last",
                                    id_text(m->client_last), "image_last", id_text(m->image_last)));
    return array;
}

static json_t *node_table(const struct map *m)
{
    json_t *array = json_array();

    for (uint32_t i = 0; i < m->nodes_count; i++) {
        const struct map_node *n = &m->nodes[i];
        char addr[LOOP_ADDR_STR];
        loop_addr_format(&n->addr, addr, sizeof(addr));
        json_array_append_new(array, json_pack("{s:I, s:s, s:s, s:s, s:I}", "id", (json_int_t)n->id,
                                               "name", n->name, "location", n->location, "addr",
                                               addr, "incarnation", (json_int_t)n->incarnation));
    }
    return array;
}

static json_t *osd_table(const struct map *m)
{
    json_t *array = json_array();

    for (uint32_t i = 0; i < m->osds_count; i++) {
        const struct map_osd *o = &m->osds[i];
        json_array_append_new(array, json_pack("{s:I, s:I, s:I, s:I, s:b, s:b, s:I, s:I, s:o}",
                                               "id", (json_int_t)o->id, "node", (json_int_t)o->node,
                                               "incarnation", (json_int_t)o->incarnation,
                                               "dead_incarnation", (json_int_t)o->dead_incarnation,
                                               "up", o->up, "failed", o->failed, "size_bytes",
                                               (json_int_t)o->size, "weight", (json_int_t)o->weight,
                                               "uuid", bin_text(o->uuid)));
    }
    return array;
}

static json_t *pool_table(const struct map *m)
{
    json_t *array = json_array();

    for (uint32_t i = 0; i < m->pools_count; i++) {
        const struct map_pool *p = &m->pools[i];
        json_array_append_new(
            array, json_pack("{s:I, s:s, s:I, s:I, s:I, s:I}", "id", (json_int_t)p->id, "name",
                             p->name, "replicas", (json_int_t)p->replicas, "min_size",
                             (json_int_t)p->min_size, "pg_count", (json_int_t)p->pg_count,
                             "object_size_bytes", (json_int_t)p->object_size));
    }
    return array;
}

static json_t *stale_array(const struct map_pg *g)
{
    json_t *array = json_array();

    for (uint8_t i = 0; i < g->stale_count; i++)
        json_array_append_new(array, json_pack("{s:I, s:o}", "osd", (json_int_t)g->stale[i].osd,
                                               "version", id_text(g->stale[i].version)));
    return array;
}

static json_t *pg_table(const struct map *m)
{
    json_t *array = json_array();

    for (uint32_t i = 0; i < m->pgs_count; i++) {
        const struct map_pg *g = &m->pgs[i];
        json_array_append_new(
            array, json_pack("{s:o, s:I, s:I, s:I, s:b, s:o, s:o, s:o}", "id",
                             json_sprintf("%u.%x", (unsigned)(g->id >> 32), (unsigned)g->id),
                             "epoch", (json_int_t)g->epoch, "primary", (json_int_t)g->primary,
                             "activated", (json_int_t)g->activated, "active", g->active, "in_sync",
                             ids_array(g->set, g->set_count), "target",
                             ids_array(g->target, g->target_count), "stale", stale_array(g)));
    }
    return array;
}

static json_t *image_table(const struct map *m)
{
    json_t *array = json_array();

    for (uint32_t i = 0; i < m->images_count; i++) {
        const struct map_image *g = &m->images[i];
        json_array_append_new(array, json_pack("{s:o, s:o, s:s, s:I, s:I, s:I}", "id",
                                               id_text(g->id), "root", id_text(g->root), "name",
                                               g->name, "size_bytes", (json_int_t)g->size, "pool",
                                               (json_int_t)g->pool, "epoch", (json_int_t)g->epoch));
    }
    return array;
}

static json_t *client_table(const struct map *m)
{
    json_t *array = json_array();

    for (uint32_t i = 0; i < m->clients_count; i++) {
        const struct map_client *c = &m->clients[i];
        json_array_append_new(array, json_pack("{s:o, s:I, s:b}", "id", id_text(c->id), "node",
                                               (json_int_t)c->node, "fenced", c->fenced));
    }
    return array;
}

char *meta_dump_json(struct meta *m)
{
    const struct map *map = meta_map(m);
    struct map *none = NULL;

    if (map == NULL) {
        int error = map_build(NULL, (struct slice){NULL, 0}, 0, &none);
        check(error == 0);
        map = none;
    }
    json_t *all =
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "cluster", cluster_table(map), "node",
                  node_table(map), "osd", osd_table(map), "pool", pool_table(map), "pg",
                  pg_table(map), "image", image_table(map), "client", client_table(map));
    check(all != NULL);
    char *text = json_dumps(all, JSON_INDENT(2));
    json_decref(all);
    map_unref(none);
    return text;
}
