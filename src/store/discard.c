#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "store/impl.h"

/*
 * What is free is given back to the device, or to the file system, in the background: one run of
 * slots at a time, with a pause after each. While it is on its way its slots count as used, so that
 * nobody writes there; then they are free again, and whoever waited for a slot is woken.
 *
 *     PAUSE --timer--> LOOK --a free run in a group where slots were freed--> DISCARD --> PAUSE
 *
 * Which slots were discarded already is not kept, only in which groups something was freed since
 * (slots.c). At a start that is all of them: what was free before it is looked at once more.
 *
 * Why a crash does no harm: only slots that are free are discarded, and S1 says when a slot is. A
 * durable mark had reached the record that replaced what it held (or no record named it ever), so a
 * start takes that later record for true, and nothing it may believe names the slot:
 *   - a record up to the mark that named it is followed by the one that replaced it, up to the mark
 *     too; neither is verified, and both count;
 *   - a record beyond the mark of the last block that names the slot was composed later, so the
 *     slot had been handed out again. It was then used, and not discarded, and no discard of it was
 *     on its way: what is verified is that record's own data, written after the discard was done;
 *   - settled runs are not looked at, but a record that has one is older than whatever replaced it:
 *     if the slot was free again, that record lies below the mark, as above;
 *   - slots of records that a start dropped are free when the block that names these is durable,
 *     and a store that is not open discards nothing.
 * Nor is there a write on its way to such a slot, one of those that a record took in together: the
 * mark has reached the record, so the data of all of them is durable. Reads that began before the
 * slot was replaced are over (S1).
 * The device may have done a discard, a part of it, or nothing when the power goes; all is the
 * same. One that is under way when the process dies holds the file's lock until it is done.
 */
enum {
    DISCARD_MIN = 16, /* slots: less is not worth a command */
    DISCARD_PAUSE_MS = 20,
    DISCARD_BUSY_MS = 200,   /* … while others have work for the device */
    DISCARD_BUSY_OPS = 4,    /* more in flight than this */
    DISCARD_LOOK = 4096,     /* groups that one step looks at; one that it searches counts 256 */
    DISCARD_PASS_MS = 60000, /* from the beginning of one pass over the device to the next */
    DISCARD_KEEP = 4 * STORE_BLOCKS_MAX, /* slots that stay free for writes meanwhile */
};

static void discard_sleep(struct discard *d, uint64_t ms)
{
    loop_timer_start(d->store->loop, &d->timer, loop_now(d->store->loop) + ms * NS_PER_MS);
}

/* ---- What is next ---- */

/* A free run in the group, from `at` on, as it may be given back; false: none, the group is done.
 */
static bool discard_find_run(struct discard *d, uint64_t *first, uint64_t *count)
{
    const struct slots *sl = &d->store->slots;
    uint64_t end = d->group * SLOTS_GROUP; /* the next one; `at` may have come there */

    if (end > sl->count)
        end = sl->count;
    while (d->at < end) {
        uint64_t from = d->at;
        while (from < end && slots_is_used(sl, from))
            from++;
        uint64_t to = from;
        while (to < end && !slots_is_used(sl, to))
            to++;
        d->at = to;
        *first = (from + d->align - 1) / d->align * d->align;
        uint64_t last = to / d->align * d->align;
        if (last >= *first + d->least) {
            *count = last - *first;
            return true;
        }
    }
    return false;
}

/* The next group where something was freed, and enough is free; false: there is none, or `*looked`
 * is used up. */
static bool discard_next_group(struct discard *d, uint32_t *looked)
{
    struct slots *sl = &d->store->slots;

    for (; d->group * SLOTS_GROUP < sl->count && *looked < DISCARD_LOOK; d->group++) {
        (*looked)++;
        if (!slots_take_freed(sl, d->group) || sl->groups[d->group] < d->least)
            continue;
        d->at = d->group * SLOTS_GROUP;
        d->in_group = true;
        d->group++;
        *looked += DISCARD_LOOK / 16;
        return true;
    }
    return false;
}

/* False: the pass is over, or this step has looked at enough. */
static bool discard_find(struct discard *d, uint64_t *first, uint64_t *count)
{
    uint32_t looked = 0;

    do {
        if (d->in_group && discard_find_run(d, first, count))
            return true;
        d->in_group = false;
    } while (discard_next_group(d, &looked));
    return false;
}

/* ---- One discard ---- */

static void discard_on_done(struct loop_op *op)
{
    struct discard *d = container_of(op, struct discard, op);

    d->came = true;
    loop_wake(d->store->loop, &d->task);
}

static void discard_submit(struct discard *d, uint64_t first, uint64_t count)
{
    struct store *s = d->store;

    d->state = DISCARD_BUSY;
    d->came = false;
    d->first = first;
    d->count = count;
    loop_op_init(&d->op, discard_on_done);
    loop_discard(s->loop, &d->op, s->file, first * STORE_BLOCK, count * STORE_BLOCK);
}

/* No write shall wait for room, but for a moment: half of what is free stays free. The rest of a
 * long run comes next; while there is little room, nothing does. */
static void discard_take(struct discard *d, uint64_t first, uint64_t count)
{
    struct store *s = d->store;
    uint64_t most = s->slots.free / 2 / d->align * d->align;

    if (!list_empty(&s->deferred) || s->slots.free < d->keep || most < d->least) {
        d->at = first;
        discard_sleep(d, d->busy_ms);
        return;
    }
    d->held = count < most ? count : most;
    d->at = first + d->held;
    for (uint64_t i = 0; i < d->held; i++)
        slots_mark(&s->slots, first + i, true);
    discard_submit(d, first, d->held);
}

/* Tests only: what waits for a durable mark. */
static bool discard_is_early(struct discard *d)
{
    struct store *s = d->store;

    if (!store_mutated(s, STORE_MUTANT_DISCARD_EARLY) || s->freed.count == 0)
        return false;
    const struct freed *f =
        &s->freed.items[(s->freed.first + s->freed.count - 1) % s->freed.capacity];
    discard_submit(d, slots_first(f->slots), slots_count(f->slots));
    return true;
}

static void discard_look(struct discard *d)
{
    const struct store *s = d->store;
    uint64_t first, count;

    if (discard_is_early(d))
        return;
    if (d->group == 0)
        d->pass_ns = loop_now(s->loop);
    if (discard_find(d, &first, &count)) {
        discard_take(d, first, count);
        return;
    }
    if (d->group * SLOTS_GROUP < s->slots.count) {
        loop_wake(s->loop, &d->task);
        return;
    }
    d->group = 0;
    loop_timer_start(s->loop, &d->timer, d->pass_ns + d->pass_ms * NS_PER_MS);
}

static void discard_off(struct discard *d, int error)
{
    d->off = true;
    if (error == -EOPNOTSUPP)
        log_info("store", "discard: the device or file system has none; off osd=%u",
                 d->store->super.osd);
    else
        log_warn("store", "discard failed: off until the next start osd=%u error=%d",
                 d->store->super.osd, error);
}

static void discard_take_done(struct discard *d)
{
    struct store *s = d->store;

    d->state = DISCARD_PAUSE;
    for (uint64_t i = 0; i < d->held; i++)
        slots_return(&s->slots, d->first + i);
    d->held = 0;
    if (s->failed == 0)
        store_wake(s); /* somebody may wait for these slots */
    if (d->op.result < 0)
        discard_off(d, (int)d->op.result);
    else
        s->counters.discarded_bytes_total += d->count * STORE_BLOCK;
}

static void discard_step(struct task *task)
{
    struct discard *d = container_of(task, struct discard, task);
    const struct store *s = d->store;

    if (d->state == DISCARD_BUSY && !d->came)
        return;
    bool came = d->state == DISCARD_BUSY;
    if (came)
        discard_take_done(d);
    if (s->failed != 0 || d->off) {
        loop_timer_stop(s->loop, &d->timer);
        return;
    }
    if (s->ios_pool.used > DISCARD_BUSY_OPS || s->writes_count > DISCARD_BUSY_OPS)
        discard_sleep(d, d->busy_ms);
    else if (came)
        discard_sleep(d, d->pause_ms);
    else
        discard_look(d);
}

uint64_t discard_held(const struct store *s)
{
    return s->discard == NULL ? 0 : s->discard->held;
}

static void discard_on_timer(struct loop_timer *t)
{
    struct discard *d = container_of(t, struct discard, timer);

    loop_wake(d->store->loop, &d->task);
}

/* ---- Begin and end ---- */

/* Of a file only where it is sparse: what was reserved shall stay so. */
static bool discard_is_wanted(const struct store *s, const struct loop_file_info *info)
{
    switch (s->config.discard) {
    case STORE_DISCARD_AUTO:
        return info->can_discard && (info->is_device || info->is_sparse);
    case STORE_DISCARD_ON:
        return true;
    case STORE_DISCARD_OFF:
        break;
    }
    return false;
}

void discard_start(struct store *s)
{
    struct loop_file_info info;

    loop_file_info(s->file, &info);
    if (!discard_is_wanted(s, &info))
        return;
    uint64_t align = info.discard_align <= STORE_BLOCK ? 1 : info.discard_align / STORE_BLOCK;
    if (!info.can_discard || align > SLOTS_GROUP) {
        log_info("store", "discard: the device cannot, or only in too great pieces; off osd=%u",
                 s->super.osd);
        return;
    }
    struct discard *d = mem_zalloc(sizeof(*d));
    s->discard = d;
    d->store = s;
    d->align = align;
    d->least = align > DISCARD_MIN ? align : DISCARD_MIN;
    d->keep = DISCARD_KEEP;
    d->pause_ms = DISCARD_PAUSE_MS;
    d->busy_ms = DISCARD_BUSY_MS;
    d->pass_ms = DISCARD_PASS_MS;
    task_init(&d->task, discard_step);
    loop_timer_init(&d->timer, discard_on_timer);
    discard_sleep(d, d->pause_ms);
}

void discard_free(struct store *s)
{
    struct discard *d = s->discard;

    if (d == NULL)
        return;
    s->discard = NULL;
    loop_timer_stop(s->loop, &d->timer);
    task_cancel(&d->task);
    free(d);
}
