#include <stdlib.h>

#include "store/impl.h"

/*
 * A bitmap of the device, and how many slots are free per group of 4096. Runs are looked for from
 * where the last one ended, so that what is written together lies together; within one call a run
 * that holds everything is worth passing a few shorter ones.
 *
 * Single blocks that are overwritten at random would in time leave no long run anywhere. So they go
 * where only crumbs are free, and long runs to groups that have room.
 */
enum {
    SLOTS_LOOK = 4096, /* slots to look through for a better run, once there is one */
    SLOTS_LONG = 8,
    SLOTS_ROOMY = SLOTS_GROUP / 4, /* free slots of a group that has more than crumbs */
};

/* The group has so many free slots now. */
static void slots_sort_group(struct slots *sl, uint64_t group, uint32_t before, uint32_t now)
{
    bool had_crumbs = before > 0 && before<SLOTS_ROOMY, has_crumbs = now> 0 && now < SLOTS_ROOMY;

    sl->roomy_count = sl->roomy_count + (now >= SLOTS_ROOMY) - (before >= SLOTS_ROOMY);
    sl->crumbs_count = sl->crumbs_count + has_crumbs - had_crumbs;
    if (has_crumbs != had_crumbs)
        sl->crumbs[group / 64] ^= (uint64_t)1 << (group % 64);
}

void slots_init(struct slots *sl, uint64_t count)
{
    uint64_t groups = (count + SLOTS_GROUP - 1) / SLOTS_GROUP;

    *sl = (struct slots){.count = count, .free = count};
    sl->words = mem_zalloc(groups * (SLOTS_GROUP / 64) * sizeof(uint64_t));
    sl->groups = mem_zalloc(groups * sizeof(uint16_t));
    sl->freed = mem_zalloc((groups + 63) / 64 * sizeof(uint64_t));
    for (uint64_t i = 0; i < (groups + 63) / 64; i++)
        sl->freed[i] = UINT64_MAX; /* of what was before nothing is known */
    sl->crumbs = mem_zalloc((groups + 63) / 64 * sizeof(uint64_t));
    for (uint64_t i = 0; i < groups; i++) {
        sl->groups[i] = (uint16_t)(count - i * SLOTS_GROUP < SLOTS_GROUP ? count - i * SLOTS_GROUP
                                                                         : SLOTS_GROUP);
        slots_sort_group(sl, i, 0, sl->groups[i]);
    }
}

void slots_deinit(struct slots *sl)
{
    free(sl->words);
    free(sl->groups);
    free(sl->freed);
    free(sl->crumbs);
    *sl = (struct slots){0};
}

bool slots_is_used(const struct slots *sl, uint64_t slot)
{
    check(slot < sl->count);
    return (sl->words[slot / 64] >> (slot % 64) & 1) != 0;
}

static void slots_change(struct slots *sl, uint64_t slot, bool used)
{
    check(slots_is_used(sl, slot) != used);

    sl->words[slot / 64] ^= (uint64_t)1 << (slot % 64);
    sl->free = used ? sl->free - 1 : sl->free + 1;
    uint16_t *group = &sl->groups[slot / SLOTS_GROUP], before = *group;
    *group = (uint16_t)(used ? before - 1 : before + 1);
    slots_sort_group(sl, slot / SLOTS_GROUP, before, *group);
}

void slots_mark(struct slots *sl, uint64_t slot, bool used)
{
    uint64_t group = slot / SLOTS_GROUP;

    slots_change(sl, slot, used);
    if (!used)
        sl->freed[group / 64] |= (uint64_t)1 << (group % 64);
}

void slots_return(struct slots *sl, uint64_t slot)
{
    slots_change(sl, slot, false);
}

bool slots_take_freed(struct slots *sl, uint64_t group)
{
    uint64_t bit = (uint64_t)1 << (group % 64);
    bool freed = (sl->freed[group / 64] & bit) != 0;

    sl->freed[group / 64] &= ~bit;
    return freed;
}

/* First free slot at or after `from`, of a group that has at least so many; or count. */
static uint64_t slots_next_free(const struct slots *sl, uint64_t from, uint32_t least)
{
    uint64_t at = from;

    while (at < sl->count) {
        if (sl->groups[at / SLOTS_GROUP] < least) {
            at = (at / SLOTS_GROUP + 1) * SLOTS_GROUP;
            continue;
        }
        uint64_t word = ~sl->words[at / 64] >> (at % 64);
        if (word != 0)
            return at + (uint64_t)__builtin_ctzll(word) < sl->count
                       ? at + (uint64_t)__builtin_ctzll(word)
                       : sl->count;
        at = (at / 64 + 1) * 64;
    }
    return sl->count;
}

static uint32_t slots_free_run(const struct slots *sl, uint64_t first, uint32_t want)
{
    uint64_t at = first, end = first + want < sl->count ? first + want : sl->count;

    while (at < end) {
        uint64_t word = sl->words[at / 64] >> (at % 64);
        if (word != 0) {
            at += (uint64_t)__builtin_ctzll(word);
            break;
        }
        at = (at / 64 + 1) * 64;
    }
    return (uint32_t)((at < end ? at : end) - first);
}

/* The longest run up to `want`, in groups that have at least so many free slots. 0: none. */
static uint32_t slots_search(const struct slots *sl, uint32_t want, uint32_t least, uint64_t *first)
{
    uint64_t at = sl->next, limit = sl->count;
    uint32_t best = 0;
    bool wrapped = false;

    while (best < want) {
        at = slots_next_free(sl, at, least);
        if (at >= limit) {
            if (wrapped || best > 0)
                break;
            wrapped = true;
            at = 0;
            limit = sl->next; /* the second half of the round */
            continue;
        }
        uint32_t len = slots_free_run(sl, at, want);
        if (best == 0)
            limit = limit < at + SLOTS_LOOK ? limit : at + SLOTS_LOOK;
        if (len > best) {
            *first = at;
            best = len;
        }
        at += len;
    }
    return best;
}

/* One slot of a group that has only crumbs; the groups take turns when one is used up. */
static uint64_t slots_crumb(struct slots *sl)
{
    uint64_t groups = (sl->count + SLOTS_GROUP - 1) / SLOTS_GROUP, words = (groups + 63) / 64;
    uint64_t i = sl->crumbs_next / 64;
    uint64_t word = sl->crumbs[i] >> (sl->crumbs_next % 64) << (sl->crumbs_next % 64);

    while (word == 0) {
        i = i + 1 < words ? i + 1 : 0;
        word = sl->crumbs[i];
    }
    sl->crumbs_next = 64 * i + (uint64_t)__builtin_ctzll(word);
    return slots_next_free(sl, sl->crumbs_next * SLOTS_GROUP, 1);
}

uint32_t slots_take(struct slots *sl, uint32_t want, uint64_t *first)
{
    uint32_t len = 0;

    check(want > 0);
    if (sl->free == 0)
        return 0;
    if (want == 1 && sl->crumbs_count > 0) {
        *first = slots_crumb(sl);
        slots_mark(sl, *first, true);
        return 1;
    }
    if (want >= SLOTS_LONG && sl->roomy_count > 0)
        len = slots_search(sl, want, SLOTS_ROOMY, first);
    if (len == 0)
        len = slots_search(sl, want, 1, first);
    check(len > 0);
    for (uint32_t i = 0; i < len; i++)
        slots_mark(sl, *first + i, true);
    sl->next = *first + len < sl->count ? *first + len : 0;
    return len;
}

/* ---- Slots that wait ---- */

void freed_push(struct freed_queue *q, const struct freed *f)
{
    if (q->count == q->capacity) {
        uint64_t capacity = q->capacity == 0 ? 1024 : 2 * q->capacity;
        struct freed *items = mem_zalloc(capacity * sizeof(*items));
        for (uint64_t i = 0; i < q->count; i++)
            items[i] = q->items[(q->first + i) % q->capacity];
        free(q->items);
        q->items = items;
        q->first = 0;
        q->capacity = capacity;
    }
    q->items[(q->first + q->count) % q->capacity] = *f;
    q->count++;
}

struct freed *freed_first(struct freed_queue *q)
{
    return q->count == 0 ? NULL : &q->items[q->first];
}

void freed_pop(struct freed_queue *q)
{
    check(q->count > 0);
    q->first = (q->first + 1) % q->capacity;
    q->count--;
}
