#include "osd/pg.h"

#include <errno.h>

/*
 * An object that our own device does not give back (a bad checksum, an error): the primary fetches
 * it from another member of S and writes it anew, to other slots. Whoever wanted to read it is told
 * to come again; or, when all others were asked and none gave it back, that it is lost. An error of
 * a device may pass, so they are asked more than once.
 *
 * The copy is of our own version, or it is not taken: while it is under way nothing writes to the
 * object (OSD_USE_COPY), and what is not in flight is the same on every member.
 *
 * What scrub finds is mended here too, by whoever found it: the primary as above, another member in
 * the same way, but without the lock, which only the primary's would be. A write may come between;
 * then the versions differ when the copy is there, it is not taken, and a later try finds a quieter
 * moment. Same version, same content: a version is given once, to what is written on top of one
 * other version, and members write nothing on top of another one (member.c). The version is looked
 * at when the new content is handed to the store, which keeps its writes in order.
 */

enum {
    REPAIR_ROUNDS = 3,  /* of all others; then it is lost */
    REPAIR_AT_ONCE = 2, /* of what scrub found */
    REPAIR_TRIES = 60,
    REPAIR_RETRY_MS = 1000,
};

bool osd_is_unreadable(int result)
{
    return result == -EBADMSG || result == -EIO;
}

static struct osd_bad *bad_find(struct osd_pg *pg, const struct store_id *id)
{
    for (uint32_t i = 0; i < OSD_BAD_MAX; i++) {
        struct osd_bad *b = &pg->bad[i];
        if (b->tries > 0 && b->id.image == id->image && b->id.object == id->object)
            return b;
    }
    return NULL;
}

/* What another member said when it was asked for the object. */
static void bad_note(struct osd_pg *pg, const struct store_id *id, int result)
{
    struct osd_bad *b = bad_find(pg, id);

    if (b != NULL && result == 0) {
        b->tries = 0;
    } else if (b != NULL && osd_is_unreadable(result)) {
        b->tries++;
    } else if (osd_is_unreadable(result)) {
        b = &pg->bad[pg->bad_next++ % OSD_BAD_MAX];
        *b = (struct osd_bad){.id = *id, .tries = 1};
    }
}

/* ---- What scrub found ---- */

static struct osd_rotten *rotten_find(struct osd *o, const struct store_id *id)
{
    for (uint32_t i = 0; i < o->rotten_count; i++) {
        struct osd_rotten *r = &o->rotten[i];
        if (r->id.image == id->image && r->id.object == id->object)
            return r;
    }
    return NULL;
}

static void rotten_forget(struct osd *o, const struct store_id *id)
{
    struct osd_rotten *r = rotten_find(o, id);

    if (r != NULL)
        *r = o->rotten[--o->rotten_count];
}

/* What finds no room comes again with the next round of scrub. */
void osd_repair_note(struct osd *o, const struct store_id *id, uint64_t pg)
{
    if (rotten_find(o, id) != NULL || o->rotten_count == OSD_ROTTEN_MAX)
        return;
    o->rotten[o->rotten_count++] = (struct osd_rotten){.id = *id, .pg = pg};
    loop_wake(o->loop, &o->task);
}

/* ---- One repair ---- */

static void repair_on_done(struct osd_copy *c)
{
    struct osd *o = c->osd;

    bad_note(c->pg, &c->st.id, c->result);
    if (c->result == 0) {
        rotten_forget(o, &c->st.id);
        o->counters.repaired_objects_total++;
        log_warn(o->name, "repaired object=%llu image=%llu from=osd.%u",
                 (unsigned long long)c->st.id.object, (unsigned long long)c->st.id.image, c->from);
    }
    osd_copy_put(c);
}

static bool repair_is_under_way(const struct osd_pg *pg, const struct store_id *id)
{
    list_for_each (pos, &pg->copies) {
        const struct osd_copy *c = container_of(pos, struct osd_copy, link);
        if (c->repair && c->st.id.image == id->image && c->st.id.object == id->object)
            return true;
    }
    return false;
}

/* Another member that is up; each time the next one, for its copy may be bad too. 0: there is none.
 */
static uint32_t repair_source(struct osd_pg *pg)
{
    uint32_t need[OSD_MEMBERS_MAX], count = osd_pg_need(pg, NULL, need);

    for (uint32_t i = 0; i < count; i++) {
        uint32_t osd = need[(pg->repair_next + i) % count];
        if (!osd_is_up(pg->osd, osd) || !osd_pg_in_set(pg, osd))
            continue;
        pg->repair_next = (pg->repair_next + i + 1) % count;
        return osd;
    }
    return 0;
}

static int repair_hope(struct osd_pg *pg, const struct store_id *id)
{
    const struct osd_bad *b = bad_find(pg, id);
    uint32_t need[OSD_MEMBERS_MAX], others = 0;
    struct store_status st;

    store_status(pg->osd->store, &st);
    if (st.failed) /* not the object, but the whole device: another primary will have it */
        return -EAGAIN;
    for (uint32_t i = 0, count = osd_pg_need(pg, NULL, need); i < count; i++)
        others += osd_pg_in_set(pg, need[i]);
    return others == 0 || (b != NULL && b->tries >= REPAIR_ROUNDS * others) ? -ENODATA : -EAGAIN;
}

/* False: not now. */
static bool repair_begin(struct osd_pg *pg, const struct store_id *id, bool scrubbed)
{
    uint32_t from = repair_source(pg);

    if (from == 0 || repair_is_under_way(pg, id))
        return false;
    struct osd_copy *c = osd_copy_get(pg, false);
    if (c == NULL)
        return false;
    c->scrubbed = scrubbed;
    pg->osd->repairs += scrubbed;
    c->st.id = *id;
    c->st.dedup_above = UINT64_MAX; /* our dedup records are not concerned */
    c->how = WIRE_PUSH_RECOVERY;
    c->from = from;
    c->locked = c->replace = c->repair = true;
    c->done = repair_on_done;
    osd_copy_start(c);
    return true;
}

int osd_repair_start(struct osd_pg *pg, const struct store_id *id)
{
    int hope = repair_hope(pg, id);

    repair_begin(pg, id, false); /* who reads it again asks again */
    return hope;
}

/* Is there anything left to mend? A prepared version would not survive the repair. */
static bool rotten_is_here(struct osd *o, const struct osd_rotten *r)
{
    const struct osd_pg *pg = osd_pg_find(o, r->pg);
    struct store_object own;

    return pg != NULL && !pg->foreign && !osd_image_is_gone(o, r->id.image) &&
           store_lookup(o->store, &r->id, &own) && !own.deleted && own.prepared == 0;
}

/* A member of S, and nothing newer was promised; as primary, an active one. */
static bool rotten_may_try(const struct osd_pg *pg)
{
    if (pg->mine)
        return osd_pg_acting(pg);
    return osd_pg_in_set(pg, pg->osd->config.id) && pg->promised <= pg->view.epoch &&
           pg->peering == NULL;
}

/* Some at a time; each again after a while, until it is mended, gone, or was tried often. */
void osd_repairs_step(struct osd *o)
{
    uint64_t now = loop_now(o->loop);

    for (uint32_t i = 0; i < o->rotten_count && o->repairs < REPAIR_AT_ONCE; i++) {
        struct osd_rotten *r = &o->rotten[i];
        if (now < r->next_ns)
            continue;
        if (r->tries == REPAIR_TRIES || !rotten_is_here(o, r)) {
            if (r->tries == REPAIR_TRIES)
                log_warn(o->name, "cannot repair object=%llu image=%llu until scrub finds it again",
                         (unsigned long long)r->id.object, (unsigned long long)r->id.image);
            *r = o->rotten[--o->rotten_count];
            i--;
            continue;
        }
        struct osd_pg *pg = osd_pg_find(o, r->pg);
        r->next_ns = now + REPAIR_RETRY_MS * NS_PER_MS;
        if (rotten_may_try(pg) && repair_begin(pg, &r->id, true))
            r->tries++;
    }
}
