#include "osd/pg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * Leases (R7): permission of every needed member to answer reads, for L from the
 * moment the request for it was *sent*. One message per pair of OSDs carries the
 * list of PGs and epochs it is about, so both sides have agreed on exactly these.
 *
 * A member that grants remembers when; should it become primary of that PG it waits
 * until its last grant has run out by its own clock, which may be slower: L(1 + 2 drift) (R6a).
 * No wait is needed for a grant to an incarnation that is known dead, or that gave the lease back.
 */

enum {
    LEASE_DRIFT_PERCENT = 1,
    LEASE_ITEMS_MAX = 2048, /* two bits each in the answer, which then needs no memory of its own */
    LEASE_REFUSED = 0,
    LEASE_GRANTED = 1,
    LEASE_GRANTED_FULL = 2, /* and the granter's store has no room */
};

static_assert(LEASE_ITEMS_MAX / 4 <= NET_BODY_INLINE, "the answer is copied by the net");

struct osd_lease_call {
    struct osd_lease_call *next;
    struct osd *osd;
    uint32_t to;
    bool busy;
    uint64_t sent_ns;
    uint32_t count;
    struct rpc_call call;
    uint64_t pgs[LEASE_ITEMS_MAX];
    uint8_t body[WIRE_LEASE_HEAD + WIRE_LEASE_ITEM * LEASE_ITEMS_MAX];
    uint8_t answer[LEASE_ITEMS_MAX / 4];
};

/* ---- Got from others ---- */

static struct osd_lease *lease_of(struct osd_pg *pg, uint32_t osd)
{
    struct osd_lease *free_slot = NULL;

    for (uint32_t i = 0; i < OSD_MEMBERS_MAX; i++) {
        if (pg->leases[i].osd == osd)
            return &pg->leases[i];
        uint32_t holder = pg->leases[i].osd;
        if (holder == 0 || (!osd_pg_in_set(pg, holder) && holder != pg->pending_add))
            free_slot = &pg->leases[i];
    }
    if (free_slot != NULL)
        *free_slot = (struct osd_lease){.osd = osd};
    return free_slot;
}

bool osd_leased(const struct osd_pg *pg)
{
    uint32_t need[OSD_MEMBERS_MAX];
    uint32_t count = osd_pg_need(pg, NULL, need);
    uint64_t now = loop_now(pg->osd->loop);

    if (osd_mutated(pg->osd, OSD_MUTANT_NO_LEASE_CHECK))
        return true;
    for (uint32_t i = 0; i < count; i++) {
        bool live = false;
        for (uint32_t k = 0; k < OSD_MEMBERS_MAX; k++) {
            const struct osd_lease *l = &pg->leases[k];
            live = live ||
                   (l->osd == need[i] && l->sent_ns != 0 && now < l->sent_ns + pg->osd->lease_ns);
        }
        if (!live)
            return false;
    }
    return true;
}

static void lease_on_answer(struct rpc_call *call)
{
    struct osd_lease_call *c = container_of(call, struct osd_lease_call, call);
    struct osd *o = c->osd;
    const uint8_t *granted = call->reply_body.base;

    c->busy = false;
    if (call->status != 0 || call->reply_body.len != (c->count + 3) / 4)
        return;
    for (uint32_t i = 0; i < c->count; i++) {
        struct osd_pg *pg = osd_pg_find(o, c->pgs[i]);
        uint32_t grant = (uint32_t)granted[i / 4] >> (2 * (i % 4)) & 3u;
        if (grant == LEASE_REFUSED || pg == NULL || !osd_pg_acting(pg))
            continue;
        /* The reign may have changed hands and come back since it was sent: the epoch in the
         * request tells. */
        uint32_t epoch = get_u32(c->body + WIRE_LEASE_HEAD + WIRE_LEASE_ITEM * (size_t)i + 8);
        if (epoch < pg->view.activated)
            continue;
        struct osd_lease *l = lease_of(pg, c->to);
        if (l == NULL)
            continue;
        if (c->sent_ns > l->sent_ns)
            l->sent_ns = c->sent_ns;
        l->full = grant == LEASE_GRANTED_FULL;
        if (pg->pending_add == c->to)
            osd_pg_wake(pg);
    }
}

static struct osd_lease_call *lease_call(struct osd *o, uint32_t to)
{
    struct osd_lease_call *c = o->lease_calls;

    while (c != NULL && c->to != to)
        c = c->next;
    if (c == NULL) {
        c = mem_zalloc(sizeof(*c));
        c->osd = o;
        c->to = to;
        c->next = o->lease_calls;
        o->lease_calls = c;
    }
    return c;
}

static bool lease_needs(const struct osd_pg *pg, uint32_t osd)
{
    uint32_t need[OSD_MEMBERS_MAX];
    uint32_t count = osd_pg_need(pg, NULL, need);

    for (uint32_t i = 0; i < count; i++) {
        if (need[i] == osd)
            return true;
    }
    return false;
}

static void lease_fill(struct osd_lease_call *c)
{
    struct osd *o = c->osd;
    uint8_t *p = c->body + WIRE_LEASE_HEAD;

    c->count = 0;
    list_for_each (pos, &o->pgs_list) {
        struct osd_pg *pg = container_of(pos, struct osd_pg, link);
        if (!osd_pg_acting(pg) || !lease_needs(pg, c->to) || c->count == LEASE_ITEMS_MAX)
            continue;
        put_u64(p, pg->id);
        put_u32(p + 8, pg->view.epoch);
        put_u32(p + 12, 0);
        put_u64(p + 16, osd_pg_stable(pg));
        put_u64(p + 24, osd_pg_tombstone_floor(pg));
        p += WIRE_LEASE_ITEM;
        c->pgs[c->count++] = pg->id;
    }
    put_u32(c->body, c->count);
    put_u32(c->body + 4, 0);
}

/* To every OSD that some PG of ours needs; one message each, unless the last is still unanswered.
 */
void osd_leases_request(struct osd *o)
{
    for (uint32_t i = 0; o->map != NULL && i < o->map->osds_count; i++) {
        const struct map_osd *peer = &o->map->osds[i];
        if (peer->id == o->config.id || !peer->up)
            continue;
        struct osd_lease_call *c = lease_call(o, peer->id);
        if (c->busy)
            continue;
        lease_fill(c);
        if (c->count == 0)
            continue;
        c->busy = true;
        c->sent_ns = loop_now(o->loop);
        c->call = (struct rpc_call){
            .to = net_endpoint_make(NET_OSD, c->to),
            .kind = WIRE_LEASE,
            .to_incarnation = peer->incarnation,
            .revision = o->map->revision,
            .body = {c->body, WIRE_LEASE_HEAD + WIRE_LEASE_ITEM * (size_t)c->count},
            .deadline_ns = c->sent_ns + NS_PER_S,
            .body_buf = c->answer,
            .body_buf_size = sizeof(c->answer),
            .done = lease_on_answer,
        };
        rpc_call_start(o->net, &c->call);
    }
}

/* ---- Given to others ---- */

static void grant_remember(struct osd_pg *pg, uint32_t osd, uint32_t incarnation, uint32_t epoch)
{
    struct osd_grant *g = NULL;
    uint64_t now = loop_now(pg->osd->loop);

    for (uint32_t i = 0; i < pg->grants_count && g == NULL; i++) {
        if (pg->grants[i].osd == osd && pg->grants[i].incarnation == incarnation)
            g = &pg->grants[i];
    }
    if (g == NULL && pg->grants_count < OSD_GRANTS_MAX)
        g = &pg->grants[pg->grants_count++];
    if (g == NULL) { /* the oldest goes where nobody is known */
        g = &pg->grants[0];
        for (uint32_t i = 1; i < OSD_GRANTS_MAX; i++) {
            if (pg->grants[i].ns < g->ns)
                g = &pg->grants[i];
        }
        if (g->ns > pg->grant_unknown_ns)
            pg->grant_unknown_ns = g->ns;
    }
    *g = (struct osd_grant){osd, incarnation, epoch, now};
}

static bool grant_is_void(const struct osd_pg *pg, const struct osd_grant *g)
{
    const struct map_osd *osd = map_osd(pg->osd->map, g->osd);

    return osd != NULL &&
           (osd->incarnation > g->incarnation || osd->dead_incarnation >= g->incarnation);
}

uint64_t osd_grants_end(const struct osd_pg *pg)
{
    uint64_t last = pg->grant_unknown_ns;

    if (osd_mutated(pg->osd, OSD_MUTANT_NO_LEASE_WAIT))
        return 0;
    for (uint32_t i = 0; i < pg->grants_count; i++) {
        if (!grant_is_void(pg, &pg->grants[i]) && pg->grants[i].ns > last)
            last = pg->grants[i].ns;
    }
    return last == 0 ? 0 : last + pg->osd->lease_ns * (100 + 2 * LEASE_DRIFT_PERCENT + 1) / 100;
}

static bool lease_grant(struct osd *o, const struct rpc_request *req, const uint8_t *item)
{
    struct osd_pg *pg = osd_pg_find(o, get_u64(item));
    uint32_t epoch = get_u32(item + 8);
    uint32_t from = (uint32_t)net_endpoint_id(req->from);

    if (pg == NULL || !osd_pg_promise(pg, epoch))
        return false;
    grant_remember(pg, from, req->from_incarnation, epoch);
    osd_pg_hear(pg, get_u64(item + 16), get_u64(item + 24));
    return true;
}

void osd_lease_handle(struct osd *o, struct rpc_request *req)
{
    const uint8_t *p = req->body.base;
    uint8_t granted[LEASE_ITEMS_MAX / 4] = {0};
    uint32_t count = req->body.len >= WIRE_LEASE_HEAD ? get_u32(p) : LEASE_ITEMS_MAX + 1;

    if (count > LEASE_ITEMS_MAX ||
        req->body.len != WIRE_LEASE_HEAD + WIRE_LEASE_ITEM * (size_t)count) {
        rpc_reply_status(req, -EINVAL);
        return;
    }
    unsigned yes = osd_has_room(o, OSD_ROOM_NEW) ? LEASE_GRANTED : LEASE_GRANTED_FULL;
    for (uint32_t i = 0; i < count; i++) {
        if (lease_grant(o, req, p + WIRE_LEASE_HEAD + WIRE_LEASE_ITEM * (size_t)i))
            granted[i / 4] = (uint8_t)(granted[i / 4] | yes << (2 * (i % 4)));
    }
    req->status = 0;
    req->reply_body = (struct slice){granted, (count + 3) / 4};
    rpc_reply(req);
}

/* ---- Given back ---- */

struct lease_release {
    struct list link;
    struct rpc_call call;
    uint8_t body[WIRE_LEASE_HEAD + WIRE_RELEASE_ITEM];
};

static void release_on_sent(struct rpc_call *call)
{
    struct lease_release *r = container_of(call, struct lease_release, call);

    list_remove(&r->link);
    free(r);
}

/*
 * We hold no lease of this PG any more and will ask for none under this epoch; the
 * next primary need not wait for ours. A message that is lost only costs that wait.
 */
void osd_lease_release(struct osd_pg *pg)
{
    struct osd *o = pg->osd;

    if (!pg->acting)
        return;
    for (uint32_t i = 0; i < OSD_MEMBERS_MAX; i++) {
        uint32_t member = pg->leases[i].osd;
        if (member == 0 || !osd_is_up(o, member))
            continue;
        struct lease_release *r = mem_zalloc(sizeof(*r));
        list_init(&r->link);
        list_push(&o->releases, &r->link);
        put_u32(r->body, 1);
        put_u64(r->body + WIRE_LEASE_HEAD, pg->id);
        put_u32(r->body + WIRE_LEASE_HEAD + 8, pg->view.epoch + (o->stopping ? 1 : 0));
        r->call = (struct rpc_call){
            .to = net_endpoint_make(NET_OSD, member),
            .kind = WIRE_RELEASE,
            .to_incarnation = osd_incarnation_of(o, member),
            .body = {r->body, sizeof(r->body)},
            .deadline_ns = loop_now(o->loop) + NS_PER_S,
            .done = release_on_sent,
        };
        rpc_call_start(o->net, &r->call);
    }
}

static void release_grant(struct osd *o, const struct rpc_request *req, const uint8_t *item)
{
    struct osd_pg *pg = osd_pg_find(o, get_u64(item));
    uint32_t from = (uint32_t)net_endpoint_id(req->from);

    for (uint32_t i = 0; pg != NULL && i < pg->grants_count; i++) {
        struct osd_grant *g = &pg->grants[i];
        if (g->osd == from && g->incarnation == req->from_incarnation &&
            g->epoch < get_u32(item + 8)) {
            *g = pg->grants[--pg->grants_count];
            osd_pg_wake(pg);
            return;
        }
    }
}

void osd_release_handle(struct osd *o, struct rpc_request *req)
{
    const uint8_t *p = req->body.base;
    uint32_t count = req->body.len >= WIRE_LEASE_HEAD ? get_u32(p) : LEASE_ITEMS_MAX + 1;

    if (count > LEASE_ITEMS_MAX ||
        req->body.len != WIRE_LEASE_HEAD + WIRE_RELEASE_ITEM * (size_t)count) {
        rpc_reply_status(req, -EINVAL);
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        release_grant(o, req, p + WIRE_LEASE_HEAD + WIRE_RELEASE_ITEM * (size_t)i);
    rpc_reply_status(req, 0);
}

void osd_leases_free(struct osd *o)
{
    while (o->lease_calls != NULL) {
        struct osd_lease_call *c = o->lease_calls;
        o->lease_calls = c->next;
        free(c);
    }
    for (struct list *l = list_pop(&o->releases); l != NULL; l = list_pop(&o->releases))
        free(container_of(l, struct lease_release, link));
}
