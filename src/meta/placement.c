#include "meta/placement.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/pool.h"
#include "base/prng.h"

/*
 * Loads are in 1/1024 of a PG. "Over" is what an OSD holds above its share. A move along a path
 * a -> b -> c takes a PG from a to b and another from b to c: it helps when a's over exceeds c's
 * by more than one PG, and each such move lowers the sum of squares, so the search ends. Breadth
 * first finds the move that touches the fewest PGs.
 */
enum { UNIT = 1024, NONE = -1 };

struct placement {
    const struct placement_osd *osds;
    uint32_t osds_count;
    struct placement_pg *pgs;
    uint32_t pgs_count;
    uint8_t wanted;   /* members that each PG can have */
    uint32_t *domain; /* of each OSD: 0 .. domains_count - 1 */
    uint32_t domains_count;
    uint64_t *share; /* of each OSD */
    uint64_t *load;  /* of each OSD */
    /* Of the search under way. */
    int32_t *parent;
    uint32_t *via; /* the PG that moves from the parent */
    uint32_t *queue;
    bool *stuck;
};

static int compare_u32(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* The place of an OSD among osds[], or NONE. */
static int32_t find_osd(const struct placement *p, uint32_t id)
{
    uint32_t low = 0, high = p->osds_count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (p->osds[mid].id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low < p->osds_count && p->osds[low].id == id ? (int32_t)low : NONE;
}

static int64_t over(const struct placement *p, uint32_t osd)
{
    return (int64_t)p->load[osd] - (int64_t)p->share[osd];
}

/* ---- Domains and shares ---- */

static void number_domains(struct placement *p)
{
    uint32_t *sorted = mem_zalloc((p->osds_count + 1) * sizeof(*sorted));
    uint32_t count = 0;

    for (uint32_t i = 0; i < p->osds_count; i++)
        sorted[i] = p->osds[i].domain;
    qsort(sorted, p->osds_count, sizeof(*sorted), compare_u32);
    for (uint32_t i = 0; i < p->osds_count; i++) {
        if (i == 0 || sorted[i] != sorted[i - 1])
            sorted[count++] = sorted[i];
    }
    for (uint32_t i = 0; i < p->osds_count; i++) {
        uint32_t *at = bsearch(&p->osds[i].domain, sorted, count, sizeof(*sorted), compare_u32);
        p->domain[i] = (uint32_t)(at - sorted);
    }
    p->domains_count = count;
    free(sorted);
}

/*
 * By weight, but no domain may hold a PG twice: a domain whose weight asks for more gets one of
 * every PG, and the others share the rest.
 */
static void set_shares(struct placement *p)
{
    uint64_t *weight = mem_zalloc((p->domains_count + 1) * sizeof(*weight));
    bool *full = mem_zalloc((p->domains_count + 1) * sizeof(*full));
    uint64_t all = (uint64_t)p->pgs_count * UNIT;
    uint64_t rest = all * p->wanted, weight_rest = 0;

    for (uint32_t i = 0; i < p->osds_count; i++) {
        weight[p->domain[i]] += p->osds[i].weight;
        weight_rest += p->osds[i].weight;
    }
    for (bool again = true; again;) {
        again = false;
        for (uint32_t d = 0; d < p->domains_count; d++) {
            if (full[d] || weight[d] == 0)
                continue;
            if ((unsigned __int128)rest * weight[d] < (unsigned __int128)all * weight_rest)
                continue;
            full[d] = true;
            rest -= all;
            weight_rest -= weight[d];
            again = true;
        }
    }
    for (uint32_t i = 0; i < p->osds_count; i++) {
        uint32_t d = p->domain[i];
        uint64_t of = full[d] ? all : rest, by = full[d] ? weight[d] : weight_rest;
        p->share[i] = by == 0 ? 0 : (uint64_t)((unsigned __int128)of * p->osds[i].weight / by);
    }
    free(weight);
    free(full);
}

/* ---- Members ---- */

/* Does the PG have a member in this domain, leaving out its member number `but`? */
static bool uses_domain(const struct placement *p, const struct placement_pg *g, uint32_t domain,
                        int but)
{
    for (int i = 0; i < g->count; i++) {
        int32_t osd = find_osd(p, g->osds[i]);
        if (i != but && osd != NONE && p->domain[osd] == domain)
            return true;
    }
    return false;
}

static int member_of(const struct placement_pg *g, uint32_t id)
{
    for (int i = 0; i < g->count; i++) {
        if (g->osds[i] == id)
            return i;
    }
    return NONE;
}

/* Keep the members that may stay: known, with weight, one a domain, no more than wanted. */
static void keep_members(struct placement *p, struct placement_pg *g)
{
    struct placement_pg old = *g;

    g->count = 0;
    for (uint8_t i = 0; i < old.count && g->count < p->wanted; i++) {
        int32_t osd = find_osd(p, old.osds[i]);
        if (osd == NONE || p->osds[osd].weight == 0 || uses_domain(p, g, p->domain[osd], NONE))
            continue;
        g->osds[g->count++] = old.osds[i];
        p->load[osd] += UNIT;
    }
}

/* The OSD furthest below its share in a domain that the PG does not use; equals by a mixed number,
 * so that PGs do not all share the same partners. */
static int32_t best_for(const struct placement *p, const struct placement_pg *g)
{
    int32_t best = NONE;
    uint64_t best_mix = 0;

    for (uint32_t i = 0; i < p->osds_count; i++) {
        if (p->osds[i].weight == 0 || uses_domain(p, g, p->domain[i], NONE))
            continue;
        uint64_t mix = mix64(g->id ^ mix64(p->osds[i].id));
        if (best == NONE || over(p, i) < over(p, (uint32_t)best) ||
            (over(p, i) == over(p, (uint32_t)best) && mix < best_mix)) {
            best = (int32_t)i;
            best_mix = mix;
        }
    }
    return best;
}

static void fill_members(struct placement *p, struct placement_pg *g)
{
    while (g->count < p->wanted) {
        int32_t osd = best_for(p, g);
        check(osd != NONE); /* wanted is at most the number of domains with weight */
        g->osds[g->count++] = p->osds[osd].id;
        p->load[osd] += UNIT;
    }
}

/* ---- Search ---- */

/* May PG g, a member of which is OSD a, have b instead? With `order`: may b, a member, come first
 * in place of a? */
static bool may_move(const struct placement *p, const struct placement_pg *g, uint32_t a,
                     uint32_t b, bool order)
{
    int at = member_of(g, p->osds[a].id);

    if (order)
        return at == 0 && member_of(g, p->osds[b].id) > 0;
    return at != NONE && p->osds[b].weight > 0 && !uses_domain(p, g, p->domain[b], at);
}

static void move(const struct placement *p, struct placement_pg *g, uint32_t a, uint32_t b,
                 bool order)
{
    int at = member_of(g, p->osds[a].id);
    int other = member_of(g, p->osds[b].id);

    check(at != NONE);
    g->osds[at] = p->osds[b].id;
    if (order)
        g->osds[other] = p->osds[a].id;
}

/* The nearest OSD that is more than one PG lighter than `from`, or NONE. */
static int32_t search(struct placement *p, uint32_t from, bool order)
{
    uint32_t head = 0, tail = 0;

    for (uint32_t i = 0; i < p->osds_count; i++)
        p->parent[i] = NONE;
    p->parent[from] = (int32_t)from;
    p->queue[tail++] = from;
    while (head < tail) {
        uint32_t a = p->queue[head++];
        for (uint32_t k = 0; k < p->pgs_count; k++) {
            if (member_of(&p->pgs[k], p->osds[a].id) == NONE)
                continue;
            for (uint32_t b = 0; b < p->osds_count; b++) {
                if (p->parent[b] != NONE || !may_move(p, &p->pgs[k], a, b, order))
                    continue;
                p->parent[b] = (int32_t)a;
                p->via[b] = k;
                p->queue[tail++] = b;
                if (over(p, from) - over(p, b) > UNIT)
                    return (int32_t)b;
            }
        }
    }
    return NONE;
}

/* Moves along the path that search() found. A PG on it twice may no longer allow its second move:
 * then only the moves from there on to the end are made, and the loads say so. */
static void take_path(struct placement *p, uint32_t to, bool order)
{
    for (uint32_t b = to; p->parent[b] != (int32_t)b;) {
        uint32_t a = (uint32_t)p->parent[b];
        struct placement_pg *g = &p->pgs[p->via[b]];
        if (!may_move(p, g, a, b, order))
            return;
        move(p, g, a, b, order);
        p->load[a] -= UNIT;
        p->load[b] += UNIT;
        b = a;
    }
}

/* Nobody is more than one PG lighter than `from`: there is nothing to search for. The search would
 * find so too, after it has looked at every PG for every OSD. */
static bool is_even(const struct placement *p, uint32_t from)
{
    for (uint32_t i = 0; i < p->osds_count; i++) {
        if (over(p, from) - over(p, i) > UNIT)
            return false;
    }
    return true;
}

static void balance(struct placement *p, bool order)
{
    uint32_t moves_max = 4 * p->pgs_count * META_REPLICAS_MAX;

    memset(p->stuck, 0, p->osds_count * sizeof(*p->stuck));
    for (uint32_t moves = 0; moves < moves_max; moves++) {
        int32_t from = NONE;
        for (uint32_t i = 0; i < p->osds_count; i++) {
            if (!p->stuck[i] && p->load[i] > 0 &&
                (from == NONE || over(p, i) > over(p, (uint32_t)from)))
                from = (int32_t)i;
        }
        if (from == NONE || is_even(p, (uint32_t)from))
            return;
        int32_t to = search(p, (uint32_t)from, order);
        if (to == NONE)
            p->stuck[from] = true;
        else
            take_path(p, (uint32_t)to, order);
    }
}

/* Each OSD should lead its part of the PGs it holds. */
static void balance_primaries(struct placement *p)
{
    if (p->wanted == 0)
        return;
    for (uint32_t i = 0; i < p->osds_count; i++) {
        p->share[i] = p->load[i] / p->wanted;
        p->load[i] = 0;
    }
    for (uint32_t k = 0; k < p->pgs_count; k++) {
        int32_t first = p->pgs[k].count > 0 ? find_osd(p, p->pgs[k].osds[0]) : NONE;
        if (first != NONE)
            p->load[first] += UNIT;
    }
    balance(p, true);
}

/* Places that nothing else can fill stay with whom they had, so that an OSD that comes back is
 * still wanted. */
static void keep_absent(struct placement *p, struct placement_pg *g, const struct placement_pg *old,
                        uint8_t replicas)
{
    for (uint8_t i = 0; i < old->count && g->count < replicas; i++) {
        int32_t osd = find_osd(p, old->osds[i]);
        if (osd == NONE || member_of(g, old->osds[i]) != NONE ||
            uses_domain(p, g, p->domain[osd], NONE))
            continue;
        g->osds[g->count++] = old->osds[i];
    }
}

static void placement_open(struct placement *p)
{
    size_t n = p->osds_count + 1;

    p->domain = mem_zalloc(n * sizeof(*p->domain));
    p->share = mem_zalloc(n * sizeof(*p->share));
    p->load = mem_zalloc(n * sizeof(*p->load));
    p->parent = mem_zalloc(n * sizeof(*p->parent));
    p->via = mem_zalloc(n * sizeof(*p->via));
    p->queue = mem_zalloc(n * sizeof(*p->queue));
    p->stuck = mem_zalloc(n * sizeof(*p->stuck));
}

static void placement_close(struct placement *p)
{
    free(p->domain);
    free(p->share);
    free(p->load);
    free(p->parent);
    free(p->via);
    free(p->queue);
    free(p->stuck);
}

uint32_t placement_domains(const struct placement_osd *osds, uint32_t osds_count)
{
    uint32_t *seen = mem_zalloc((osds_count + 1) * sizeof(*seen));
    uint32_t count = 0, domains = 0;

    for (uint32_t i = 0; i < osds_count; i++) {
        if (osds[i].weight > 0)
            seen[count++] = osds[i].domain;
    }
    qsort(seen, count, sizeof(*seen), compare_u32);
    for (uint32_t i = 0; i < count; i++)
        domains += i == 0 || seen[i] != seen[i - 1];
    free(seen);
    return domains;
}

void placement_run(const struct placement_osd *osds, uint32_t osds_count, struct placement_pg *pgs,
                   uint32_t pgs_count, uint8_t replicas)
{
    struct placement p = {
        .osds = osds, .osds_count = osds_count, .pgs = pgs, .pgs_count = pgs_count};
    uint32_t domains = placement_domains(osds, osds_count);

    check(replicas >= 1 && replicas <= META_REPLICAS_MAX);
    p.wanted = domains < replicas ? (uint8_t)domains : replicas;
    placement_open(&p);
    number_domains(&p);
    set_shares(&p);

    struct placement_pg *old = mem_zalloc((pgs_count + 1) * sizeof(*old));
    if (pgs_count > 0)
        memcpy(old, pgs, pgs_count * sizeof(*old));
    for (uint32_t k = 0; k < pgs_count; k++)
        keep_members(&p, &pgs[k]);
    for (uint32_t k = 0; k < pgs_count; k++)
        fill_members(&p, &pgs[k]);
    balance(&p, false);
    balance_primaries(&p);
    for (uint32_t k = 0; k < pgs_count; k++)
        keep_absent(&p, &pgs[k], &old[k], replicas);

    free(old);
    placement_close(&p);
}
