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
static const uint64_t ns_pool_settle = 300 * NS_PER_MS;
static const uint64_t ns_placement_settle = 1 * NS_PER_S;
static const uint64_t ns_scan = 500 * NS_PER_MS; /* all PGs and OSDs are looked at */
static const uint64_t ns_whole = 5 * NS_PER_S;
static const uint64_t ns_switch_gap = 10 * NS_PER_S; /* of one PG */
static const uint64_t ns_out = 600 * NS_PER_S;       /* down for so long: placed elsewhere */
static const uint64_t ns_forget = 3600 * NS_PER_S;
static const uint64_t ns_voter_dead = 60 * NS_PER_S;

void duties_init(struct duties *d, uint32_t self, uint32_t down_after_ms)
{
    *d = (struct duties){.self = self, .down_after_ns = down_after_ms * NS_PER_MS};
}

void duties_deinit(struct duties *d)
{
    free(d->nodes);
    free(d->osds);
    free(d->targets);
}

void duties_lead(struct duties *d, bool leading)
{
    uint32_t self = d->self;
    uint64_t down_after_ns = d->down_after_ns;

    duties_deinit(d);
    *d = (struct duties){.self = self, .down_after_ns = down_after_ns, .leading = leading};
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

/* ---- Pools and placement ---- */

/* Locations as numbers: the place of the first node that has the same one. */
static uint32_t location_of(const struct map *map, uint32_t node)
{
    const struct map_node *n = map_node(map, node);

    for (uint32_t i = 0; n != NULL && i < map->nodes_count; i++) {
        if (strcmp(map->nodes[i].location, n->location) == 0)
            return i;
    }
    return UINT32_MAX;
}

/* May hold data: it works, and was up not too long ago. */
static bool is_usable(struct duties *d, uint64_t now, const struct map_osd *m)
{
    const struct duty_osd *o = osd_at(d, m->id);

    if (m->failed || m->incarnation == 0 || o == NULL)
        return false;
    return m->up || now - o->down_since_ns < ns_out;
}

static struct placement_osd *placement_osds(struct duties *d, uint64_t now, const struct map *map,
                                            bool only_up)
{
    struct placement_osd *osds = mem_zalloc((map->osds_count + 1) * sizeof(*osds));

    for (uint32_t i = 0; i < map->osds_count; i++) {
        const struct map_osd *m = &map->osds[i];
        bool usable = only_up ? m->up : is_usable(d, now, m);
        osds[i] = (struct placement_osd){m->id, location_of(map, m->node), usable ? m->weight : 0};
    }
    return osds;
}

static void run_pool(struct duties *d, uint64_t now, const struct map *map, struct duties_out *out)
{
    bool ready = false;

    if (map->pools_count == 0 && map->default_replicas > 0) {
        struct placement_osd *osds = placement_osds(d, now, map, true);
        ready = placement_domains(osds, map->osds_count) >= map->default_replicas;
        free(osds);
    }
    if (!ready)
        d->pool_ready_ns = 0;
    else if (d->pool_ready_ns == 0)
        d->pool_ready_ns = now;
    if (!ready || now - d->pool_ready_ns < ns_pool_settle)
        return;
    out->create_pool = true;
    out->pool_replicas = map->default_replicas;
    out->pool_min_size = map->default_replicas == 1 ? 1 : 2;
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
    struct placement_osd *osds = placement_osds(d, now, map, false);
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

/* It serves, and is on the OSDs it should be on. */
static bool is_whole(const struct map_pg *g)
{
    if (!g->active || g->set_count != g->target_count)
        return false;
    for (uint8_t i = 0; i < g->target_count; i++) {
        if (!has(g->set, g->set_count, g->target[i]))
            return false;
    }
    return true;
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

static void list_switches(struct duties *d, uint64_t now, const struct map *map,
                          struct duties_out *out)
{
    uint32_t *led = mem_zalloc((d->osds_size + 1) * sizeof(*led));
    uint32_t switches = 0;

    for (uint32_t i = 0; i < map->pgs_count; i++) {
        if (map->pgs[i].primary < d->osds_size)
            led[map->pgs[i].primary]++;
    }
    for (uint32_t i = 0; i < map->pgs_count && switches < DUTIES_SWITCHES; i++) {
        const struct map_pg *g = &map->pgs[i];
        uint32_t to = g->target[0];
        const struct map_osd *o = map_osd(map, to);

        if (to == g->primary || o == NULL || !o->up || to >= d->osds_size ||
            g->primary >= d->osds_size)
            continue;
        if (led[g->primary] <= led[to] + 1 || was_switched(d, g->id, now))
            continue;
        out->changes[out->changes_count++] = (struct meta_pg_change){.kind = META_PG_SWITCH,
                                                                     .pg = g->id,
                                                                     .epoch = g->epoch,
                                                                     .primary = g->primary,
                                                                     .set_count = 1,
                                                                     .set = {to}};
        d->recent[d->recent_next++ % DUTIES_RECENT] = (struct duty_switch){g->id, now};
        led[g->primary]--;
        led[to]++;
        switches++;
    }
    free(led);
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

static void run_pgs(struct duties *d, uint64_t now, const struct map *map, struct duties_out *out)
{
    bool whole = map->pgs_count > 0;

    for (uint32_t i = 0; i < map->pgs_count && whole; i++)
        whole = is_whole(&map->pgs[i]);
    if (!whole)
        d->whole_ns = 0;
    else if (d->whole_ns == 0)
        d->whole_ns = now;
    else if (now - d->whole_ns >= ns_whole && !d->changes_busy)
        list_switches(d, now, map, out);
    if (!d->changes_busy)
        list_forgets(d, now, map, out);
}

/* ---- Members of the Raft group ---- */

/*
 * Two nodes: one voter and a standby. Two voters would stop when either dies, one stops when that
 * one dies; so the second voter comes with the third node.
 */
static uint32_t voters_wanted(uint32_t nodes)
{
    if (nodes >= 5)
        return 5;
    return nodes >= 3 ? 3 : 1;
}

enum { STANDBYS_MAX = 2 };

static const struct raft_core_member *member_of(const struct raft_core_status *raft, uint32_t id)
{
    for (uint32_t i = 0; i < raft->members_count; i++) {
        if (raft->members[i].id == id)
            return &raft->members[i];
    }
    return NULL;
}

static uint32_t members_with(const struct raft_core_status *raft, enum raft_core_role role)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < raft->members_count; i++)
        count += raft->members[i].role == role;
    return count;
}

static bool has_location(const struct raft_core_status *raft, const struct map *map,
                         enum raft_core_role role, uint32_t location)
{
    for (uint32_t i = 0; i < raft->members_count; i++) {
        if (raft->members[i].role == role && location_of(map, raft->members[i].id) == location)
            return true;
    }
    return false;
}

/* A live node that is no voter: in a new failure domain, then a standby, then by id. 0: none. */
static uint32_t best_voter(const struct duties *d, uint64_t now, const struct map *map,
                           const struct raft_core_status *raft)
{
    uint32_t best = 0;
    int best_rank = -1;

    for (uint32_t i = 0; i < map->nodes_count; i++) {
        uint32_t id = map->nodes[i].id;
        const struct raft_core_member *m = member_of(raft, id);

        if (id == d->self || !duties_node_is_alive(d, id, now) ||
            (m != NULL && m->role == RAFT_CORE_VOTER))
            continue;
        int rank = has_location(raft, map, RAFT_CORE_VOTER, location_of(map, id)) ? 0 : 2;
        rank += m != NULL;
        if (rank > best_rank) {
            best = id;
            best_rank = rank;
        }
    }
    return best;
}

static uint32_t dead_member(const struct duties *d, uint64_t now,
                            const struct raft_core_status *raft, enum raft_core_role role)
{
    for (uint32_t i = 0; i < raft->members_count; i++) {
        uint32_t id = raft->members[i].id;
        if (raft->members[i].role != role || id == d->self || id >= d->nodes_size)
            continue;
        if (d->nodes[id].seen_ns != 0 && now - d->nodes[id].seen_ns > ns_voter_dead)
            return id;
    }
    return 0;
}

/* A live node for the next free place of a standby; 0: none. */
static uint32_t best_standby(const struct duties *d, uint64_t now, const struct map *map,
                             const struct raft_core_status *raft)
{
    for (uint32_t i = 0; i < map->nodes_count; i++) {
        uint32_t id = map->nodes[i].id;
        const struct raft_core_member *m = member_of(raft, id);
        if (id != d->self && duties_node_is_alive(d, id, now) &&
            (m == NULL || m->role == RAFT_CORE_SPARE))
            return id;
    }
    return 0;
}

static void ask_member(struct duties_out *out, enum duties_member what, uint32_t id,
                       enum raft_core_role role)
{
    out->member = what;
    out->member_id = id;
    out->member_role = role;
}

static void run_members(const struct duties *d, uint64_t now, const struct map *map,
                        const struct raft_core_status *raft, struct duties_out *out)
{
    uint32_t voters = members_with(raft, RAFT_CORE_VOTER);
    uint32_t standbys = members_with(raft, RAFT_CORE_STANDBY);
    uint32_t wanted = voters_wanted(map->nodes_count);
    uint32_t dead = dead_member(d, now, raft, RAFT_CORE_VOTER);
    uint32_t next = best_voter(d, now, map, raft);
    uint32_t dead_standby = dead_member(d, now, raft, RAFT_CORE_STANDBY);
    bool room = raft->members_count < RAFT_SERVERS_MAX || (next != 0 && member_of(raft, next));

    if (raft->members_count == 0)
        return;
    if (voters > wanted && dead != 0)
        ask_member(out, DUTIES_MEMBER_REMOVE, dead, RAFT_CORE_SPARE);
    else if ((voters < wanted || (voters == wanted && dead != 0)) && next != 0 && room)
        ask_member(out, DUTIES_MEMBER_ASSIGN, next, RAFT_CORE_VOTER);
    else if (dead_standby != 0 && best_standby(d, now, map, raft) != 0)
        ask_member(out, DUTIES_MEMBER_REMOVE, dead_standby, RAFT_CORE_SPARE);
    else if (standbys < STANDBYS_MAX && raft->members_count < RAFT_SERVERS_MAX &&
             (next = best_standby(d, now, map, raft)) != 0)
        ask_member(out, DUTIES_MEMBER_ASSIGN, next, RAFT_CORE_STANDBY);
}

void duties_run(struct duties *d, uint64_t now, const struct map *map,
                const struct raft_core_status *raft, struct duties_out *out)
{
    memset(out, 0, sizeof(*out));
    out->next_ns = now + ns_tick;
    if (!d->leading)
        return;
    forgive_pause(d, now);
    note_nodes(d, now, map);
    note_osds(d, now, map);
    run_refusals(d, now, out);
    run_down(d, now, map, out);
    run_pool(d, now, map, out);
    if (map->revision != d->scanned_revision || now - d->scanned_ns >= ns_scan) {
        d->scanned_revision = map->revision;
        d->scanned_ns = now;
        run_placement(d, now, map, out);
        run_pgs(d, now, map, out);
    }
    run_members(d, now, map, raft, out);
}
