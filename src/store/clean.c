#include "store/impl.h"

/*
 * Cleaning makes room at the tail: objects whose newest full record lies there are written again,
 * in full, at the head (S6).
 *
 * Why it never wedges (README.md has the whole of it). Writing all objects again takes at most
 * clean_reserve(ring_bytes) blocks, and no other record enters the ring unless that many stay free.
 * Copies are made in the order of age and in groups that fill several blocks, so a whole round
 * costs no more than the reserve and leaves nothing but copies. A group waits only for records that
 * are in the ring already, and those wait only for the device. A write is let into the queue only
 * if its record will find room beside the reserve (ring_has_room()). Writes to its objects that are
 * not composed yet do not delay it: the copy takes them in, and is then their record.
 */
enum {
    CLEAN_SLACK = STORE_START_RESERVE + 8,
    CLEAN_GROUP_BYTES = 8 * BLOCK_ROOM,
    CLEAN_GROUP_MAX = 2048, /* objects; there must be records for them */
};

static_assert(CLEAN_GROUP_BYTES + RECORD_BYTES_MAX < (STORE_BATCH_BLOCKS - 2) * BLOCK_ROOM,
              "a group fits into a batch");

uint64_t clean_blocks(uint64_t bytes)
{
    return (bytes + bytes / 4) / BLOCK_ROOM + 1;
}

uint64_t clean_reserve(uint64_t bytes)
{
    return clean_blocks(bytes) + CLEAN_SLACK;
}

/* Start when three quarters of the play between "all copies" and "the limit" are used up, stop at
 * a half. */
static bool clean_is_due(const struct store *s)
{
    uint64_t least = clean_reserve(s->live_bytes);
    uint64_t reserve = clean_reserve(s->ring_bytes);
    uint64_t limit = s->super.ring_blocks > reserve ? s->super.ring_blocks - reserve : 0;
    uint64_t play = limit > least ? limit - least : 0;

    if (s->queue_blocked || s->deferred_blocked)
        return true;
    return ring_used(s) > least + (s->cleaning ? play / 2 : play - play / 4);
}

static void clean_want(struct store *s)
{
    uint64_t bytes = 0;
    uint32_t count = 0;

    for (struct object *o = object_at(s, s->age_first); o != NULL; o = object_at(s, o->age_next)) {
        if (bytes >= CLEAN_GROUP_BYTES || count == CLEAN_GROUP_MAX)
            return;
        list_push(&s->wanted, &object_work_make(s, o)->in_wanted);
        bytes += object_bytes(s, o);
        count++;
    }
}

void clean_gather(struct store *s)
{
    s->cleaning = clean_is_due(s);
    if (s->cleaning && list_empty(&s->wanted))
        clean_want(s);
}

/* S7: nothing of these objects is in flight. */
bool clean_is_ready(const struct store *s)
{
    if (list_empty(&s->wanted))
        return false;
    list_for_each (l, &s->wanted) {
        const struct work *x = container_of(l, struct work, in_wanted);
        if (!list_empty(&x->records))
            return false;
    }
    return true;
}
