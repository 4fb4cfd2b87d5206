#include <stdlib.h>

#include "store/impl.h"

/*
 * A bitmap of the device, and how many slots are free per group of 4096. Runs are looked for from
 * where the last one ended, so that what is written together lies together; within one call a run
 * that holds everything is worth passing a few shorter ones.
 */
enum {
    SLOTS_LOOK = 4096, /* slots to look through for a better run, once there is one */
};

void slots_init(struct slots *sl, uint64_t count)
{
    uint64_t groups = (count + SLOTS_GROUP - 1) / SLOTS_GROUP;

    *sl = (struct slots){.count = count, .free = count};
    sl->words = mem_zalloc(groups * (SLOTS_GROUP / 64) * sizeof(uint64_t));
    sl->groups = mem_zalloc(groups * sizeof(uint16_t));
    sl->freed = mem_zalloc((groups + 63) / 64 * sizeof(uint64_t));
    for (uint64_t i = 0; i < (groups + 63) / 64; i++)
        sl->freed[i] = UINT64_MAX; /* of what was before nothing is known */
    for (uint64_t i = 0; i < groups; i++)
        sl->groups[i] = (uint16_t)(count - i * SLOTS_GROUP < SLOTS_GROUP ? count - i * SLOTS_GROUP
                                                                         : SLOTS_GROUP);
}

void slots_deinit(struct slots *sl)
{
    free(sl->words);
    free(sl->groups);
    free(sl->freed);
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
    uint16_t *group = &sl->groups[slot / SLOTS_GROUP];
    *group = (uint16_t)(used ? *group - 1 : *group + 1);
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

/* First free slot at or after `from`, or count. */
static uint64_t slots_next_free(const struct slots *sl, uint64_t from)
{
    uint64_t at = from;

    while (at < sl->count) {
        if (sl->groups[at / SLOTS_GROUP] == 0) {
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

uint32_t slots_take(struct slots *sl, uint32_t want, uint64_t *first)
{
    uint64_t best = 0, at = sl->next, limit = sl->count;
    uint32_t best_len = 0;
    bool wrapped = false;

    check(want > 0);
    if (sl->free == 0)
        return 0;
    while (best_len < want) {
        at = slots_next_free(sl, at);
        if (at >= limit) {
            if (wrapped || best_len > 0)
                break;
            wrapped = true;
            at = 0;
            limit = sl->next; /* the second half of the round */
            continue;
        }
        uint32_t len = slots_free_run(sl, at, want);
        if (best_len == 0)
            limit = limit < at + SLOTS_LOOK ? limit : at + SLOTS_LOOK;
        if (len > best_len) {
            best = at;
            best_len = len;
        }
        at += len;
    }
    check(best_len > 0);
    for (uint32_t i = 0; i < best_len; i++)
        slots_mark(sl, best + i, true);
    sl->next = best + best_len < sl->count ? best + best_len : 0;
    *first = best;
    return best_len;
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
