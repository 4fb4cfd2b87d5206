/*
 * Commands about PGs: the part of DESIGN.md section 7 that Raft decides. The conditions are the
 * ones of the executable model's Meta; every change is by compare-and-set on the epoch, and what
 * does not fit is skipped, because its sender acted on a state that is gone.
 *
 * What holds of every PG between commands is checked where the row is written (state_rows.c): the
 * primary is in S, an active PG has one, no member of S has a stale row. Besides, a primary is up:
 * whatever takes an OSD down gives its PGs another in the same command.
 */

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "meta/state_impl.h"

/* ---- Choosing a primary ---- */

static struct state_candidate *candidate(struct meta_state *s, uint32_t osd)
{
    if (s->candidates.items == NULL)
        s->candidates.items = state_candidates_load(s, &s->candidates.count);
    check(osd < s->candidates.count);
    return &s->candidates.items[osd];
}

/* Fewer PGs led for its weight; equals by id. */
static bool leads_less(const struct state_candidate *a, const struct state_candidate *b)
{
    return (uint64_t)a->primaries * b->weight < (uint64_t)b->primaries * a->weight;
}

/* A member of S that is up, another than `avoid` if there is one; 0: nobody is up. */
static uint32_t pick_primary(struct meta_state *s, const struct map_pg *g, uint32_t avoid)
{
    uint32_t best = 0;
    bool avoid_is_up = false;

    for (uint8_t i = 0; i < g->set_count; i++) {
        uint32_t osd = g->set[i];
        if (!candidate(s, osd)->up)
            continue;
        if (osd == avoid)
            avoid_is_up = true;
        else if (best == 0 || leads_less(candidate(s, osd), candidate(s, best)))
            best = osd;
    }
    return best != 0 || !avoid_is_up ? best : avoid;
}

static void bump(struct map_pg *g)
{
    check(g->epoch < UINT32_MAX);
    g->epoch++;
}

/* A new epoch under another primary, who has to activate it. S stays. */
static void give_primary(struct meta_state *s, struct map_pg *g, uint32_t primary)
{
    if (g->primary != 0)
        candidate(s, g->primary)->primaries--;
    if (primary != 0)
        candidate(s, primary)->primaries++;
    bump(g);
    g->primary = primary;
    g->active = false;
}

static void repick_all(struct meta_state *s, uint32_t led_by, uint32_t avoid, uint32_t member)
{
    uint32_t count;
    uint64_t *ids = state_pgs_of_primary(s, led_by, &count);

    for (uint32_t i = 0; i < count; i++) {
        struct map_pg g;
        bool found = state_pg_get(s, ids[i], &g), concerned = member == 0;
        check(found);
        for (uint8_t k = 0; k < g.set_count; k++)
            concerned |= g.set[k] == member;
        if (!concerned)
            continue;
        give_primary(s, &g, pick_primary(s, &g, avoid));
        state_pg_put(s, &g);
    }
    free(ids);
}

void apply_primary_lost(struct meta_state *s, uint32_t osd)
{
    free(s->candidates.items); /* `up` has changed since */
    s->candidates.items = NULL;
    repick_all(s, osd, osd, 0);
}

void apply_primary_found(struct meta_state *s, uint32_t osd)
{
    free(s->candidates.items);
    s->candidates.items = NULL;
    repick_all(s, osd, osd, 0);
    repick_all(s, 0, 0, osd);
}

/* ---- Sets and stale rows ---- */

static bool has(const uint32_t *ids, uint8_t count, uint32_t id)
{
    for (uint8_t i = 0; i < count; i++) {
        if (ids[i] == id)
            return true;
    }
    return false;
}

static bool is_distinct(const uint32_t *ids, uint8_t count)
{
    for (uint8_t i = 0; i < count; i++) {
        if (ids[i] == 0 || has(ids, i, ids[i]))
            return false;
    }
    return true;
}

static void stale_remove(struct map_pg *g, uint32_t osd)
{
    uint8_t kept = 0;

    for (uint8_t i = 0; i < g->stale_count; i++) {
        if (g->stale[i].osd != osd)
            g->stale[kept++] = g->stale[i];
    }
    memset(&g->stale[kept], 0, (size_t)(g->stale_count - kept) * sizeof(g->stale[0]));
    g->stale_count = kept;
}

/* No row means a full comparison, which is always right; so when there is no room, the one that
 * says least goes. */
static void stale_put(struct map_pg *g, uint32_t osd, uint64_t version)
{
    stale_remove(g, osd);
    if (g->stale_count == META_STALE_MAX) {
        uint8_t oldest = 0;
        for (uint8_t i = 1; i < g->stale_count; i++) {
            if (g->stale[i].version < g->stale[oldest].version)
                oldest = i;
        }
        stale_remove(g, g->stale[oldest].osd);
    }
    g->stale[g->stale_count++] = (struct map_stale){osd, version};
}

static int compare_ids(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/*
 * S becomes `set`. Who leaves gets a row: the stable version its primary knew while it was in
 * `need`, and never less than (activated, 0), which everybody knows. Who is in has none.
 */
static void set_members(struct map_pg *g, const uint32_t *set, uint8_t count, uint64_t version)
{
    uint64_t least = (uint64_t)g->activated << 32;

    for (uint8_t i = 0; i < g->set_count; i++) {
        if (!has(set, count, g->set[i]))
            stale_put(g, g->set[i], version > least ? version : least);
    }
    for (uint8_t i = 0; i < count; i++)
        stale_remove(g, set[i]);
    memset(g->set, 0, sizeof(g->set));
    memcpy(g->set, set, count * sizeof(set[0]));
    g->set_count = count;
    qsort(g->set, count, sizeof(g->set[0]), compare_ids);
}

/* ---- Conditions ---- */

/* The sender is the primary of this epoch, in its present life. */
static bool is_from_primary(struct meta_state *s, const struct map_pg *g,
                            const struct meta_pg_change *c)
{
    struct map_osd o;

    return c->epoch == g->epoch && g->primary != 0 && c->primary == g->primary &&
           state_osd_get(s, g->primary, &o) && o.up && o.incarnation == c->primary_incarnation;
}

static bool set_is_large_enough(struct meta_state *s, const struct map_pg *g, uint8_t count)
{
    struct map_pool p;
    bool found = state_pool_get(s, (uint32_t)(g->id >> 32), &p);

    check(found);
    return count >= p.min_size;
}

static bool activate_fits(struct meta_state *s, const struct map_pg *g,
                          const struct meta_pg_change *c)
{
    if (!is_from_primary(s, g, c) || g->active)
        return false;
    if (!is_distinct(c->set, c->set_count) || !is_distinct(c->joiners, c->joiners_count))
        return false;
    if (!has(c->set, c->set_count, g->primary) || has(c->joiners, c->joiners_count, g->primary))
        return false;
    for (uint8_t i = 0; i < c->joiners_count; i++) {
        struct map_osd o;
        if (!has(c->set, c->set_count, c->joiners[i]) || !state_osd_get(s, c->joiners[i], &o))
            return false;
    }
    for (uint8_t i = 0; i < c->set_count; i++) {
        if (!has(c->joiners, c->joiners_count, c->set[i]) && !has(g->set, g->set_count, c->set[i]))
            return false;
    }
    return set_is_large_enough(s, g, c->set_count);
}

static bool shrink_fits(struct meta_state *s, const struct map_pg *g,
                        const struct meta_pg_change *c)
{
    if (!is_from_primary(s, g, c) || !g->active)
        return false;
    if (!is_distinct(c->set, c->set_count) || c->joiners_count > 0)
        return false;
    if (!has(c->set, c->set_count, g->primary))
        return false;
    for (uint8_t i = 0; i < c->set_count; i++) {
        if (!has(g->set, g->set_count, c->set[i]))
            return false;
    }
    return set_is_large_enough(s, g, c->set_count);
}

static bool grow_fits(struct meta_state *s, const struct map_pg *g, const struct meta_pg_change *c)
{
    struct map_osd o;

    if (!is_from_primary(s, g, c) || !g->active || c->set_count != 1)
        return false;
    if (has(g->set, g->set_count, c->set[0]) || g->set_count == META_REPLICAS_MAX)
        return false;
    return state_osd_get(s, c->set[0], &o) && o.up && o.incarnation == c->osd_incarnation;
}

/* ---- The changes ---- */

static bool pg_activate(struct meta_state *s, struct map_pg *g, const struct meta_pg_change *c)
{
    if (!activate_fits(s, g, c))
        return false;
    set_members(g, c->set, c->set_count, c->version);
    g->activated = g->epoch;
    g->active = true;
    return true;
}

static bool pg_shrink(struct meta_state *s, struct map_pg *g, const struct meta_pg_change *c)
{
    if (!shrink_fits(s, g, c))
        return false;
    set_members(g, c->set, c->set_count, c->version);
    bump(g);
    return true;
}

static bool pg_grow(struct meta_state *s, struct map_pg *g, const struct meta_pg_change *c)
{
    uint32_t set[META_REPLICAS_MAX];

    if (!grow_fits(s, g, c))
        return false;
    memcpy(set, g->set, sizeof(set));
    set[g->set_count] = c->set[0];
    set_members(g, set, (uint8_t)(g->set_count + 1), 0);
    bump(g);
    return true;
}

static bool pg_rotate(struct meta_state *s, struct map_pg *g, const struct meta_pg_change *c)
{
    if (!is_from_primary(s, g, c) || g->active)
        return false;
    give_primary(s, g, pick_primary(s, g, g->primary));
    return true;
}

static bool pg_switch(struct meta_state *s, struct map_pg *g, const struct meta_pg_change *c)
{
    if (c->epoch != g->epoch || c->primary != g->primary || c->set_count != 1)
        return false;
    if (c->set[0] == g->primary || !has(g->set, g->set_count, c->set[0]) ||
        !candidate(s, c->set[0])->up)
        return false;
    give_primary(s, g, c->set[0]);
    return true;
}

static bool pg_forget_stale(struct map_pg *g, const struct meta_pg_change *c)
{
    uint8_t before = g->stale_count;

    if (c->epoch != g->epoch || c->set_count != 1)
        return false;
    stale_remove(g, c->set[0]);
    return g->stale_count < before;
}

static bool pg_change(struct meta_state *s, struct map_pg *g, const struct meta_pg_change *c)
{
    switch (c->kind) {
    case META_PG_ACTIVATE:
        return pg_activate(s, g, c);
    case META_PG_SHRINK:
        return pg_shrink(s, g, c);
    case META_PG_GROW:
        return pg_grow(s, g, c);
    case META_PG_ROTATE:
        return pg_rotate(s, g, c);
    case META_PG_SWITCH:
        return pg_switch(s, g, c);
    case META_PG_FORGET_STALE:
        return pg_forget_stale(g, c);
    }
    return false;
}

/* The result's id counts the changes that fitted. */
void apply_pg_change(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    if (c->list_count == 0) {
        meta_result_set(r, -EINVAL, "no change is named");
        return;
    }
    for (uint32_t i = 0; i < c->list_count; i++) {
        struct map_pg g;
        if (!state_pg_get(s, c->changes[i].pg, &g) || !pg_change(s, &g, &c->changes[i]))
            continue;
        state_pg_put(s, &g);
        r->id++;
    }
}

static bool target_fits(struct meta_state *s, const struct meta_pg_target *t)
{
    struct map_osd o;

    if (t->count == 0 || !is_distinct(t->osds, t->count))
        return false;
    for (uint8_t i = 0; i < t->count; i++) {
        if (!state_osd_get(s, t->osds[i], &o))
            return false;
    }
    return true;
}

/* A target is a wish: S follows by GROW and SHRINK, when the data has moved. */
void apply_pg_target(struct meta_state *s, const struct meta_command *c, struct meta_result *r)
{
    if (c->list_count == 0) {
        meta_result_set(r, -EINVAL, "no target is named");
        return;
    }
    for (uint32_t i = 0; i < c->list_count; i++) {
        const struct meta_pg_target *t = &c->targets[i];
        struct map_pg g;
        if (!state_pg_get(s, t->pg, &g) || !target_fits(s, t))
            continue;
        if (g.target_count == t->count &&
            memcmp(g.target, t->osds, t->count * sizeof(t->osds[0])) == 0)
            continue;
        memset(g.target, 0, sizeof(g.target));
        memcpy(g.target, t->osds, t->count * sizeof(t->osds[0]));
        g.target_count = t->count;
        state_pg_put(s, &g);
        r->id++;
    }
}
