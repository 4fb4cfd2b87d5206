#include "osd/pg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * Activation (R6). The new primary of a PG may serve only what every acknowledged
 * write is part of, and only when nobody else can serve any more:
 *
 *   WAITING     until the last lease this OSD granted for the PG has run out (a)
 *   ASKING      each reachable member of S for its promise, its W, and what it holds above W (b)
 *   COPYING     the newest version of each object that differs, and all dedup records, to
 *               every participant, durable (c)
 *   JOINING     with too few of S left, others are first brought fully up to date (e)
 *   ACTIVATING  ACTIVATE(epoch, S') is with Raft; the view will tell (d)
 *
 * What is at or below the highest W that anybody reported is the same everywhere in S for ever and
 * is not looked at (R8). A round that fails begins again at ASKING, unless its ACTIVATE was sent:
 * then S' must not change any more, and only the view ends the wait.
 */

enum peering_state {
    PEERING_WAITING,
    PEERING_ASKING,
    PEERING_COPYING,
    PEERING_JOINING,
    PEERING_ACTIVATING,
};

enum peer_state { PEER_IDLE, PEER_QUERIED, PEER_LISTING, PEER_LISTED };

enum {
    PEERING_PATIENCE_MS = 1000, /* then those who did not answer are left out, if enough did */
    PEERING_JOIN_MS = 1500,     /* then others are brought in, if too few of S answered */
    PEERING_ROTATE_MS = 2500,   /* then somebody else shall try */
};

struct peer {
    struct osd_peering *peering;
    uint32_t osd;
    enum peer_state state;
    uint64_t stable; /* its W */
    uint64_t retry_ns;
    bool in_flight;
    bool chosen; /* a participant of this round: listed when the asking ended */
    struct store_cursor cursor;
    struct rpc_call call;
    uint8_t body[WIRE_LIST_SIZE];
    uint8_t *answer; /* OSD_LIST_CHUNK */
    uint8_t *list;   /* its objects, as in LIST's answers, one behind the other */
    size_t list_len, list_capacity;
};

struct peer_object {
    struct hash_link by_id;
    struct list link;
    struct store_id id;
    uint64_t newest;
    uint64_t versions[META_REPLICAS_MAX];
    uint32_t dedups[META_REPLICAS_MAX];
    bool unreadable[META_REPLICAS_MAX]; /* its device did not give it back */
    uint32_t union_count;
    struct store_dedup *all;
};

struct osd_peering {
    struct osd_pg *pg;
    struct list link; /* in osd.peerings_leaving, when given up with calls in flight */
    bool given_up;
    enum peering_state state;
    uint32_t epoch;
    uint64_t asked_ns, rotate_ns;
    uint64_t stable; /* the highest W of the participants */
    uint32_t peers_count;
    struct peer peers[META_REPLICAS_MAX];
    struct hash objects;
    struct list todo;
    struct list all;
    uint32_t copies;
    uint32_t joiners_count, joiners_done;
    uint32_t joiners[META_REPLICAS_MAX];
    bool failed;
};

/* ---- The table of what differs ---- */

static void peering_drop_objects(struct osd_peering *p)
{
    struct list *heads[] = {&p->todo, &p->all};

    for (size_t i = 0; i < COUNT_OF(heads); i++) {
        for (struct list *l = list_pop(heads[i]); l != NULL; l = list_pop(heads[i])) {
            struct peer_object *object = container_of(l, struct peer_object, link);
            hash_remove(&p->objects, &object->by_id);
            free(object->all);
            free(object);
        }
    }
}

static struct peer_object *peering_object(struct osd_peering *p, const struct store_id *id)
{
    uint64_t key = mix64(id->image) ^ id->object;

    for (struct hash_link *l = hash_find(&p->objects, key); l != NULL; l = hash_next(l)) {
        struct peer_object *object = container_of(l, struct peer_object, by_id);
        if (object->id.image == id->image && object->id.object == id->object)
            return object;
    }
    struct peer_object *object = mem_zalloc(sizeof(*object));
    object->id = *id;
    list_init(&object->link);
    list_push(&p->all, &object->link);
    hash_insert(&p->objects, &object->by_id, key);
    return object;
}

static void object_add_dedup(struct peer_object *object, const struct store_dedup *d)
{
    for (uint32_t i = 0; i < object->union_count; i++) {
        if (object->all[i].client == d->client && object->all[i].seq == d->seq)
            return;
    }
    if (object->union_count == OSD_DEDUPS_MAX)
        return;
    object->all = mem_realloc(object->all, (object->union_count + 1) * sizeof(*object->all));
    object->all[object->union_count++] = *d;
}

/* Enter one member's list; what is stable is left out. False: the list is broken. */
static bool peering_enter(struct osd_peering *p, uint32_t index)
{
    const struct peer *peer = &p->peers[index];
    size_t at = 0;

    while (at < peer->list_len) {
        const uint8_t *item = peer->list + at;
        if (peer->list_len - at < WIRE_LIST_ITEM)
            return false;
        struct store_id id = {get_u64(item), get_u64(item + 8)};
        uint64_t version = get_u64(item + 16);
        uint32_t dedups = get_u32(item + 28);
        at += WIRE_LIST_ITEM;
        if (dedups > (peer->list_len - at) / WIRE_DEDUP_SIZE)
            return false;

        struct peer_object *object = peering_object(p, &id);
        object->versions[index] = version;
        if (version > object->newest)
            object->newest = version;
        for (uint32_t i = 0; i < dedups; i++, at += WIRE_DEDUP_SIZE) {
            const uint8_t *d = peer->list + at;
            struct store_dedup dedup = {get_u64(d), get_u64(d + 8), get_u64(d + 16)};
            if (dedup.version <= p->stable)
                continue;
            object->dedups[index]++;
            object_add_dedup(object, &dedup);
        }
    }
    return true;
}

static bool object_lacks(const struct peer_object *object, uint64_t stable, uint32_t index)
{
    if (object->newest > stable && object->versions[index] != object->newest)
        return true;
    return object->dedups[index] < object->union_count;
}

static bool peering_build(struct osd_peering *p)
{
    bool unreconciled = osd_mutated(p->pg->osd, OSD_MUTANT_NO_RECONCILE);

    p->stable = 0;
    for (uint32_t i = 0; i < p->peers_count; i++) {
        p->peers[i].chosen = p->peers[i].state == PEER_LISTED;
        if (p->peers[i].chosen && p->peers[i].stable > p->stable)
            p->stable = p->peers[i].stable;
    }
    for (uint32_t i = 0; i < p->peers_count; i++) {
        if (p->peers[i].chosen && !peering_enter(p, i))
            return false;
    }
    for (struct list *pos = p->all.next, *next; pos != &p->all; pos = next) {
        struct peer_object *object = container_of(pos, struct peer_object, link);
        bool differs = false;
        next = pos->next;
        for (uint32_t i = 0; i < p->peers_count && !unreconciled; i++)
            differs = differs || (p->peers[i].chosen && object_lacks(object, p->stable, i));
        if (differs) {
            list_remove(&object->link);
            list_push(&p->todo, &object->link);
        }
    }
    return true;
}

/* ---- Asking ---- */

static void peer_send_query(struct peer *peer);
static void peer_send_list(struct peer *peer);
static void peering_free(struct osd_peering *p);

static void peer_retry(struct peer *peer)
{
    peer->state = PEER_IDLE;
    peer->list_len = 0;
    peer->retry_ns = loop_now(peer->peering->pg->osd->loop) + 100 * NS_PER_MS;
}

static void peer_append(struct peer *peer, const uint8_t *p, size_t len)
{
    if (len == 0)
        return;
    if (peer->list_len + len > peer->list_capacity) {
        peer->list_capacity = 2 * (peer->list_len + len);
        peer->list = mem_realloc(peer->list, peer->list_capacity);
    }
    memcpy(peer->list + peer->list_len, p, len);
    peer->list_len += len;
}

/* A chunk of the list came. What follows is decided in the PG's step. */
static void peer_take_chunk(struct peer *peer, struct slice chunk)
{
    const uint8_t *p = chunk.base;

    if (chunk.len < WIRE_LIST_HEAD) {
        peer_retry(peer);
        return;
    }
    peer_append(peer, p + WIRE_LIST_HEAD, chunk.len - WIRE_LIST_HEAD);
    peer->cursor.started = true;
    peer->cursor.position[0] = get_u64(p + 8);
    peer->cursor.position[1] = get_u64(p + 16);
    if (get_u32(p + 4) == 0)
        peer->state = PEER_LISTED;
}

static void peer_on_answer(struct rpc_call *call)
{
    struct peer *peer = container_of(call, struct peer, call);
    struct osd_peering *p = peer->peering;

    peer->in_flight = false;
    if (p->given_up) {
        peering_free(p);
        return;
    }
    if (call->status != 0) {
        peer_retry(peer);
    } else if (peer->state == PEER_QUERIED && call->reply_body.len == sizeof(uint64_t)) {
        peer->stable = get_u64(call->reply_body.base);
        peer->state = PEER_LISTING;
        peer->cursor = (struct store_cursor){.pg = p->pg->id};
    } else if (peer->state == PEER_LISTING) {
        peer_take_chunk(peer, call->reply_body);
    } else {
        peer_retry(peer);
    }
    osd_pg_wake(p->pg);
}

static void peer_call(struct peer *peer, uint16_t kind, uint32_t body_len)
{
    struct osd_pg *pg = peer->peering->pg;
    struct osd *o = pg->osd;

    peer->in_flight = true;
    peer->call = (struct rpc_call){
        .to = net_endpoint_make(NET_OSD, peer->osd),
        .kind = kind,
        .pg = pg->id,
        .epoch = peer->peering->epoch,
        .to_incarnation = osd_incarnation_of(o, peer->osd),
        .revision = pg->view_revision,
        .body = {peer->body, body_len},
        .deadline_ns = loop_now(o->loop) + NS_PER_S,
        .body_buf = peer->answer,
        .body_buf_size = OSD_LIST_CHUNK,
        .done = peer_on_answer,
    };
    rpc_call_start(o->net, &peer->call);
}

static void peer_send_query(struct peer *peer)
{
    peer->state = PEER_QUERIED;
    peer->list_len = 0;
    peer_call(peer, WIRE_QUERY, 0);
}

static void peer_send_list(struct peer *peer)
{
    put_u64(peer->body, peer->stable);
    put_u64(peer->body + 8, peer->cursor.position[0]);
    put_u64(peer->body + 16, peer->cursor.position[1]);
    put_u32(peer->body + 24, peer->cursor.started);
    put_u32(peer->body + 28, 0);
    peer_call(peer, WIRE_LIST, WIRE_LIST_SIZE);
}

/* Our own part, once nothing of the PG is on its way to our device. */
static void peer_list_self(struct peer *peer)
{
    struct osd_pg *pg = peer->peering->pg;
    bool more = true;

    if (pg->store_busy > 0)
        return;
    peer->stable = osd_pg_known(pg);
    peer->cursor = (struct store_cursor){.pg = pg->id};
    while (more) {
        uint32_t len = osd_list_encode(pg->osd, pg->id, peer->stable, &peer->cursor, peer->answer,
                                       OSD_LIST_CHUNK, &more);
        peer_append(peer, peer->answer + WIRE_LIST_HEAD, len - WIRE_LIST_HEAD);
    }
    peer->state = PEER_LISTED;
}

static void peering_ask(struct osd_peering *p, uint64_t now)
{
    struct osd *o = p->pg->osd;

    for (uint32_t i = 0; i < p->peers_count; i++) {
        struct peer *peer = &p->peers[i];
        if (peer->in_flight || peer->state == PEER_LISTED || now < peer->retry_ns)
            continue;
        if (peer->osd == o->config.id)
            peer_list_self(peer);
        else if (peer->state == PEER_LISTING)
            peer_send_list(peer);
        else if (osd_is_up(o, peer->osd))
            peer_send_query(peer);
    }
}

/* ---- Copying ---- */

static void peering_restart(struct osd_peering *p)
{
    osd_copies_reset(p->pg, false);
    osd_recovery_stop(p->pg);
    p->copies = 0;
    p->joiners_count = p->joiners_done = 0;
    p->failed = false;
    peering_drop_objects(p);
    for (uint32_t i = 0; i < p->peers_count; i++)
        peer_retry(&p->peers[i]);
    p->state = PEERING_ASKING;
    p->asked_ns = loop_now(p->pg->osd->loop);
}

/* Who can give the newest version: ourselves, if we can. peers_count: nobody. */
static uint32_t peering_source(const struct osd_peering *p, const struct peer_object *object)
{
    uint32_t source = p->peers_count;

    for (uint32_t i = 0; i < p->peers_count; i++) {
        bool has = object->newest <= p->stable || object->versions[i] == object->newest;
        if (!p->peers[i].chosen || !has || object->unreadable[i])
            continue;
        if (p->peers[i].osd == p->pg->osd->config.id)
            return i;
        source = i;
    }
    return source;
}

/* Bit rot under the one who was to give it: somebody else may have it whole. */
static bool peering_try_another(struct osd_peering *p, const struct store_id *id)
{
    struct peer_object *object = peering_object(p, id);
    uint32_t source = peering_source(p, object);

    if (source == p->peers_count)
        return false;
    object->unreadable[source] = true;
    if (peering_source(p, object) == p->peers_count)
        return false;
    list_remove(&object->link);
    list_push(&p->todo, &object->link);
    return true;
}

static void peering_on_copy(struct osd_copy *c)
{
    struct osd_peering *p = c->owner;

    p->copies--;
    if (c->result != 0 && (!osd_is_unreadable(c->result) || !peering_try_another(p, &c->st.id)))
        p->failed = true;
    osd_copy_put(c);
    osd_pg_wake(p->pg);
}

static void peering_copy(struct osd_peering *p, struct peer_object *object, struct osd_copy *c)
{
    uint32_t source = peering_source(p, object), self = 0;

    check(source < p->peers_count);
    c->st.id = object->id;
    c->st.dedup_above = p->stable;
    c->how = WIRE_PUSH_ACTIVATION;
    c->done = peering_on_copy;
    c->owner = p;
    for (uint32_t i = 0; i < p->peers_count; i++) {
        if (p->peers[i].osd == p->pg->osd->config.id)
            self = i;
        else if (p->peers[i].chosen && object_lacks(object, p->stable, i))
            osd_copy_target(c, p->peers[i].osd);
    }
    bool behind = object->newest > p->stable && object->versions[self] != object->newest;
    c->from = source != self ? p->peers[source].osd : 0;
    c->replace = behind;
    if (behind || object->dedups[self] < object->union_count) {
        c->add = object->all;
        c->add_count = object->union_count;
    }
    osd_copy_start(c);
}

static void peering_copy_some(struct osd_peering *p)
{
    while (!list_empty(&p->todo) && p->copies < OSD_COPIES_PER_PG) {
        struct osd_copy *c = osd_copy_get(p->pg, false);
        if (c == NULL)
            return; /* the tick tries again */
        struct list *l = list_pop(&p->todo);
        list_push(&p->all, l);
        p->copies++;
        peering_copy(p, container_of(l, struct peer_object, link), c);
    }
}

/* ---- Deciding ---- */

static uint32_t peering_listed(const struct osd_peering *p)
{
    uint32_t listed = 0;

    for (uint32_t i = 0; i < p->peers_count; i++)
        listed += p->peers[i].state == PEER_LISTED;
    return listed;
}

static bool peering_all_listed(const struct osd_peering *p)
{
    for (uint32_t i = 0; i < p->peers_count; i++) {
        if (p->peers[i].state != PEER_LISTED && osd_is_up(p->pg->osd, p->peers[i].osd))
            return false;
    }
    return true;
}

static bool peering_self_listed(const struct osd_peering *p)
{
    for (uint32_t i = 0; i < p->peers_count; i++) {
        if (p->peers[i].osd == p->pg->osd->config.id)
            return p->peers[i].state == PEER_LISTED;
    }
    return false; /* a primary is a member of S */
}

/* Too few of S can be reached from here: let another member of S try, if there is one. */
static void peering_rotate(struct osd_peering *p, uint64_t now)
{
    struct meta_pg_change c;

    if (now < p->asked_ns + PEERING_ROTATE_MS * NS_PER_MS || now < p->rotate_ns)
        return;
    p->rotate_ns = now + PEERING_ROTATE_MS * NS_PER_MS;
    osd_pg_change_fill(p->pg, META_PG_ROTATE, &c);
    for (uint32_t i = 0; i < p->peers_count; i++) {
        if (p->peers[i].osd != p->pg->osd->config.id && osd_is_up(p->pg->osd, p->peers[i].osd)) {
            osd_pg_propose(p->pg, &c);
            return;
        }
    }
}

/* (e) As many of those that placement wants, are up and are not in S as it takes. False: there are
 * too few. */
static bool peering_choose_joiners(struct osd_peering *p, uint64_t now)
{
    const struct osd_pg *pg = p->pg;
    uint32_t listed = peering_listed(p);

    p->joiners_count = p->joiners_done = 0;
    if (now < p->asked_ns + PEERING_JOIN_MS * NS_PER_MS)
        return false;
    for (uint32_t i = 0; i < pg->view.target_count; i++) {
        uint32_t osd = pg->view.target[i];
        if (listed + p->joiners_count < pg->min_size && !osd_pg_in_set(pg, osd) &&
            osd_is_up(pg->osd, osd))
            p->joiners[p->joiners_count++] = osd;
    }
    return listed + p->joiners_count >= pg->min_size;
}

static void peering_step_asking(struct osd_peering *p, uint64_t now)
{
    peering_ask(p, now);
    bool patient = now < p->asked_ns + PEERING_PATIENCE_MS * NS_PER_MS;
    bool enough = peering_listed(p) >= p->pg->min_size;

    if (!peering_self_listed(p) || (!peering_all_listed(p) && patient) ||
        (!enough && !peering_choose_joiners(p, now))) {
        peering_rotate(p, now);
        return;
    }
    if (!peering_build(p)) {
        peering_restart(p);
        return;
    }
    p->state = PEERING_COPYING;
    osd_pg_wake(p->pg);
}

static void peering_step_joining(struct osd_peering *p)
{
    while (p->joiners_done < p->joiners_count) {
        int result = osd_recovery_for_activation(p->pg, p->joiners[p->joiners_done]);
        if (result < 0)
            peering_restart(p);
        if (result <= 0)
            return;
        p->joiners_done++;
    }
    p->state = PEERING_ACTIVATING;
}

static void peering_activate(struct osd_peering *p)
{
    struct meta_pg_change c;

    osd_pg_change_fill(p->pg, META_PG_ACTIVATE, &c);
    for (uint32_t i = 0; i < p->peers_count; i++) {
        if (p->peers[i].chosen)
            c.set[c.set_count++] = p->peers[i].osd;
    }
    for (uint32_t i = 0; i < p->joiners_count; i++) {
        c.set[c.set_count++] = p->joiners[i];
        c.joiners[c.joiners_count++] = p->joiners[i];
    }
    c.version = p->stable;
    osd_pg_propose(p->pg, &c);
}

void osd_peering_step(struct osd_pg *pg)
{
    struct osd_peering *p = pg->peering;
    uint64_t now = loop_now(pg->osd->loop);

    switch (p->state) {
    case PEERING_WAITING:
        if (now < osd_grants_end(pg))
            return;
        p->state = PEERING_ASKING;
        p->asked_ns = now;
        peering_step_asking(p, now);
        return;
    case PEERING_ASKING:
        peering_step_asking(p, now);
        return;
    case PEERING_COPYING:
        if (p->failed) {
            peering_restart(p);
            return;
        }
        peering_copy_some(p);
        if (p->copies > 0 || !list_empty(&p->todo))
            return;
        p->state = PEERING_JOINING;
        osd_pg_wake(pg);
        return;
    case PEERING_JOINING:
        peering_step_joining(p);
        if (p->state == PEERING_ACTIVATING)
            peering_activate(p);
        return;
    case PEERING_ACTIVATING:
        peering_activate(p);
        return;
    }
}

void osd_peering_start(struct osd_pg *pg)
{
    struct osd_peering *p = mem_zalloc(sizeof(*p));

    check(pg->peering == NULL);
    pg->peering = p;
    p->pg = pg;
    p->epoch = pg->view.epoch;
    list_init(&p->link);
    list_init(&p->todo);
    list_init(&p->all);
    hash_init(&p->objects, 64);
    p->peers_count = pg->view.set_count;
    for (uint32_t i = 0; i < p->peers_count; i++) {
        p->peers[i].peering = p;
        p->peers[i].osd = pg->view.set[i];
        p->peers[i].answer = mem_zalloc(OSD_LIST_CHUNK);
    }
    osd_pg_wake(pg);
}

/* When its last call has come back. */
static void peering_free(struct osd_peering *p)
{
    for (uint32_t i = 0; i < p->peers_count; i++) {
        if (p->peers[i].in_flight)
            return;
    }
    list_remove(&p->link);
    peering_drop_objects(p);
    hash_deinit(&p->objects);
    for (uint32_t i = 0; i < p->peers_count; i++) {
        free(p->peers[i].answer);
        free(p->peers[i].list);
    }
    free(p);
}

void osd_peering_stop(struct osd_pg *pg)
{
    struct osd_peering *p = pg->peering;

    if (p == NULL)
        return;
    pg->peering = NULL;
    p->given_up = true;
    list_push(&pg->osd->peerings_leaving, &p->link);
    osd_copies_reset(pg, false);
    osd_recovery_stop(pg);
    for (uint32_t i = 0; i < p->peers_count; i++) {
        if (p->peers[i].in_flight)
            rpc_call_cancel(pg->osd->net, &p->peers[i].call);
    }
    peering_free(p);
}

void osd_peerings_free(struct osd *o)
{
    for (struct list *l = list_pop(&o->peerings_leaving); l != NULL;
         l = list_pop(&o->peerings_leaving)) {
        struct osd_peering *p = container_of(l, struct osd_peering, link);
        for (uint32_t i = 0; i < p->peers_count; i++)
            p->peers[i].in_flight = false;
        peering_free(p);
    }
}
