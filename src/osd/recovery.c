#include "osd/pg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * Bringing one member back into S while clients write (R8, R9):
 *
 *   THEIRS   its list of what lies above w, the stable version at which it left S (0: everything)
 *   OURS     our own list of the same, some objects a turn; what differs is to be copied
 *   COPYING  object by object, each write-locked while its copy is under way; from then on
 *            writes to it need the member. A write to an object that is not copied yet puts it on
 * the list. JOINING  nothing is left: the member is needed for every write, its lease is asked for,
 * then GROW is proposed. It stays needed until the view tells what became of that.
 *
 * Whoever is not in S counts for nothing: our state replaces what differs, newer or older.
 */

enum recovery_state {
    RECOVERY_THEIRS,
    RECOVERY_OURS,
    RECOVERY_COPYING,
    RECOVERY_JOINING,
};

enum { RECOVERY_LIST_PER_STEP = 256, RECOVERY_RETRY_MS = 500 };

enum recovery_object_state {
    RECOVERY_OBJECT_DIFFERS, /* differs, as far as is known */
    RECOVERY_OBJECT_EQUAL,   /* the same on both sides; a write makes it differ */
    RECOVERY_OBJECT_RUNNING, /* waits for its lock, or is being copied: what was written before the
                                lock is part of it */
    RECOVERY_OBJECT_COPIED,  /* on the member, which every write of it needs from now on */
};

struct recovery_object {
    struct hash_link by_id;
    struct list link; /* in todo if it differs, else in others */
    enum recovery_object_state state;
    struct store_id id;
    uint64_t theirs;
    bool seen; /* in our own list */
};

struct osd_recovery {
    struct osd_pg *pg;
    struct list link; /* in osd.recoveries_leaving */
    bool given_up, in_flight, failed;
    bool activating; /* R6e: before the PG is active, for peering.c; there is no GROW */
    enum recovery_state state;
    uint32_t member, incarnation;
    uint64_t bound; /* w */
    uint64_t left;
    uint32_t copies;
    struct store_cursor cursor; /* theirs, then ours */
    struct rpc_call call;
    struct hash objects;
    struct list todo, others;
    uint8_t body[WIRE_LIST_SIZE];
    uint8_t answer[OSD_LIST_CHUNK];
};

static void recovery_free(struct osd_recovery *r)
{
    struct list *heads[] = {&r->todo, &r->others};

    if (r->in_flight)
        return;
    for (size_t i = 0; i < COUNT_OF(heads); i++) {
        for (struct list *l = list_pop(heads[i]); l != NULL; l = list_pop(heads[i]))
            free(container_of(l, struct recovery_object, link));
    }
    list_remove(&r->link);
    hash_deinit(&r->objects);
    free(r);
}

static struct recovery_object *recovery_find(const struct osd_recovery *r,
                                             const struct store_id *id)
{
    struct hash_link *l = hash_find(&r->objects, mix64(id->image) ^ id->object);

    for (; l != NULL; l = hash_next(l)) {
        struct recovery_object *object = container_of(l, struct recovery_object, by_id);
        if (object->id.image == id->image && object->id.object == id->object)
            return object;
    }
    return NULL;
}

static struct recovery_object *recovery_add(struct osd_recovery *r, const struct store_id *id)
{
    struct recovery_object *object = mem_zalloc(sizeof(*object));

    object->id = *id;
    list_init(&object->link);
    list_push(&r->todo, &object->link);
    hash_insert(&r->objects, &object->by_id, mix64(id->image) ^ id->object);
    r->left++;
    return object;
}

static void recovery_object_move(struct osd_recovery *r, struct recovery_object *object,
                                 enum recovery_object_state state)
{
    bool was_left = object->state != RECOVERY_OBJECT_EQUAL;
    bool is_left = state == RECOVERY_OBJECT_DIFFERS || state == RECOVERY_OBJECT_RUNNING;

    r->left = r->left - was_left + is_left;
    object->state = state;
    list_remove(&object->link);
    list_push(state == RECOVERY_OBJECT_DIFFERS ? &r->todo : &r->others, &object->link);
}

/* ---- What others ask ---- */

uint32_t osd_recovery_member(const struct osd_pg *pg)
{
    return pg->recovery != NULL ? pg->recovery->member : 0;
}

uint64_t osd_recovery_bound(const struct osd_pg *pg)
{
    return pg->recovery != NULL ? pg->recovery->bound : UINT64_MAX;
}

uint64_t osd_recovery_left(const struct osd_pg *pg)
{
    return pg->recovery != NULL ? pg->recovery->left : 0;
}

bool osd_recovery_has(const struct osd_pg *pg, const struct store_id *id)
{
    if (pg->recovery == NULL)
        return false;
    const struct recovery_object *object = recovery_find(pg->recovery, id);
    return object != NULL && object->state == RECOVERY_OBJECT_COPIED;
}

void osd_recovery_written(struct osd_pg *pg, const struct store_id *id)
{
    struct osd_recovery *r = pg->recovery;

    if (r == NULL || r->state == RECOVERY_JOINING)
        return;
    struct recovery_object *object = recovery_find(r, id);
    if (object == NULL)
        recovery_add(r, id);
    else if (object->state == RECOVERY_OBJECT_EQUAL)
        recovery_object_move(r, object, RECOVERY_OBJECT_DIFFERS);
}

/* ---- Lists ---- */

static bool recovery_take_theirs(struct osd_recovery *r, struct slice chunk)
{
    const uint8_t *p = chunk.base;

    if (chunk.len < WIRE_LIST_HEAD)
        return false;
    size_t at = WIRE_LIST_HEAD;
    for (uint32_t i = 0, count = get_u32(p); i < count; i++) {
        if (chunk.len - at < WIRE_LIST_ITEM)
            return false;
        struct store_id id = {get_u64(p + at), get_u64(p + at + 8)};
        uint32_t dedups = get_u32(p + at + 28);
        struct recovery_object *object = recovery_find(r, &id);
        if (object == NULL)
            object = recovery_add(r, &id);
        object->theirs = get_u64(p + at + 16);
        at += WIRE_LIST_ITEM;
        if (dedups > (chunk.len - at) / WIRE_DEDUP_SIZE)
            return false;
        at += (size_t)dedups * WIRE_DEDUP_SIZE;
    }
    r->cursor.started = true;
    r->cursor.position[0] = get_u64(p + 8);
    r->cursor.position[1] = get_u64(p + 16);
    if (get_u32(p + 4) == 0) {
        r->state = RECOVERY_OURS;
        r->cursor = (struct store_cursor){.pg = r->pg->id};
    }
    return true;
}

static void recovery_on_list(struct rpc_call *call)
{
    struct osd_recovery *r = container_of(call, struct osd_recovery, call);

    r->in_flight = false;
    if (r->given_up) {
        recovery_free(r);
        return;
    }
    if (call->status != 0 || !recovery_take_theirs(r, call->reply_body))
        r->failed = true;
    osd_pg_wake(r->pg);
}

static void recovery_ask_theirs(struct osd_recovery *r)
{
    struct osd *o = r->pg->osd;

    put_u64(r->body, r->bound);
    put_u64(r->body + 8, r->cursor.position[0]);
    put_u64(r->body + 16, r->cursor.position[1]);
    put_u32(r->body + 24, r->cursor.started);
    put_u32(r->body + 28, 1);
    r->in_flight = true;
    r->call = (struct rpc_call){
        .to = net_endpoint_make(NET_OSD, r->member),
        .kind = WIRE_LIST,
        .pg = r->pg->id,
        .epoch = r->pg->view.epoch,
        .to_incarnation = r->incarnation,
        .revision = r->pg->view_revision,
        .body = {r->body, WIRE_LIST_SIZE},
        .deadline_ns = loop_now(o->loop) + 2 * NS_PER_S,
        .body_buf = r->answer,
        .body_buf_size = sizeof(r->answer),
        .done = recovery_on_list,
    };
    rpc_call_start(o->net, &r->call);
}

/* What only they have is compared too: it may be a leftover of a write that never was. */
static void recovery_settle_unseen(struct osd_recovery *r)
{
    for (struct list *pos = r->todo.next, *next; pos != &r->todo; pos = next) {
        struct recovery_object *object = container_of(pos, struct recovery_object, link);
        struct store_object own = {.version = 0};
        next = pos->next;
        if (object->seen)
            continue;
        object->seen = true;
        if ((store_lookup(r->pg->osd->store, &object->id, &own) && own.version == object->theirs) ||
            osd_mutated(r->pg->osd, OSD_MUTANT_LEFTOVERS_STAY))
            recovery_object_move(r, object, RECOVERY_OBJECT_EQUAL);
    }
    r->state = RECOVERY_COPYING;
}

static void recovery_list_ours(struct osd_recovery *r)
{
    struct osd *o = r->pg->osd;
    struct store_object own;

    for (uint32_t i = 0; i < RECOVERY_LIST_PER_STEP; i++) {
        if (store_list(o->store, r->pg->id, r->bound, &r->cursor, &own, 1) == 0) {
            if (r->cursor.ended)
                recovery_settle_unseen(r);
            break;
        }
        struct recovery_object *object = recovery_find(r, &own.id);
        if (object == NULL)
            object = recovery_add(r, &own.id);
        else if (!object->seen && own.version != 0 &&
                 (object->theirs == own.version ||
                  (object->theirs > own.version && osd_mutated(o, OSD_MUTANT_LEFTOVERS_STAY))))
            recovery_object_move(r, object, RECOVERY_OBJECT_EQUAL);
        object->seen = true;
    }
    osd_pg_wake(r->pg);
}

/* ---- Copies ---- */

static void recovery_on_copy(struct osd_copy *c)
{
    struct osd_recovery *r = c->owner;
    struct recovery_object *object = recovery_find(r, &c->st.id);

    check(object != NULL);
    r->copies--;
    if (c->result == 0) {
        recovery_object_move(r, object, RECOVERY_OBJECT_COPIED);
        r->pg->osd->counters.recovered_objects_total++;
    } else {
        r->failed = true;
    }
    if (osd_is_unreadable(c->result))
        osd_repair_start(r->pg, &object->id);
    osd_copy_put(c);
    osd_pg_wake(r->pg);
}

/* Nothing is missing where the PG is now: others go first. */
static bool recovery_is_move(const struct osd_pg *pg)
{
    return pg->view.set_count >= pg->replicas;
}

static void recovery_copy_some(struct osd_recovery *r)
{
    uint32_t most = recovery_is_move(r->pg) ? OSD_COPIES_PER_PG / 2 : OSD_COPIES_PER_PG;

    while (!list_empty(&r->todo) && r->copies < most) {
        struct osd_copy *c = osd_copy_get(r->pg, false);
        if (c == NULL)
            return; /* the tick tries again */
        struct recovery_object *object = container_of(r->todo.next, struct recovery_object, link);
        recovery_object_move(r, object, RECOVERY_OBJECT_RUNNING);
        r->copies++;
        c->st.id = object->id;
        c->st.dedup_above = r->bound;
        c->how = WIRE_PUSH_RECOVERY;
        c->locked = true;
        c->done = recovery_on_copy;
        c->owner = r;
        osd_copy_target(c, r->member);
        osd_copy_start(c);
    }
}

/* ---- Joining ---- */

static bool recovery_member_leased(const struct osd_recovery *r)
{
    for (uint32_t i = 0; i < OSD_MEMBERS_MAX; i++) {
        const struct osd_lease *l = &r->pg->leases[i];
        if (l->osd == r->member && l->sent_ns != 0 &&
            loop_now(r->pg->osd->loop) < l->sent_ns + r->pg->osd->lease_ns)
            return true;
    }
    return false;
}

static void recovery_join(struct osd_recovery *r)
{
    struct osd_pg *pg = r->pg;
    struct meta_pg_change c;

    if (pg->pending_add == 0) {
        pg->pending_add = r->member;
        for (uint32_t i = 0; i < OSD_MEMBERS_MAX;
             i++) { /* a lease of an earlier membership says nothing now */
            if (pg->leases[i].osd == r->member)
                pg->leases[i].sent_ns = 0;
        }
        pg->osd->lease_next_ns = 0;
        loop_wake(pg->osd->loop, &pg->osd->task);
        osd_pg_wake_writes(pg);
    }
    if (!recovery_member_leased(r))
        return;
    osd_pg_change_fill(pg, META_PG_GROW, &c);
    c.set_count = 1;
    c.set[0] = r->member;
    c.osd_incarnation = r->incarnation;
    osd_pg_propose(pg, &c);
}

/*
 * The member is lost. Once it is needed (a GROW may be on its way), the way out is an epoch of the
 * same S, which kills a late GROW (R9); before that it is enough to stop.
 */
static void recovery_give_up(struct osd_recovery *r)
{
    struct osd_pg *pg = r->pg;

    if (pg->pending_add != 0) {
        osd_pg_shrink(pg, NULL, 0);
        return;
    }
    pg->recovery_retry_ns = loop_now(pg->osd->loop) + RECOVERY_RETRY_MS * NS_PER_MS;
    osd_recovery_stop(pg);
    osd_pg_wake_writes(pg);
}

/* ---- The machine ---- */

/*
 * Where placement wants the PG, is up, and is not in S. A full S takes one more than it needs: the
 * member whose place that is leaves when the newcomer has everything (pg.c), so that a move never
 * costs redundancy.
 */
uint32_t osd_recovery_candidate(const struct osd_pg *pg)
{
    if (pg->view.set_count > pg->replicas || pg->view.set_count == META_REPLICAS_MAX)
        return 0;
    for (uint32_t i = 0; i < pg->view.target_count; i++) {
        uint32_t osd = pg->view.target[i];
        if (osd != pg->osd->config.id && !osd_pg_in_set(pg, osd) && osd_is_up(pg->osd, osd))
            return osd;
    }
    return 0;
}

static void recovery_start(struct osd_pg *pg, uint32_t member)
{
    struct osd_recovery *r = mem_zalloc(sizeof(*r));

    pg->recovery = r;
    pg->osd->sessions++;
    r->pg = pg;
    r->member = member;
    r->incarnation = osd_incarnation_of(pg->osd, member);
    r->bound = osd_pg_stale_of(pg, member);
    pg->courted = member;
    pg->courted_epoch = pg->view.epoch;
    r->cursor = (struct store_cursor){.pg = pg->id};
    list_init(&r->link);
    list_init(&r->todo);
    list_init(&r->others);
    hash_init(&r->objects, 64);
}

/* True when the member has everything and nothing is under way. */
static bool recovery_advance(struct osd_recovery *r)
{
    switch (r->state) {
    case RECOVERY_THEIRS:
        if (!r->in_flight)
            recovery_ask_theirs(r);
        return false;
    case RECOVERY_OURS:
        recovery_list_ours(r);
        return false;
    case RECOVERY_COPYING:
        recovery_copy_some(r);
        return r->copies == 0 && list_empty(&r->todo);
    case RECOVERY_JOINING:
        return true;
    }
    return false;
}

int osd_recovery_for_activation(struct osd_pg *pg, uint32_t member)
{
    if (pg->recovery == NULL) {
        recovery_start(pg, member);
        pg->recovery->activating = true;
    }
    struct osd_recovery *r = pg->recovery;
    if (r->failed || osd_incarnation_of(pg->osd, member) != r->incarnation) {
        osd_recovery_stop(pg);
        return -EAGAIN;
    }
    if (!recovery_advance(r))
        return 0;
    osd_recovery_stop(pg);
    return 1;
}

void osd_recovery_step(struct osd_pg *pg)
{
    struct osd *o = pg->osd;
    struct osd_recovery *r = pg->recovery;
    bool is_move = recovery_is_move(pg);

    if (r == NULL) {
        uint32_t member = osd_recovery_candidate(pg);
        if (member == 0 || o->sessions >= (is_move ? OSD_SESSIONS_MOVE : OSD_SESSIONS_MAX) ||
            loop_now(o->loop) < pg->recovery_retry_ns)
            return;
        recovery_start(pg, member);
        r = pg->recovery;
    }
    if (r->failed || osd_incarnation_of(o, r->member) != r->incarnation ||
        !osd_pg_is_target(pg, r->member)) {
        recovery_give_up(r);
    } else if (recovery_advance(r)) {
        r->state = RECOVERY_JOINING;
        recovery_join(r);
    }
}

void osd_recovery_stop(struct osd_pg *pg)
{
    struct osd_recovery *r = pg->recovery;

    if (r == NULL)
        return;
    pg->recovery = NULL;
    pg->osd->sessions--;
    r->given_up = true;
    osd_copies_reset(pg, false);
    list_push(&pg->osd->recoveries_leaving, &r->link);
    if (r->in_flight)
        rpc_call_cancel(pg->osd->net, &r->call);
    recovery_free(r);
}

void osd_recoveries_free(struct osd *o)
{
    for (struct list *l = list_pop(&o->recoveries_leaving); l != NULL;
         l = list_pop(&o->recoveries_leaving)) {
        struct osd_recovery *r = container_of(l, struct osd_recovery, link);
        r->in_flight = false;
        recovery_free(r);
    }
}
