#include "meta/duties.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"
#include "base/prng.h"
#include "meta/placement.h"
#include "meta/state.h"

static const uint64_t ns_tick = 100 * NS_PER_MS;
static const uint64_t ns_refusal_gap =
    15 * NS_PER_MS; /* the second refusal is not the first's echo */
static const uint64_t ns_refusal_retry = 20 * NS_PER_MS; /* when it is asked for */
static const uint64_t ns_refusal_memory = 2 * NS_PER_S;
static const uint64_t ns_pause = 1 * NS_PER_S; /* we did not run for so long: nobody is to blame */
static const uint64_t ns_placement_settle = 1 * NS_PER_S;
static const uint64_t ns_scan = 500 * NS_PER_MS; /* all PGs and OSDs are looked at */
static const uint64_t ns_quiet = 10 * NS_PER_S;  /* then primaries may be handed over */
static const uint64_t ns_switch_pause = 1 * NS_PER_S;
static const uint64_t ns_switch_gap = 10 * NS_PER_S; /* of one PG */
static const uint64_t ns_out = 600 * NS_PER_S;       /* down for so long: placed elsewhere */
static const uint64_t ns_forget = 3600 * NS_PER_S;

void duties_init(struct duties *d, uint32_t self, uint32_t down_after_ms, uint32_t voter_dead_ms)
{
    *d = (struct duties){.self = self,
                         .down_after_ns = down_after_ms * NS_PER_MS,
                         .voter_dead_ns = voter_dead_ms * NS_PER_MS};
}

void duties_deinit(struct duties *d)
{
    free(d->nodes);
    free(d->osds);
    free(d->targets);
    free(d->members);
}

void duties_lead(struct duties *d, bool leading)
{
    struct duties kept = {.self = d->self,
                          .down_after_ns = d->down_after_ns,
                          .voter_dead_ns = d->voter_dead_ns,
                          .leading = leading};

    duties_deinit(d);
    *d = kept;
}

/* ---- Memory of nodes and OSDs ---- */

static struct duty_node *node_at(struct duties *d, uint32_t id)
{
    if (id > META_NODES_MAX)
        return NULL;
    if (id >= d->nodes_size) {
        uint32_t size = d->nodes_size == 0 ? 16 : d->nodes_size;
        while (size <= id)
            size *= 2;
        d->nodes = mem_realloc(d->nodes, size * sizeof(*d->nodes));
        memset(d->nodes + d->nodes_size, 0, (size - d->nodes_size) * sizeof(*d->nodes));
        d->nodes_size = size;
    }
    return &d->nodes[id];
}

static struct duty_osd *osd_at(struct duties *d, uint32_t id)
{
    if (id > META_OSDS_MAX)
        return NULL;
    if (id >= d->osds_size) {
        uint32_t size = d->osds_size == 0 ? 16 : d->osds_size;
        while (size <= id)
            size *= 2;
        d->osds = mem_realloc(d->osds, size * sizeof(*d->osds));
        memset(d->osds + d->osds_size, 0, (size - d->osds_size) * sizeof(*d->osds));
        d->osds_size = size;
    }
    return &d->osds[id];
}

/* ---- Reports ---- */

void duties_heartbeat(struct duties *d, uint64_t now, const struct map *map, uint32_t node,
                      uint32_t incarnation, const struct meta_osd_state *osds, uint32_t count)
{
    const struct map_node *known = map_node(map, node);
    struct duty_node *n = node_at(d, node);

    if (!d->leading || n == NULL || known == NULL || incarnation < known->incarnation)
        return;
    n->alive = true;
    n->seen_ns = now;
    for (uint32_t i = 0; i < count; i++) {
        struct duty_osd *o = osd_at(d, osds[i].osd);
        if (o != NULL && o->incarnation == osds[i].incarnation)
            o->seen_ns = now;
    }
}

void duties_peer_up(struct duties *d, uint32_t node)
{
    struct duty_node *n = node_at(d, node);

    if (n == NULL)
        return;
    n->refused_ns = 0;
    n->refused_now = false;
    n->gone = false;
}

void duties_peer_lost(struct duties *d, uint64_t now, uint32_t node, int why)
{
    struct duty_node *n = node_at(d, node);

    if (!d->leading || n == NULL || why != -ECONNREFUSED)
        return;
    if (n->refused_ns == 0 || now - n->refused_ns > ns_refusal_memory) {
        n->refused_ns = now;
        n->refused_now = true;
        n->gone = false;
    } else if (!n->refused_now && now - n->refused_ns >= ns_refusal_gap) {
        n->gone = true;
        n->refused_ns = now;
    }
}

void duties_report(struct duties *d, uint32_t osd, uint32_t incarnation, bool refused)
{
    struct duty_osd *o = osd_at(d, osd);

    if (!d->leading || o == NULL || !refused)
        return;
    if (incarnation > o->reported_incarnation)
        o->reported_incarnation = incarnation;
}

bool duties_node_is_alive(const struct duties *d, uint32_t node, uint64_t now)
{
    if (!d->leading || node >= d->nodes_size)
        return false;
    return d->nodes[node].alive && now - d->nodes[node].seen_ns <= d->down_after_ns;
}

/* ---- Who is down ---- */

static uint64_t later(uint64_t seen, uint64_t by, uint64_t now)
{
    if (seen == 0)
        return 0;
    return seen + by < now ? seen + by : now;
}

/* Our clock ran on while we did not: what came meanwhile is still in the sockets. */
static void forgive_pause(struct duties *d, uint64_t now)
{
    uint64_t gap = d->last_run_ns == 0 ? 0 : now - d->last_run_ns;

    d->last_run_ns = now;
    if (gap < ns_pause)
        return;
    for (uint32_t i = 0; i < d->nodes_size; i++)
        d->nodes[i].seen_ns = later(d->nodes[i].seen_ns, gap, now);
    for (uint32_t i = 0; i < d->osds_size; i++)
        d->osds[i].seen_ns = later(d->osds[i].seen_ns, gap, now);
}

static void note_nodes(struct duties *d, uint64_t now, const struct map *map)
{
    for (uint32_t i = 0; i < map->nodes_count; i++) {
        struct duty_node *n = node_at(d, map->nodes[i].id);
        if (n != NULL && n->seen_ns == 0)
            n->seen_ns = now;
    }
}

/* What the map says of each OSD now: a new life gets a full period; what was registered when its
 * node first refused is what a second refusal is about. */
static void note_osds(struct duties *d, uint64_t now, const struct map *map)
{
    for (uint32_t i = 0; i < map->osds_count; i++) {
        const struct map_osd *m = &map->osds[i];
        struct duty_osd *o = osd_at(d, m->id);
        struct duty_node *n = node_at(d, m->node);

        if (o == NULL || n == NULL)
            continue;
        if (o->incarnation != m->incarnation || o->seen_ns == 0) {
            o->incarnation = m->incarnation;
            o->seen_ns = now;
        }
        if (m->up)
            o->down_since_ns = 0;
        else if (o->down_since_ns == 0)
            o->down_since_ns = now;
        if (n->refused_now)
            o->refused_incarnation = m->incarnation;
    }
    for (uint32_t i = 0; i < d->nodes_size; i++)
        d->nodes[i].refused_now = false;
}

static void run_down(struct duties *d, uint64_t now, const struct map *map, struct duties_out *out)
{
    for (uint32_t i = 0; i < map->osds_count && out->down_count < DUTIES_DOWN_MAX; i++) {
        const struct map_osd *m = &map->osds[i];
        struct duty_osd *o = osd_at(d, m->id);
        struct duty_node *n = node_at(d, m->node);

        if (o == NULL || n == NULL || m->incarnation == 0)
            continue;
        bool dead = (n->gone && o->refused_incarnation == m->incarnation) ||
                    o->reported_incarnation == m->incarnation;
        bool silent = m->up && now - o->seen_ns > d->down_after_ns;
        if (silent || (dead && (m->up || m->dead_incarnation < m->incarnation)))
            out->down[out->down_count++] = (struct meta_osd_state){m->id, m->incarnation, dead};
    }
}

static void run_refusals(struct duties *d, uint64_t now, struct duties_out *out)
{
    for (uint32_t i = 0; i < d->nodes_size; i++) {
        const struct duty_node *n = &d->nodes[i];
        if (n->refused_ns == 0 || n->gone || now - n->refused_ns > ns_refusal_memory)
            continue;
        if (now - n->refused_ns >= ns_refusal_retry)
            out->kick = true;
        if (n->refused_ns + ns_refusal_retry < out->next_ns)
            out->next_ns = now < n->refused_ns + ns_refusal_retry ? n->refused_ns + ns_refusal_retry
                                                                  : now + ns_refusal_retry;
    }
}

/* ---- Placement ---- */

/* May hold data: it works, and was up not too long ago. */
static bool is_usable(struct duties *d, uint64_t now, const struct map_osd *m)
{
    const struct duty_osd *o = osd_at(d, m->id);

    if (m->failed || m->incarnation == 0 || o == NULL)
        return false;
    return m->up || now - o->down_since_ns < ns_out;
}

static struct placement_osd *placement_osds(struct duties *d, uint64_t now, const struct map *map)
{
    struct placement_osd *osds = mem_zalloc((map->osds_count + 1) * sizeof(*osds));
    uint32_t *locations = map_locations(map);

    for (uint32_t i = 0; i < map->osds_count; i++) {
        const struct map_osd *m = &map->osds[i];
        const struct map_node *n = map_node(map, m->node);
        bool usable = is_usable(d, now, m);
        osds[i] = (struct placement_osd){m->id, n == NULL ? UINT32_MAX : locations[n - map->nodes],
                                         usable && n != NULL ? m->weight : 0};
    }
    free(locations);
    return osds;
}

static uint64_t signature_of(const struct placement_osd *osds, const struct map *map)
{
    uint64_t h = mix64(map->osds_count);

    for (uint32_t i = 0; i < map->osds_count; i++) {
        h = mix64(h ^ osds[i].id);
        h = mix64(h ^ ((uint64_t)osds[i].domain << 32 | osds[i].weight));
    }
    for (uint32_t i = 0; i < map->pools_count; i++) {
        h = mix64(h ^ map->pools[i].id);
        h = mix64(h ^ ((uint64_t)map->pools[i].replicas << 32 | map->pools[i].pg_count));
    }
    return h;
}

/* PGs of a pool lie together in the map, by number. */
static void place_pool(const struct placement_osd *osds, const struct map *map,
                       const struct map_pool *pool, struct meta_pg_target *targets,
                       const struct map_pg *pgs, uint32_t count)
{
    struct placement_pg *work = mem_zalloc((count + 1) * sizeof(*work));

    for (uint32_t i = 0; i < count; i++) {
        work[i].id = pgs[i].id;
        work[i].count = pgs[i].target_count;
        memcpy(work[i].osds, pgs[i].target, sizeof(work[i].osds));
    }
    placement_run(osds, map->osds_count, work, count, (uint8_t)pool->replicas);
    for (uint32_t i = 0; i < count; i++) {
        targets[i].pg = work[i].id;
        targets[i].count = work[i].count;
        memcpy(targets[i].osds, work[i].osds, sizeof(targets[i].osds));
    }
    free(work);
}

static void place_all(struct duties *d, const struct placement_osd *osds, const struct map *map)
{
    free(d->targets);
    d->targets = mem_zalloc((map->pgs_count + 1) * sizeof(*d->targets));
    d->targets_count = map->pgs_count;
    for (uint32_t i = 0; i < map->pgs_count;) {
        uint32_t pool_id = (uint32_t)(map->pgs[i].id >> 32), end = i;
        const struct map_pool *pool = map_pool(map, pool_id);

        while (end < map->pgs_count && map->pgs[end].id >> 32 == pool_id)
            end++;
        if (pool != NULL)
            place_pool(osds, map, pool, d->targets + i, map->pgs + i, end - i);
        i = end;
    }
}

static void list_targets(struct duties *d, const struct map *map, struct duties_out *out)
{
    for (uint32_t i = 0; i < d->targets_count && out->targets_count < DUTIES_TARGETS_MAX; i++) {
        const struct meta_pg_target *t = &d->targets[i];
        const struct map_pg *g = map_pg(map, t->pg);

        if (g == NULL || t->count == 0)
            continue;
        if (g->target_count == t->count &&
            memcmp(g->target, t->osds, t->count * sizeof(t->osds[0])) == 0)
            continue;
        out->targets[out->targets_count++] = *t;
    }
}

static void run_placement(struct duties *d, uint64_t now, const struct map *map,
                          struct duties_out *out)
{
    struct placement_osd *osds = placement_osds(d, now, map);
    uint64_t signature = signature_of(osds, map);

    if (signature != d->signature || d->signature_ns == 0) {
        d->signature = signature;
        d->signature_ns = now;
        d->placed = false;
    }
    if (!d->placed && map->pgs_count > 0 && now - d->signature_ns >= ns_placement_settle) {
        place_all(d, osds, map);
        d->placed = true;
    }
    if (d->placed)
        list_targets(d, map, out);
    free(osds);
}

/* ---- Primaries ---- */

static bool has(const uint32_t *ids, uint8_t count, uint32_t id)
{
    for (uint8_t i = 0; i < count; i++) {
        if (ids[i] == id)
            return true;
    }
    return false;
}

/* It is on the OSDs it should be on, and not on its way there. */
static bool is_home(const struct map_pg *g)
{
    if (g->target_count == 0 || g->set_count != g->target_count)
        return false;
    for (uint8_t i = 0; i < g->target_count; i++) {
        if (!has(g->set, g->set_count, g->target[i]))
            return false;
    }
    return true;
}

/* Every PG serves and has all its copies, up. */
static bool is_all_complete(const struct map *map)
{
    for (uint32_t i = 0; i < map->pgs_count; i++) {
        const struct map_pg *g = &map->pgs[i];
        const struct map_pool *pool = map_pool(map, (uint32_t)(g->id >> 32));

        if (!g->active || pool == NULL || g->set_count < pool->replicas)
            return false;
        for (uint8_t k = 0; k < g->set_count; k++) {
            const struct map_osd *o = map_osd(map, g->set[k]);
            if (o == NULL || !o->up)
                return false;
        }
    }
    return true;
}

/* Changes with all that a hand-over does not change. */
static uint64_t unrest_of(const struct map *map)
{
    uint64_t h = mix64(map->pgs_count);

    for (uint32_t i = 0; i < map->osds_count; i++) {
        h = mix64(h ^ map->osds[i].id);
        h = mix64(h ^ ((uint64_t)map->osds[i].incarnation << 1 | map->osds[i].up));
    }
    for (uint32_t i = 0; i < map->pgs_count; i++) {
        const struct map_pg *g = &map->pgs[i];
        for (uint8_t k = 0; k < g->set_count; k++)
            h = mix64(h ^ g->set[k]);
        for (uint8_t k = 0; k < g->target_count; k++)
            h = mix64(h ^ g->target[k]);
    }
    return h;
}

static bool was_switched(const struct duties *d, uint64_t pg, uint64_t now)
{
    for (uint32_t i = 0; i < DUTIES_RECENT; i++) {
        const struct duty_switch *s = &d->recent[i];
        if (s->at_ns != 0 && s->pg == pg && now - s->at_ns < ns_switch_gap)
            return true;
    }
    return false;
}

/* PGs that an OSD leads, and those that want it first. */
struct lead {
    uint32_t led, home;
};

static bool may_lead(const struct duties *d, const struct map *map, const struct map_pg *g,
                     uint32_t osd)
{
    const struct map_osd *o = map_osd(map, osd);
    return osd != g->primary && osd < d->osds_size && o != NULL && o->up && !o->failed &&
           has(g->set, g->set_count, osd);
}

static bool leads_too_few(const struct lead *leads, uint32_t osd)
{
    return leads[osd].led < leads[osd].home;
}

/* In this order. The first two bring the counts nearer to what is wanted, and the last a PG home
 * without leading further away from it: so it ends. */
enum switch_to {
    SWITCH_HOME,   /* to whom the target names first, who leads too few */
    SWITCH_ANY,    /* to another member that leads too few */
    SWITCH_DETOUR, /* to whom the target names first, who can then pass one on */
    SWITCH_LAST = SWITCH_DETOUR
};

/* 0: the primary stays. */
static uint32_t better_primary(const struct duties *d, const struct map *map,
                               const struct lead *leads, const struct map_pg *g,
                               enum switch_to whom)
{
    uint32_t home = g->target[0];

    if (g->primary >= d->osds_size || g->primary == home ||
        leads[g->primary].led <= leads[g->primary].home)
        return 0;
    if (whom != SWITCH_ANY)
        return may_lead(d, map, g, home) && (whom == SWITCH_DETOUR || leads_too_few(leads, home))
                   ? home
                   : 0;
    for (uint8_t i = 0; i < g->set_count; i++) {
        if (may_lead(d, map, g, g->set[i]) && leads_too_few(leads, g->set[i]))
            return g->set[i];
    }
    return 0;
}

static struct lead *count_leads(const struct duties *d, const struct map *map)
{
    struct lead *leads = mem_zalloc((d->osds_size + 1) * sizeof(*leads));

    for (uint32_t i = 0; i < map->pgs_count; i++) {
        const struct map_pg *g = &map->pgs[i];
        if (g->primary < d->osds_size)
            leads[g->primary].led++;
        if (g->target_count > 0 && g->target[0] < d->osds_size)
            leads[g->target[0]].home++;
    }
    return leads;
}

static uint32_t list_switches(struct duties *d, uint64_t now, const struct map *map,
                              enum switch_to whom, struct duties_out *out)
{
    struct lead *leads = count_leads(d, map);
    uint32_t switches = 0;

    for (uint32_t i = 0; i < map->pgs_count && switches < DUTIES_SWITCHES; i++) {
        const struct map_pg *g = &map->pgs[i];
        uint32_t to = is_home(g) ? better_primary(d, map, leads, g, whom) : 0;

        if (to == 0 || was_switched(d, g->id, now))
            continue;
        out->changes[out->changes_count++] = (struct meta_pg_change){.kind = META_PG_SWITCH,
                                                                     .pg = g->id,
                                                                     .epoch = g->epoch,
                                                                     .primary = g->primary,
                                                                     .set_count = 1,
                                                                     .set = {to}};
        d->recent[d->recent_next++ % DUTIES_RECENT] = (struct duty_switch){g->id, now};
        leads[g->primary].led--;
        leads[to].led++;
        switches++;
    }
    free(leads);
    return switches;
}

/* Nothing has changed for a while but what we switched, and all of that serves again. */
static void run_primaries(struct duties *d, uint64_t now, const struct map *map,
                          struct duties_out *out)
{
    uint64_t unrest = unrest_of(map);

    if (unrest != d->unrest || d->quiet_ns == 0) {
        d->unrest = unrest;
        d->quiet_ns = now;
    }
    if (now - d->quiet_ns < ns_quiet || now - d->switched_ns < ns_switch_pause || d->changes_busy ||
        !is_all_complete(map))
        return;
    for (int whom = SWITCH_HOME; whom <= SWITCH_LAST; whom++) {
        if (list_switches(d, now, map, (enum switch_to)whom, out) == 0)
            continue;
        d->switched_ns = now;
        return;
    }
}

/* ---- Stale rows ---- */

/* Whoever is not to be recovered holds up the removal of tombstones for nothing. */
static bool is_forgettable(struct duties *d, uint64_t now, const struct map *map,
                           const struct map_pg *g, uint32_t osd)
{
    const struct map_osd *m = map_osd(map, osd);
    const struct duty_osd *o = osd_at(d, osd);

    if (m == NULL || m->failed || o == NULL)
        return true;
    if (!m->up)
        return now - o->down_since_ns >= ns_forget;
    return !has(g->target, g->target_count, osd);
}

static void list_forgets(struct duties *d, uint64_t now, const struct map *map,
                         struct duties_out *out)
{
    for (uint32_t i = 0; i < map->pgs_count; i++) {
        const struct map_pg *g = &map->pgs[i];

        if (!g->active)
            continue;
        for (uint8_t k = 0; k < g->stale_count; k++) {
            if (out->changes_count == DUTIES_CHANGES_MAX)
                return;
            if (!is_forgettable(d, now, map, g, g->stale[k].osd))
                continue;
            out->changes[out->changes_count++] =
                (struct meta_pg_change){.kind = META_PG_FORGET_STALE,
                                        .pg = g->id,
                                        .epoch = g->epoch,
                                        .primary = g->primary,
                                        .set_count = 1,
                                        .set = {g->stale[k].osd}};
        }
    }
}

/* ---- Members of the Raft group ---- */

/* Place of a node among `members`, which is given it if it is new. */
static struct members_node *member_at(struct duties *d, uint32_t *count, uint32_t id)
{
    for (uint32_t i = 0; i < *count; i++) {
        if (d->members[i].id == id)
            return &d->members[i];
    }
    d->members[*count] = (struct members_node){.id = id, .location = UINT32_MAX};
    return &d->members[(*count)++];
}

/* Nodes that have never started may never do; members that the map does not show yet are there
 * (the first node, before it has added itself). */
static uint32_t note_members(struct duties *d, uint64_t now, const struct map *map,
                             const struct raft_core_status *raft)
{
    uint32_t *locations = map_locations(map), count = 0;

    free(d->members);
    d->members = mem_zalloc((map->nodes_count + RAFT_SERVERS_MAX + 1) * sizeof(*d->members));
    for (uint32_t i = 0; i < map->nodes_count; i++) {
        if (map->nodes[i].incarnation > 0)
            d->members[count++] =
                (struct members_node){.id = map->nodes[i].id, .location = locations[i]};
    }
    for (uint32_t i = 0; i < raft->members_count; i++) {
        struct members_node *m = member_at(d, &count, raft->members[i].id);
        m->member = true;
        m->role = raft->members[i].role;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct members_node *m = &d->members[i];
        const struct duty_node *n = node_at(d, m->id);
        m->alive = m->id == d->self || duties_node_is_alive(d, m->id, now);
        m->dead = !m->alive && n != NULL && n->seen_ns != 0 && now - n->seen_ns > d->voter_dead_ns;
    }
    free(locations);
    return count;
}

static void run_members(struct duties *d, uint64_t now, const struct map *map,
                        const struct raft_core_status *raft, struct duties_out *out)
{
    if (raft->members_count == 0)
        return;
    uint32_t count = note_members(d, now, map, raft);
    bool settled = now - d->reign_ns > d->voter_dead_ns;
    members_next(d->members, count, d->self, settled, &out->member);
}

void duties_run(struct duties *d, uint64_t now, const struct map *map,
                const struct raft_core_status *raft, struct duties_out *out)
{
    memset(out, 0, sizeof(*out));
    out->next_ns = now + ns_tick;
    if (!d->leading)
        return;
    if (d->reign_ns == 0)
        d->reign_ns = now;
    forgive_pause(d, now);
    note_nodes(d, now, map);
    note_osds(d, now, map);
    run_refusals(d, now, out);
    run_down(d, now, map, out);
    if (map->revision != d->scanned_revision || now - d->scanned_ns >= ns_scan) {
        d->scanned_revision = map->revision;
        d->scanned_ns = now;
        run_placement(d, now, map, out);
        run_primaries(d, now, map, out);
        if (!d->changes_busy)
            list_forgets(d, now, map, out);
    }
    run_members(d, now, map, raft, out);
}
