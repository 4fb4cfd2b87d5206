/* Commands about OSDs: their registration, and what becomes of their PGs (in apply_pg.c). */

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "meta/state_impl.h"

/* GiB x 100, at least 1. */
static uint32_t weight_of(uint64_t size)
{
    uint64_t weight = (size >> 20) * 100 >> 10;

    if (weight < 1)
        return 1;
    return weight > UINT32_MAX ? UINT32_MAX : (uint32_t)weight;
}

void apply_osd_add(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    static const uint8_t none[16];
    struct state_node n;
    struct map_osd o;

    if (memcmp(c->uuid, none, 16) == 0) {
        meta_result_set(r, -EINVAL, "an OSD needs the id of its store");
        return;
    }
    if (state_osd_by_uuid(s, c->uuid, &o)) {
        r->id = o.id;
        return;
    }
    if (!state_node_get(s, c->node, &n)) {
        meta_result_set(r, -ENOENT, "there is no node.%u", c->node);
        return;
    }
    if (s->cluster.osd_last >= META_OSDS_MAX) {
        meta_result_set(r, -ENOSPC, "a cluster has at most %d OSDs", META_OSDS_MAX);
        return;
    }
    memset(&o, 0, sizeof(o));
    o.id = ++s->cluster.osd_last;
    o.node = c->node;
    o.size = c->size;
    o.weight = weight_of(c->size);
    memcpy(o.uuid, c->uuid, sizeof(o.uuid));
    state_osd_put(s, &o);
    r->id = o.id;
}

/*
 * The same incarnation again: a retry, or an OSD that was silent for a while and taken for down. It
 * may go on, having forgotten nothing, unless it was declared dead: then its leases count as void.
 */
static void osd_up_again(struct meta_state *s, const struct meta_command *c, struct map_osd *o,
                         struct meta_result *r)
{
    if (o->dead_incarnation >= c->incarnation || o->node != c->node) {
        meta_result_set(r, -ESTALE, "osd.%u was started as incarnation %u already, which is gone",
                        c->osd, o->incarnation);
        return;
    }
    if (o->up)
        return;
    o->up = true;
    state_osd_put(s, o);
    apply_primary_found(s, c->osd);
    apply_default_pool(s);
}

/*
 * R3, R4, S12: a new incarnation is above the last. The one before is dead by that: a store is
 * open in one process at a time, and its boot number rose.
 */
void apply_osd_up(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    struct state_node n;
    struct map_osd o;

    if (!state_osd_get(s, c->osd, &o)) {
        meta_result_set(r, -ENOENT, "there is no osd.%u", c->osd);
        return;
    }
    if (!state_node_get(s, c->node, &n)) {
        meta_result_set(r, -ENOENT, "there is no node.%u", c->node);
        return;
    }
    if (o.failed) {
        meta_result_set(r, -EIO, "the device of osd.%u failed: add a new one in its place", c->osd);
        return;
    }
    if (c->incarnation == o.incarnation && c->incarnation != 0) {
        osd_up_again(s, c, &o, r);
        return;
    }
    if (c->incarnation < o.incarnation || c->incarnation == 0) {
        meta_result_set(r, -ESTALE, "osd.%u was started as incarnation %u already", c->osd,
                        o.incarnation);
        return;
    }
    o.dead_incarnation = o.incarnation;
    o.incarnation = c->incarnation;
    o.node = c->node;
    o.up = true;
    o.size = c->size;
    o.weight = weight_of(c->size);
    state_osd_put(s, &o);
    apply_primary_found(s, c->osd);
    apply_default_pool(s);
}

/* All are marked before any PG looks for another primary. What is about an older life, or known
 * already, changes nothing. */
void apply_osd_down(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    struct map_osd o;
    uint32_t lost[META_LIST_MAX];
    uint32_t lost_count = 0;

    if (c->list_count == 0) {
        meta_result_set(r, -EINVAL, "no OSD is named");
        return;
    }
    for (uint32_t i = 0; i < c->list_count; i++) {
        const struct meta_osd_state *down = &c->osds[i];

        if (!state_osd_get(s, down->osd, &o) || o.incarnation != down->incarnation)
            continue;
        bool dead = down->dead && o.dead_incarnation < o.incarnation;
        if (!o.up && !dead)
            continue;
        if (o.up)
            lost[lost_count++] = o.id;
        o.up = false;
        if (dead)
            o.dead_incarnation = o.incarnation;
        state_osd_put(s, &o);
        r->id++;
    }
    for (uint32_t i = 0; i < lost_count; i++)
        apply_primary_lost(s, lost[i]);
}

void apply_osd_failed(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    struct map_osd o;

    if (!state_osd_get(s, c->osd, &o)) {
        meta_result_set(r, -ENOENT, "there is no osd.%u", c->osd);
        return;
    }
    if (c->incarnation != o.incarnation) {
        meta_result_set(r, -ESTALE, "osd.%u is at incarnation %u", c->osd, o.incarnation);
        return;
    }
    if (o.failed)
        return;
    bool was_up = o.up;
    o.failed = true;
    o.up = false;
    state_osd_put(s, &o);
    if (was_up)
        apply_primary_lost(s, c->osd);
}
