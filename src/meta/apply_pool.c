/* Commands about pools and images. */

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"
#include "base/text.h"
#include "meta/placement.h"
#include "meta/state_impl.h"

/* ---- Pools ---- */

enum { OBJECT_SIZE_MIN = 4096, DEFAULT_PG_COUNT = 64, DEFAULT_OBJECT_SIZE = 128 << 10 };

static bool pool_is_valid(const struct meta_command *c, struct meta_result *r)
{
    if (!name_is_valid(c->name))
        meta_result_set(r, -EINVAL, "not a valid name for a pool");
    else if (c->replicas < 1 || c->replicas > META_REPLICAS_MAX)
        meta_result_set(r, -EINVAL, "a pool has 1 to %d replicas", META_REPLICAS_MAX);
    else if (c->min_size < 1 || c->min_size > c->replicas)
        meta_result_set(r, -EINVAL, "min_size is 1 to the number of replicas");
    else if (c->pg_count < 1 || c->pg_count > META_PGS_MAX)
        meta_result_set(r, -EINVAL, "a pool has 1 to %d PGs", META_PGS_MAX);
    else if (c->object_size < OBJECT_SIZE_MIN || c->object_size > META_OBJECT_SIZE_MAX ||
             (c->object_size & (c->object_size - 1)) != 0)
        meta_result_set(r, -EINVAL, "the object size is a power of two, 4 KiB to 1 MiB");
    return r->code == 0;
}

/* The OSDs that are up, with the lowest node id of their location as its number. */
static struct placement_osd *usable_osds(struct meta_state *s, uint32_t *count)
{
    uint32_t osds_count;
    struct map_osd *osds = state_osds(s, &osds_count);
    struct placement_osd *usable = mem_zalloc((osds_count + 1) * sizeof(*usable));
    struct state_node *nodes = mem_zalloc((osds_count + 1) * sizeof(*nodes));

    *count = 0;
    for (uint32_t i = 0; i < osds_count; i++) {
        if (!osds[i].up || !state_node_get(s, osds[i].node, &nodes[*count]))
            continue;
        usable[*count] = (struct placement_osd){osds[i].id, *count, osds[i].weight};
        for (uint32_t k = 0; k < *count; k++) {
            if (strcmp(nodes[k].map.location, nodes[*count].map.location) == 0) {
                usable[*count].domain = usable[k].domain;
                break;
            }
        }
        ++*count;
    }
    free(nodes);
    free(osds);
    return usable;
}

static void create_pgs(struct meta_state *s, const struct map_pool *p,
                       const struct placement_osd *osds, uint32_t osds_count)
{
    struct placement_pg *pgs = mem_zalloc(p->pg_count * sizeof(*pgs));

    for (uint32_t i = 0; i < p->pg_count; i++)
        pgs[i].id = (uint64_t)p->id << 32 | i;
    placement_run(osds, osds_count, pgs, p->pg_count, (uint8_t)p->replicas);
    for (uint32_t i = 0; i < p->pg_count; i++) {
        struct map_pg g = {.id = pgs[i].id, .epoch = 1, .primary = pgs[i].osds[0]};
        check(pgs[i].count == p->replicas);
        g.target_count = g.set_count = pgs[i].count;
        memcpy(g.target, pgs[i].osds, sizeof(g.target));
        for (uint8_t k = 0; k < g.set_count; k++) { /* S is kept by id */
            uint8_t at = k;
            for (; at > 0 && g.set[at - 1] > g.target[k]; at--)
                g.set[at] = g.set[at - 1];
            g.set[at] = g.target[k];
        }
        state_pg_put(s, &g);
    }
    free(pgs);
}

/* If there are OSDs on hosts enough: p->id is set, and the PGs are made. On how many there are. */
static uint32_t make_pool(struct meta_state *s, struct map_pool *p)
{
    uint32_t osds_count;
    struct placement_osd *osds = usable_osds(s, &osds_count);
    uint32_t domains = placement_domains(osds, osds_count);

    if (domains >= p->replicas) {
        p->id = ++s->cluster.pool_last;
        state_pool_put(s, p);
        create_pgs(s, p, osds, osds_count);
    }
    free(osds);
    return domains;
}

void apply_pool_create(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    struct map_pool same;
    struct map_pool p = {.replicas = c->replicas,
                         .min_size = c->min_size,
                         .pg_count = c->pg_count,
                         .object_size = c->object_size};

    if (!pool_is_valid(c, r))
        return;
    str_copy(p.name, sizeof(p.name), c->name);
    if (state_pool_by_name(s, c->name, &same)) {
        meta_result_set(r, -EEXIST, "there is a pool named %.64s already", c->name);
        return;
    }
    if (state_pools_count(s) >= META_POOLS_MAX || state_pgs_count(s) + c->pg_count > META_PGS_MAX) {
        meta_result_set(r, -ENOSPC, "a cluster has at most %d pools and %d PGs", META_POOLS_MAX,
                        META_PGS_MAX);
        return;
    }
    uint32_t domains = make_pool(s, &p);
    if (domains < c->replicas)
        meta_result_set(r, -ENODEV,
                        "hosts that have an OSD that is up: %u are needed for as many copies, "
                        "and there are %u",
                        c->replicas, domains);
    else
        r->id = p.id;
}

/*
 * The first pool of a cluster is there as soon as it can be: with the OSD on the last host that it
 * needs. So whoever is told that the OSD serves may make an image at once.
 */
void apply_default_pool(struct meta_state *s)
{
    uint32_t replicas = s->cluster.default_replicas;
    struct map_pool p = {.name = "default",
                         .replicas = replicas,
                         .min_size = replicas == 1 ? 1 : 2,
                         .pg_count = DEFAULT_PG_COUNT,
                         .object_size = DEFAULT_OBJECT_SIZE};

    if (s->cluster.pool_last == 0)
        make_pool(s, &p);
}

/* ---- Images ---- */

static const uint64_t image_size_max = 1ull << 60;

static bool image_pool(struct meta_state *s, const struct meta_command *c, struct map_pool *p,
                       struct meta_result *r)
{
    bool found = c->pool == 0 ? state_pool_by_name(s, "default", p) : state_pool_get(s, c->pool, p);

    if (!found && c->pool == 0)
        meta_result_set(r, -ENOENT,
                        "there is no pool named default yet: name another, or see why "
                        "with `skerry status`");
    else if (!found)
        meta_result_set(r, -ENOENT, "there is no pool with number %u", c->pool);
    return found;
}

void apply_image_create(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    struct map_image i;
    struct map_pool p;

    if (!name_is_valid(c->name)) {
        meta_result_set(r, -EINVAL, "not a valid name for an image");
        return;
    }
    if (c->size == 0 || c->size > image_size_max) {
        meta_result_set(r, -EINVAL, "an image has 1 byte to 1 EiB");
        return;
    }
    if (state_image_by_name(s, c->name, &i)) {
        meta_result_set(r, -EEXIST, "there is an image named %.64s already", c->name);
        return;
    }
    if (!image_pool(s, c, &p, r))
        return;
    if (s->cluster.image_last >= META_IMAGES_MAX) {
        meta_result_set(r, -ENOSPC, "a cluster gives out at most %d image numbers",
                        META_IMAGES_MAX);
        return;
    }
    memset(&i, 0, sizeof(i));
    i.id = ++s->cluster.image_last;
    i.root = i.id;
    str_copy(i.name, sizeof(i.name), c->name);
    i.size = c->size;
    i.pool = p.id;
    i.epoch = 1;
    state_image_put(s, &i);
    state_cluster_changed(s);
    r->id = i.id;
}

void apply_image_delete(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    struct map_image i;

    if (!state_image_by_name(s, c->name, &i)) {
        meta_result_set(r, -ENOENT, "there is no image named %.64s", c->name);
        return;
    }
    state_image_delete(s, i.id);
    r->id = i.id;
}
