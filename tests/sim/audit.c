/* What must hold of a cluster that is whole and quiet. */

#include "meta/meta_impl.h"
#include "osd/pg.h"
#include "tests/sim/run.h"

enum { SAME_LIMIT_S = 10 };

static struct store *store_of(struct run *r, uint32_t node)
{
    return r->cluster.nodes[node].osd_object->store;
}

/* ---- Replicas ---- */

static void compare_object(struct run *r, uint32_t first, uint32_t node,
                           const struct store_object *a)
{
    struct store_object b;
    uint32_t crc_a, crc_b;

    if (!store_lookup(store_of(r, node), &a->id, &b)) {
        run_fail(r, "node %u lacks object %llu", node + 1, (unsigned long long)a->id.object);
        return;
    }
    if (a->version != b.version || a->deleted != b.deleted ||
        memcmp(a->present, b.present, sizeof(b.present)) != 0) {
        run_fail(r, "object %llu is of version %llx on node %u, %llx on node %u",
                 (unsigned long long)a->id.object, (unsigned long long)a->version, first + 1,
                 (unsigned long long)b.version, node + 1);
        return;
    }
    for (uint32_t i = 0; i < STORE_BLOCKS_MAX; i++) {
        if (!store_block_crc(store_of(r, first), &a->id, i, &crc_a))
            continue;
        if (!store_block_crc(store_of(r, node), &a->id, i, &crc_b) || crc_a != crc_b)
            run_fail(r, "block %u of object %llu differs on node %u", i,
                     (unsigned long long)a->id.object, node + 1);
    }
}

static uint32_t count_objects(struct run *r, uint32_t node, uint64_t pg)
{
    struct store_cursor cursor = {.pg = pg};
    struct store_object object;
    uint32_t count = 0;

    while (store_list(store_of(r, node), pg, 0, &cursor, &object, 1) != 0)
        count += object.version != 0;
    return count;
}

static bool is_member(const struct map_pg *pg, uint32_t osd)
{
    for (uint32_t i = 0; i < pg->set_count; i++) {
        if (pg->set[i] == osd)
            return true;
    }
    return false;
}

/* All members have what the first has, and nobody else has anything. */
static void compare_pg(struct run *r, const struct map_pg *pg)
{
    uint32_t first = cluster_node_of_osd(&r->cluster, pg->set[0]);
    struct store_cursor cursor = {.pg = pg->id};
    struct store_object object;

    while (store_list(store_of(r, first), pg->id, 0, &cursor, &object, 1) != 0) {
        for (uint32_t i = 1; object.version != 0 && i < pg->set_count; i++)
            compare_object(r, first, cluster_node_of_osd(&r->cluster, pg->set[i]), &object);
    }
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        if (!cluster_has_node(&r->cluster, i))
            continue;
        bool member = is_member(pg, r->cluster.nodes[i].osd);
        uint32_t count = count_objects(r, i, pg->id);
        if (count != (member ? count_objects(r, first, pg->id) : 0))
            run_fail(r, "pg %llx has %u objects on node %u, which is %s of it",
                     (unsigned long long)pg->id, count, i + 1, member ? "a member" : "no member");
    }
}

/* ---- Bit rot ---- */

static bool pg_is_sound(struct run *r, const struct map_pg *pg, uint32_t node)
{
    struct store_cursor cursor = {.pg = pg->id};
    struct store_object object;

    while (store_list(store_of(r, node), pg->id, 0, &cursor, &object, 1) != 0) {
        if (!cluster_object_is_sound(&r->cluster, node, &object.id))
            return false;
    }
    return true;
}

static bool all_is_sound(struct run *r)
{
    const struct map *map = r->cluster.nodes[0].osd_object->map;

    for (uint32_t i = 0; i < map->pgs_count; i++) {
        const struct map_pg *pg = &map->pgs[i];
        for (uint32_t k = 0; k < pg->set_count; k++) {
            if (!pg_is_sound(r, pg, cluster_node_of_osd(&r->cluster, pg->set[k])))
                return false;
        }
    }
    return true;
}

/* Nobody reads: scrub finds what has rotted, in a round that has begun or in the next one. */
void audit_rot(struct run *r)
{
    for (uint32_t i = 0; i < 3 * CLUSTER_SCRUB_S; i++) {
        if (all_is_sound(r))
            return;
        r->result->scrub_s++;
        sim_run_until(r->sim, sim_now(r->sim) + NS_PER_S);
    }
    run_fail(r, "a rotten block was not mended by scrub");
}

/* ---- Space ---- */

static uint64_t count_blocks(struct run *r, uint32_t node, const struct map *map)
{
    struct store_object object;
    uint64_t blocks = 0;

    for (uint32_t i = 0; i < map->pgs_count; i++) {
        struct store_cursor cursor = {.pg = map->pgs[i].id};
        while (store_list(store_of(r, node), map->pgs[i].id, 0, &cursor, &object, 1) != 0) {
            for (uint32_t k = 0; k < COUNT_OF(object.present); k++)
                blocks += (uint64_t)__builtin_popcountll(object.present[k]);
        }
    }
    return blocks;
}

/* What the store says it uses is what its objects hold; `used` may lag by what waits for a mark. */
static void check_space(struct run *r, uint32_t node, const struct map *map)
{
    struct store_status st;
    uint64_t blocks = count_blocks(r, node, map), image = 0;

    for (uint32_t i = 0; i < map->images_count; i++)
        image += store_image_blocks(store_of(r, node), map->images[i].id);
    store_status(store_of(r, node), &st);
    if (image != blocks || st.used_bytes < blocks * STORE_BLOCK ||
        st.used_bytes + st.free_bytes != st.data_bytes)
        run_fail(r, "node %u holds %llu blocks, the image has %llu, in use are %llu", node + 1,
                 (unsigned long long)blocks, (unsigned long long)image,
                 (unsigned long long)(st.used_bytes / STORE_BLOCK));
    if (st.used_bytes > (blocks + 64) * STORE_BLOCK)
        run_fail(r, "node %u: %llu blocks in use, of which objects hold %llu", node + 1,
                 (unsigned long long)(st.used_bytes / STORE_BLOCK), (unsigned long long)blocks);
}

/* ---- The cluster state ---- */

static bool states_are_at_one(void *arg)
{
    struct run *r = arg;
    uint64_t first = meta_state_applied_index(r->cluster.nodes[0].meta->state);

    for (uint32_t i = 1; i < CLUSTER_NODES; i++) {
        if (!cluster_has_node(&r->cluster, i))
            continue;
        if (meta_state_applied_index(r->cluster.nodes[i].meta->state) != first)
            return false;
    }
    return true;
}

static void check_states(struct run *r)
{
    if (!sim_run_until_true(r->sim, states_are_at_one, r,
                            sim_now(r->sim) + SAME_LIMIT_S * NS_PER_S)) {
        run_fail(r, "nodes had not applied the same entries after %d s", SAME_LIMIT_S);
        return;
    }
    uint64_t first = meta_state_hash(r->cluster.nodes[0].meta->state);
    for (uint32_t i = 1; i < CLUSTER_NODES; i++) {
        if (cluster_has_node(&r->cluster, i) &&
            meta_state_hash(r->cluster.nodes[i].meta->state) != first)
            run_fail(r, "the cluster state of node %u has another hash", i + 1);
    }
}

void audit_cluster(struct run *r)
{
    check_states(r); /* time passes: there may be a newer map */
    const struct map *map = r->cluster.nodes[0].osd_object->map;
    for (uint32_t i = 0; i < map->pgs_count; i++)
        compare_pg(r, &map->pgs[i]);
    for (uint32_t i = 0; i < CLUSTER_NODES; i++) {
        if (cluster_has_node(&r->cluster, i))
            check_space(r, i, map);
    }
}
