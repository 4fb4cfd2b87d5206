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
    CLEAN_FILL_BEGIN = 500, /* thousandths of the play */
    CLEAN_FILL_HASTE = 950, /* from here on without regard to the head */
    CLEAN_PLAY_LIVE = 3,    /* the play is not more than so many times what lives … */
    CLEAN_PLAY_MIN = 8192,  /* … or so many blocks */
    CLEAN_PACE = 8,         /* bytes of copies for one of the head's when the play is used up */
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

/*
 * The play is what lies between "all copies" and "no ordinary record enters any more". How much of
 * it, or of `play_max` if it is more, is used, in thousandths.
 */
static uint64_t clean_fill(const struct store *s, uint64_t play_max)
{
    uint64_t least = clean_reserve(s->live_bytes), reserve = clean_reserve(s->ring_bytes);
    uint64_t used = ring_used(s);
    uint64_t limit = s->super.ring_blocks > reserve ? s->super.ring_blocks - reserve : 0;

    if (limit > least + play_max)
        limit = least + play_max;
    if (used <= least)
        return 0;
    return used >= limit || limit <= least ? 1000 : (used - least) * 1000 / (limit - least);
}

/*
 * The rate is the head's: each byte of ordinary records pays for the more bytes of copies, the
 * fuller the ring is. So the tail keeps pace, and no write ever waits for a great cleaning. A ring
 * is not filled for its own sake: a start reads what is used, so that is kept to a few times what
 * lives.
 */
void clean_pay(struct store *s, uint64_t bytes)
{
    uint64_t play = CLEAN_PLAY_LIVE * clean_reserve(s->live_bytes);
    uint64_t fill = clean_fill(s, play > CLEAN_PLAY_MIN ? play : CLEAN_PLAY_MIN);

    if (fill <= CLEAN_FILL_BEGIN)
        s->clean_credit = 0;
    else
        s->clean_credit +=
            bytes * CLEAN_PACE * (fill - CLEAN_FILL_BEGIN) / (1000 - CLEAN_FILL_BEGIN);
    if (s->clean_credit > CLEAN_GROUP_BYTES)
        s->clean_credit = CLEAN_GROUP_BYTES;
}

static uint64_t clean_want(struct store *s, uint64_t limit)
{
    uint64_t bytes = 0;
    uint32_t count = 0;

    for (struct object *o = object_at(s, s->age_first); o != NULL; o = object_at(s, o->age_next)) {
        if (bytes >= limit || count == CLEAN_GROUP_MAX)
            break;
        list_push(&s->wanted, &object_work_make(s, o)->in_wanted);
        bytes += object_bytes(s, o);
        count++;
    }
    return bytes;
}

void clean_gather(struct store *s)
{
    s->cleaning = s->queue_blocked || s->deferred_blocked || s->copies_blocked ||
                  clean_fill(s, UINT32_MAX) >= CLEAN_FILL_HASTE;
    if (!list_empty(&s->wanted))
        return;
    if (s->cleaning) {
        clean_want(s, CLEAN_GROUP_BYTES);
    } else if (s->clean_credit >= BLOCK_ROOM / 4) {
        uint64_t bytes = clean_want(s, s->clean_credit);
        s->clean_credit -= bytes < s->clean_credit ? bytes : s->clean_credit;
    }
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
