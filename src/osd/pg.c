#include "osd/pg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * A PG as this OSD sees it. Three things move it: a newer view from the cluster
 * state (osd_pg_view), a message of a higher epoch (osd_pg_promise), and time
 * (the OSD's tick). What follows from them is decided in pg_step():
 *
 *   not mine            --view: mine, inactive-->  peering
 *   peering             --view: active, our own ACTIVATE-->  acting
 *   acting              --view: same primary, epoch + 1-->   acting, writes in flight are sent
 * again (R5) acting or peering   --view: another primary, or inactive-->  reset, then as above
 *
 * There is no way back to acting without an activation (R4).
 */

static void pg_step(struct task *task);

struct osd_pg *osd_pg_create(struct osd *o, uint64_t id)
{
    struct osd_pg *pg = mem_zalloc(sizeof(*pg));

    pg->osd = o;
    pg->id = id;
    task_init(&pg->task, pg_step);
    list_init(&pg->link);
    list_init(&pg->subs);
    list_init(&pg->draining);
    list_init(&pg->writes);
    list_init(&pg->reads);
    list_init(&pg->copies);
    if (o->incarnation > 1 &&
        !osd_mutated(o, OSD_MUTANT_NO_BOOT_GRANT)) /* R6a: grants of earlier incarnations are
                                                      forgotten, not void */
        pg->grant_unknown_ns = o->boot_ns;
    hash_insert(&o->pgs, &pg->by_id, id);
    return pg;
}

void osd_pg_free(struct osd_pg *pg)
{
    osd_peering_stop(pg);
    osd_recovery_stop(pg);
    free(pg);
}

void osd_pg_wake(struct osd_pg *pg)
{
    loop_wake(pg->osd->loop, &pg->task);
}

bool osd_pg_promise(struct osd_pg *pg, uint32_t epoch)
{
    if (osd_mutated(pg->osd, OSD_MUTANT_NO_FENCE))
        return true;
    if (epoch < pg->promised)
        return false;
    if (epoch > pg->promised) {
        pg->promised = epoch;
        osd_pg_wake(pg);
    }
    return true;
}

bool osd_pg_acting(const struct osd_pg *pg)
{
    return pg->acting && pg->view.active && pg->promised <= pg->view.epoch && !pg->osd->stopping;
}

uint64_t osd_pg_known(const struct osd_pg *pg)
{
    uint64_t activated = osd_version(pg->view.activated, 0);

    return pg->stable > activated ? pg->stable : activated;
}

uint64_t osd_pg_stable(const struct osd_pg *pg)
{
    uint64_t lowest = osd_mutated(pg->osd, OSD_MUTANT_STABLE_TOO_HIGH) ? 0 : osd_writes_lowest(pg);

    return lowest != 0 ? lowest - 1 : pg->version_last;
}

uint64_t osd_pg_tombstone_floor(const struct osd_pg *pg)
{
    uint64_t floor = osd_pg_stable(pg);

    for (uint32_t i = 0; i < pg->view.stale_count; i++) {
        if (pg->view.stale[i].version < floor)
            floor = pg->view.stale[i].version;
    }
    uint64_t bound = osd_recovery_bound(pg);
    return bound < floor ? bound : floor;
}

void osd_pg_hear(struct osd_pg *pg, uint64_t stable, uint64_t floor)
{
    if (stable > pg->stable)
        pg->stable = stable;
    store_trim(pg->osd->store, pg->id, floor);
}

bool osd_pg_in_set(const struct osd_pg *pg, uint32_t osd)
{
    for (uint32_t i = 0; i < pg->view.set_count; i++) {
        if (pg->view.set[i] == osd)
            return true;
    }
    return false;
}

bool osd_pg_is_target(const struct osd_pg *pg, uint32_t osd)
{
    for (uint32_t i = 0; i < pg->view.target_count; i++) {
        if (pg->view.target[i] == osd)
            return true;
    }
    return false;
}

uint64_t osd_pg_stale_of(const struct osd_pg *pg, uint32_t osd)
{
    for (uint32_t i = 0; i < pg->view.stale_count; i++) {
        if (pg->view.stale[i].osd == osd)
            return pg->view.stale[i].version;
    }
    return 0;
}

uint32_t osd_pg_need(const struct osd_pg *pg, const struct store_id *id,
                     uint32_t need[OSD_MEMBERS_MAX])
{
    uint32_t count = 0, extra = pg->pending_add;

    for (uint32_t i = 0; i < pg->view.set_count; i++) {
        if (pg->view.set[i] != pg->osd->config.id)
            need[count++] = pg->view.set[i];
    }
    if (extra == 0 && id != NULL && osd_recovery_has(pg, id))
        extra = osd_recovery_member(pg);
    if (extra != 0 && !osd_pg_in_set(pg, extra) &&
        !osd_mutated(pg->osd, OSD_MUTANT_JOINER_NOT_NEEDED))
        need[count++] = extra;
    return count;
}

bool osd_pg_has_room(const struct osd_pg *pg)
{
    for (uint32_t i = 0; i < OSD_MEMBERS_MAX; i++) {
        if (pg->leases[i].full)
            return false;
    }
    return osd_has_room(pg->osd, OSD_ROOM_NEW);
}

void osd_pg_wake_writes(struct osd_pg *pg)
{
    list_for_each (pos, &pg->writes)
        loop_wake(pg->osd->loop, &container_of(pos, struct osd_write, link)->task);
}

void osd_pg_store_done(struct osd_pg *pg)
{
    check(pg->store_busy > 0);

    if (--pg->store_busy == 0) {
        osd_queries_drained(pg);
        osd_pg_wake(pg);
    }
}

uint64_t osd_pg_push_number(struct osd_pg *pg)
{
    return osd_version(pg->view.epoch, ++pg->push_counter);
}

/* ---- Proposals ---- */

void osd_pg_change_fill(const struct osd_pg *pg, enum meta_pg_change_kind kind,
                        struct meta_pg_change *c)
{
    *c = (struct meta_pg_change){
        .kind = kind,
        .pg = pg->id,
        .epoch = pg->view.epoch,
        .primary = pg->osd->config.id,
        .primary_incarnation = pg->osd->incarnation,
    };
}

/*
 * One proposal of a PG is under way at a time; the next waits until our view
 * shows what became of it, or for a second. All are compare-and-set on
 * the epoch, so a late one changes nothing.
 */
void osd_pg_propose(struct osd_pg *pg, const struct meta_pg_change *change)
{
    struct osd *o = pg->osd;

    if (pg->change_wanted || pg->change_sent)
        return;
    if (pg->view_revision < pg->change_revision && loop_now(o->loop) < pg->change_ns + NS_PER_S)
        return;
    pg->change = *change;
    pg->change_wanted = true;
    loop_wake(o->loop, &o->task);
}

void osd_pg_shrink(struct osd_pg *pg, const uint32_t *out, uint32_t out_count)
{
    struct meta_pg_change c;

    osd_pg_change_fill(pg, META_PG_SHRINK, &c);
    for (uint32_t i = 0; i < pg->view.set_count; i++) {
        bool leaves = false;
        for (uint32_t k = 0; k < out_count; k++)
            leaves = leaves || out[k] == pg->view.set[i];
        if (!leaves)
            c.set[c.set_count++] = pg->view.set[i];
    }
    c.version = osd_pg_stable(pg);
    if (c.set_count >= pg->min_size)
        osd_pg_propose(pg, &c);
}

/* ---- The reign ---- */

/* Deposed, or not activated any more: nothing of this reign is answered with success from here on.
 */
void osd_pg_reset(struct osd_pg *pg)
{
    osd_lease_release(pg);
    pg->acting = false;
    pg->pending_add = 0;
    memset(pg->leases, 0, sizeof(pg->leases));
    osd_peering_stop(pg);
    osd_recovery_stop(pg);
    osd_uses_refuse(pg, -EAGAIN);
    osd_writes_reset(pg);
    osd_reads_reset(pg);
    osd_copies_reset(pg, true);
    if (!pg->change_sent)
        pg->change_wanted = false;
}

static void pg_begin_reign(struct osd_pg *pg)
{
    osd_peering_stop(pg);
    pg->acting = true;
    pg->seq = 0;
    pg->version_last = osd_version(pg->view.epoch, 0);
    pg->osd->lease_next_ns = 0;
    loop_wake(pg->osd->loop, &pg->osd->task);
}

/* Same primary, new epoch: our own SHRINK or GROW. What is in flight goes on under the new epoch
 * with its old version. */
static void pg_continue_reign(struct osd_pg *pg)
{
    uint32_t member = osd_recovery_member(pg);

    if (pg->pending_add != 0 || pg->view.set_count >= pg->replicas ||
        (member != 0 && osd_pg_in_set(pg, member)))
        osd_recovery_stop(pg);
    pg->pending_add = 0;
    osd_writes_continue(pg);
    pg->osd->lease_next_ns = 0;
    loop_wake(pg->osd->loop, &pg->osd->task);
}

static void pg_apply_view(struct osd_pg *pg, const struct map_pg *old)
{
    bool new_epoch = pg->view.epoch != old->epoch;

    if (!pg->mine || !pg->view.active) {
        bool peering_goes_on = pg->mine && pg->peering != NULL && !new_epoch;
        if (!peering_goes_on && (pg->acting || pg->peering != NULL))
            osd_pg_reset(pg);
        if (pg->mine && pg->peering == NULL)
            osd_peering_start(pg);
        return;
    }
    if (pg->acting) {
        if (new_epoch)
            pg_continue_reign(pg);
    } else if ((pg->peering != NULL && !new_epoch) ||
               osd_mutated(pg->osd, OSD_MUTANT_NO_INCARNATION)) {
        pg_begin_reign(pg);
    }
}

/*
 * Placement took this PG away from us, it is complete without us, and the cluster knows that we
 * have nothing of it that counts (no stale row): what we still hold is only in the way.
 *
 * Placement may want us again, without a new epoch, and the primary's map may be older than ours,
 * or newer. So in an epoch in which somebody brings us up to date nothing is dropped: the GROW that
 * may come of it is of this epoch, or the primary has given up before the next in which S is
 * complete (pg_continue_reign()). And where something was dropped, nobody who still sees a row
 * brings us up to date (osd_list_handle()).
 */
static bool pg_is_foreign(const struct osd_pg *pg)
{
    uint32_t self = pg->osd->config.id;

    if (!pg->view.active || pg->view.set_count < pg->replicas || osd_pg_in_set(pg, self) ||
        osd_pg_is_target(pg, self) || pg->joins >= pg->view.epoch || pg->promised > pg->view.epoch)
        return false;
    return osd_pg_stale_of(pg, self) == 0;
}

void osd_pg_joins(struct osd_pg *pg, uint32_t epoch)
{
    if (osd_mutated(pg->osd, OSD_MUTANT_PURGE_JOINING))
        return;
    if (epoch > pg->joins)
        pg->joins = epoch;
    pg->foreign = false;
}

void osd_pg_view(struct osd_pg *pg, const struct map_pg *view, const struct map_pool *pool,
                 uint64_t revision)
{
    struct osd *o = pg->osd;
    struct map_pg old = pg->view;

    if (revision <= pg->view_revision)
        return;
    pg->view = *view;
    pg->view_revision = revision;
    pg->replicas = pool->replicas;
    pg->min_size = pool->min_size;
    pg->object_size = pool->object_size;
    if (view->epoch > pg->promised)
        pg->promised = view->epoch;
    pg->mine = view->primary == o->config.id && o->registered &&
               osd_incarnation_of(o, o->config.id) == o->incarnation;
    pg->foreign = pg_is_foreign(pg);
    pg_apply_view(pg, &old);
    osd_pg_wake(pg);
    osd_pg_wake_writes(pg);
}

/* Members that the leader knows to be down leave S; R5. */
static void pg_drop_dead_members(struct osd_pg *pg)
{
    uint32_t out[META_REPLICAS_MAX], count = 0;

    for (uint32_t i = 0; i < pg->view.set_count; i++) {
        if (!osd_is_up(pg->osd, pg->view.set[i]))
            out[count++] = pg->view.set[i];
    }
    if (count > 0)
        osd_pg_shrink(pg, out, count);
}

/* We lead where placement does not want us: somebody it wants shall, and send us away. */
static void pg_hand_over(struct osd_pg *pg)
{
    struct meta_pg_change c;

    osd_pg_change_fill(pg, META_PG_SWITCH, &c);
    for (uint32_t i = 0; i < pg->view.target_count; i++) {
        uint32_t osd = pg->view.target[i];
        if (!osd_pg_in_set(pg, osd) || !osd_is_up(pg->osd, osd))
            continue;
        c.set_count = 1;
        c.set[0] = osd;
        osd_pg_propose(pg, &c);
        return;
    }
}

/* The end of a move: S has more members than it needs, and one of them is not where placement wants
 * the PG. */
static void pg_drop_surplus(struct osd_pg *pg)
{
    uint32_t self = pg->osd->config.id;

    if (pg->view.set_count <= pg->replicas || pg->pending_add != 0)
        return;
    for (uint32_t i = 0; i < pg->view.set_count; i++) {
        uint32_t osd = pg->view.set[i];
        if (osd != self && !osd_pg_is_target(pg, osd)) {
            osd_pg_shrink(pg, &osd, 1);
            return;
        }
    }
    if (!osd_pg_is_target(pg, self))
        pg_hand_over(pg);
}

/* Who was being brought up to date, and is not wanted any more, is told so by a new epoch: then it
 * may drop what it got. */
static void pg_let_go(struct osd_pg *pg)
{
    if (pg->courted == 0 || pg->recovery != NULL)
        return;
    if (pg->courted_epoch != pg->view.epoch || osd_pg_in_set(pg, pg->courted))
        pg->courted = 0;
    else if (!osd_pg_is_target(pg, pg->courted) && pg->view.set_count >= pg->replicas)
        osd_pg_shrink(pg, NULL, 0);
}

static void pg_step(struct task *task)
{
    struct osd_pg *pg = container_of(task, struct osd_pg, task);

    if (pg->osd->failed)
        return;
    if (pg->promised > pg->view.epoch) /* R3: a newer epoch exists, its view will come */
        return;
    if (pg->peering != NULL) {
        osd_peering_step(pg);
    } else if (osd_pg_acting(pg)) {
        pg_drop_dead_members(pg);
        pg_drop_surplus(pg);
        osd_recovery_step(pg);
        pg_let_go(pg);
    }
}
