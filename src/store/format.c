#include "store/format.h"

#include <errno.h>

#include "base/check.h"
#include "base/crc32c.h"

#define SUPER_MAGIC 0x5453595252454b53ull /* "SKERRYST" */
#define BLOCK_MAGIC 0x42524b53u           /* "SKRB" */

enum {
    SUPER_CRC_AT = STORE_BLOCK - 4,
    BLOCK_CRC_AT = BLOCK_HEADER - 4,
    PIECE_FIRST = 1,
    PIECE_LAST = 2,
    FLOOR_SHIFT = 48, /* in the word of a seq */
    PREPARED_CLEAR = 1,
    PREPARED_DELETED = 2,
};

/* A run is one word: first block (8 bits), count - 1 (8), slot (45), and these. */
#define RUN_PREPARED ((uint64_t)1 << 62)
#define RUN_SETTLED  ((uint64_t)1 << 63)

static_assert(BLOCK_CRC_AT + 4 == BLOCK_HEADER, "the crc ends the header");
static_assert(PIECE_HEADER + 8 + 8 * RECORD_DROPS_MAX <= BLOCK_PAYLOAD, "drops fit into a block");
static_assert(RECORD_HEADER % 8 == 0 && RECORD_RUN % 8 == 0 && RECORD_DEDUP % 8 == 0, "aligned");

static bool block_is_zero(const uint8_t block[STORE_BLOCK])
{
    return get_u64(block) == 0 && memcmp(block, block + 8, STORE_BLOCK - 8) == 0;
}

/* ---- Superblock ---- */

uint64_t superblock_place(uint64_t blocks, uint32_t i)
{
    check(i < SUPER_COPIES);
    return i == 0 ? 0 : i == 1 ? blocks / 2 : blocks - 1;
}

void superblock_encode(const struct superblock *sb, uint8_t block[STORE_BLOCK])
{
    memset(block, 0, STORE_BLOCK);
    put_u64(block, SUPER_MAGIC);
    put_u32(block + 8, SUPER_VERSION);
    put_u32(block + 12, sb->copy);
    memcpy(block + 16, sb->cluster, 16);
    memcpy(block + 32, sb->uuid, 16);
    put_u32(block + 48, sb->osd);
    put_u32(block + 52, sb->object_size);
    put_u64(block + 56, sb->blocks);
    put_u64(block + 64, sb->ring_first);
    put_u64(block + 72, sb->ring_blocks);
    put_u64(block + 80, sb->nonce);
    put_u32(block + 88, sb->boot);
    put_u32(block + SUPER_CRC_AT, crc32c(0, block, SUPER_CRC_AT));
}

/* The crc comes before the version, and its place is promised for all versions: a damaged block
 * is never taken for a newer one. */
int superblock_decode(const uint8_t block[STORE_BLOCK], struct superblock *out)
{
    if (get_u64(block) != SUPER_MAGIC ||
        get_u32(block + SUPER_CRC_AT) != crc32c(0, block, SUPER_CRC_AT))
        return -EINVAL;
    if (get_u32(block + 8) > SUPER_VERSION)
        return -ENOTSUP;

    *out = (struct superblock){
        .copy = get_u32(block + 12),
        .osd = get_u32(block + 48),
        .object_size = get_u32(block + 52),
        .blocks = get_u64(block + 56),
        .ring_first = get_u64(block + 64),
        .ring_blocks = get_u64(block + 72),
        .nonce = get_u64(block + 80),
        .boot = get_u32(block + 88),
    };
    memcpy(out->cluster, block + 16, 16);
    memcpy(out->uuid, block + 32, 16);
    if (get_u32(block + 8) != SUPER_VERSION || out->copy >= SUPER_COPIES ||
        out->blocks > STORE_SLOTS_MAX || out->ring_first != 1 ||
        out->ring_blocks < RING_BLOCKS_MIN || out->ring_blocks >= out->blocks / 2 ||
        out->ring_blocks > RING_BLOCKS_MAX || out->object_size == 0 ||
        out->object_size > STORE_OBJECT_MAX || out->object_size % STORE_BLOCK != 0)
        return -EINVAL;
    return 0;
}

void superblock_doubt(const uint8_t block[STORE_BLOCK], struct block_doubt *out)
{
    *out = (struct block_doubt){
        .is_zero = block_is_zero(block),
        .has_magic = get_u64(block) == SUPER_MAGIC,
        .version = get_u32(block + 8),
        .nonce = get_u64(block + 80),
        .crc = get_u32(block + SUPER_CRC_AT),
        .crc_found = crc32c(0, block, SUPER_CRC_AT),
    };
}

/* ---- Ring block ---- */

static uint32_t block_crc(const uint8_t block[STORE_BLOCK])
{
    uint32_t crc = crc32c(0, block, BLOCK_CRC_AT);

    return crc32c(crc, block + BLOCK_HEADER, BLOCK_PAYLOAD);
}

void block_seal(uint8_t block[STORE_BLOCK], struct block_head *h)
{
    check(h->used <= BLOCK_PAYLOAD && h->tail <= h->seq && h->durable < h->seq);

    memset(block + BLOCK_HEADER + h->used, 0, BLOCK_PAYLOAD - h->used);
    put_u32(block, BLOCK_MAGIC);
    put_u32(block + 4, BLOCK_VERSION);
    put_u64(block + 8, h->nonce);
    put_u64(block + 16, h->seq);
    put_u32(block + 24, h->boot);
    put_u32(block + 28, h->prev_crc);
    put_u64(block + 32, h->mark);
    put_u64(block + 40, h->tail);
    put_u64(block + 48, h->durable);
    put_u64(block + 56, h->record);
    put_u64(block + 64, h->scrub_at);
    put_u32(block + 72, h->scrub_since);
    put_u32(block + 76, h->used);
    put_u32(block + 80, 0);
    h->crc = block_crc(block);
    put_u32(block + BLOCK_CRC_AT, h->crc);
}

int block_open(const uint8_t block[STORE_BLOCK], uint64_t nonce, struct block_head *out)
{
    if (get_u32(block) != BLOCK_MAGIC || get_u64(block + 8) != nonce ||
        get_u32(block + BLOCK_CRC_AT) != block_crc(block))
        return -EINVAL;
    if (get_u32(block + 4) > BLOCK_VERSION)
        return -ENOTSUP;

    *out = (struct block_head){
        .nonce = nonce,
        .seq = get_u64(block + 16),
        .boot = get_u32(block + 24),
        .prev_crc = get_u32(block + 28),
        .mark = get_u64(block + 32),
        .tail = get_u64(block + 40),
        .durable = get_u64(block + 48),
        .record = get_u64(block + 56),
        .scrub_at = get_u64(block + 64),
        .scrub_since = get_u32(block + 72),
        .used = get_u32(block + 76),
        .crc = get_u32(block + BLOCK_CRC_AT),
    };
    if (get_u32(block + 4) != BLOCK_VERSION || out->seq == 0 || out->tail == 0 ||
        out->tail > out->seq || out->durable >= out->seq || out->used > BLOCK_PAYLOAD ||
        out->used % PIECE_ALIGN != 0 || (out->seq | out->mark | out->record) >= BLOCK_NUMBERS_MAX)
        return -EINVAL;
    return 0;
}

void block_doubt(const uint8_t block[STORE_BLOCK], struct block_doubt *out)
{
    *out = (struct block_doubt){
        .is_zero = block_is_zero(block),
        .has_magic = get_u32(block) == BLOCK_MAGIC,
        .version = get_u32(block + 4),
        .nonce = get_u64(block + 8),
        .seq = get_u64(block + 16),
        .crc = get_u32(block + BLOCK_CRC_AT),
        .crc_found = block_crc(block),
    };
}

void piece_put(uint8_t block[STORE_BLOCK], struct block_head *h, const struct piece *p)
{
    uint8_t *at = block + BLOCK_HEADER + h->used;
    uint32_t space = piece_space(p->len);

    check(p->len > 0 && p->len <= BLOCK_ROOM && h->used + space <= BLOCK_PAYLOAD);
    check(p->offset + p->len <= p->total && (p->offset == 0 || h->used == 0));

    put_u32(at, p->total);
    put_u16(at + 4, (uint16_t)p->len);
    put_u16(at + 6, (uint16_t)((p->offset == 0 ? PIECE_FIRST : 0) |
                               (p->offset + p->len == p->total ? PIECE_LAST : 0)));
    memcpy(at + PIECE_HEADER, p->bytes, p->len);
    memset(at + PIECE_HEADER + p->len, 0, space - PIECE_HEADER - p->len);
    if (h->used == 0)
        h->record = p->seq;
    h->used += space;
}

/*
 * A piece does not say where in the record it lies: it follows the one before. `offset` is
 * 0 for a first piece and total - len for a last one; for one in between it is 1, "somewhere".
 */
int piece_next(const uint8_t block[STORE_BLOCK], const struct block_head *h, struct piece_at *at,
               struct piece *out)
{
    if (at->offset == h->used)
        return 0;
    if (h->used - at->offset < PIECE_HEADER)
        return -EBADMSG;

    const uint8_t *p = block + BLOCK_HEADER + at->offset;
    uint32_t flags = get_u16(p + 6);
    *out = (struct piece){
        .seq = h->record + at->index,
        .total = get_u32(p),
        .len = get_u16(p + 4),
        .bytes = p + PIECE_HEADER,
    };
    bool is_first = (flags & PIECE_FIRST) != 0, is_last = (flags & PIECE_LAST) != 0;
    if (out->len == 0 || out->len > BLOCK_ROOM || piece_space(out->len) > h->used - at->offset ||
        out->total > RECORD_BYTES_MAX || out->len > out->total || out->seq == 0 ||
        (flags & ~(uint32_t)(PIECE_FIRST | PIECE_LAST)) != 0 || (!is_first && at->index > 0) ||
        (is_first && is_last) != (out->len == out->total))
        return -EBADMSG;
    out->offset = is_first ? 0 : is_last ? out->total - out->len : 1;
    at->offset += piece_space(out->len);
    at->index++;
    return 1;
}

/* ---- Record ---- */

void record_head_encode(uint8_t *buf, const struct record_head *h)
{
    check(h->runs_count <= RECORD_RUNS_MAX && h->crcs_count <= RECORD_RUNS_MAX);
    check(h->dedups_count <= RECORD_DEDUPS_MAX);

    buf[0] = (uint8_t)h->kind;
    buf[1] = (uint8_t)h->flags;
    put_u16(buf + 2, (uint16_t)h->runs_count);
    put_u16(buf + 4, (uint16_t)h->crcs_count);
    put_u16(buf + 6, (uint16_t)h->dedups_count);
    put_u64(buf + 8, h->id.image);
    put_u64(buf + 16, h->id.object);
    put_u64(buf + 24, h->pg);
    put_u64(buf + 32, h->version);
    if (h->crcs_count % 2 != 0)
        put_u32(buf + record_crcs_at(h) + h->crcs_count * RECORD_CRC, 0);
}

static_assert(RECORD_DEDUPS_MAX <= UINT16_MAX, "the count has 16 bits");

/* Runs must rise, so that no block has two slots, first those of what is, then the prepared ones;
 * their blocks must be as many as the crcs. Holes are named where they replace something. */
static bool record_runs_ok(const uint8_t *buf, const struct record_head *h, uint64_t blocks)
{
    uint32_t next = 0, crcs = 0;
    bool both = (h->flags & RECORD_BOTH) != 0, prepared = false;

    for (uint32_t i = 0; i < h->runs_count; i++) {
        struct record_run run;
        record_run_get(buf, i, &run);
        if (run.prepared && (!both || h->kind != RECORD_FULL))
            return false;
        if (prepared && !run.prepared)
            return false;
        if (run.prepared && !prepared)
            next = 0;
        prepared = run.prepared;
        if (run.first < next || run.first + run.count > STORE_BLOCKS_MAX)
            return false;
        if (run.slot != 0 && run.slot + run.count > blocks)
            return false;
        if (run.slot == 0 && ((h->kind != RECORD_DELTA && !run.prepared) || run.settled))
            return false;
        next = run.first + run.count;
        crcs += run.slot != 0 ? run.count : 0;
    }
    return crcs == h->crcs_count;
}

static bool record_flags_ok(const struct record_head *h)
{
    uint32_t step = h->flags & (RECORD_PREPARE | RECORD_COMMIT | RECORD_ROLLBACK);

    switch (h->kind) {
    case RECORD_FULL:
        return (h->flags & ~(uint32_t)(RECORD_DELETED | RECORD_BOTH)) == 0;
    case RECORD_DELTA:
        if ((h->flags & ~(uint32_t)(RECORD_DELETED | RECORD_CLEAR | RECORD_KEEP)) != step ||
            (step & (step - 1)) != 0)
            return false;
        if (step == RECORD_COMMIT || step == RECORD_ROLLBACK)
            return h->flags == step && h->runs_count == 0;
        return step == 0 || (h->flags & RECORD_KEEP) == 0;
    case RECORD_PURGE:
        return h->flags == 0;
    case RECORD_DROPS:
        break;
    }
    return false;
}

static bool record_prepared_ok(const uint8_t *buf, const struct record_head *h)
{
    const uint8_t *at = buf + record_prepared_at(h);

    return (h->flags & RECORD_BOTH) == 0 || h->kind != RECORD_FULL ||
           (get_u64(at) > 0 && get_u64(at + 8) <= (PREPARED_CLEAR | PREPARED_DELETED));
}

int record_decode(const uint8_t *buf, uint32_t len, uint64_t blocks, struct record_head *out)
{
    if (len < RECORD_HEADER || buf[0] < RECORD_FULL || buf[0] > RECORD_PURGE)
        return -EBADMSG;

    *out = (struct record_head){
        .kind = (enum record_kind)buf[0],
        .flags = buf[1],
        .runs_count = get_u16(buf + 2),
        .crcs_count = get_u16(buf + 4),
        .dedups_count = get_u16(buf + 6),
        .id = {get_u64(buf + 8), get_u64(buf + 16)},
        .pg = get_u64(buf + 24),
        .version = get_u64(buf + 32),
    };
    bool both = (out->flags & RECORD_BOTH) != 0;
    if (!record_flags_ok(out) || out->runs_count > RECORD_RUNS_MAX ||
        out->crcs_count > RECORD_RUNS_MAX || out->dedups_count > RECORD_DEDUPS_MAX ||
        len != record_size(out->runs_count, out->crcs_count, out->dedups_count, both) ||
        (out->kind == RECORD_PURGE && len != RECORD_HEADER) || !record_runs_ok(buf, out, blocks) ||
        !record_prepared_ok(buf, out))
        return -EBADMSG;
    return 0;
}

void record_run_put(uint8_t *buf, uint32_t i, const struct record_run *run)
{
    check(run->first < STORE_BLOCKS_MAX && run->count - 1 < STORE_BLOCKS_MAX);
    check(run->slot < STORE_SLOTS_MAX);
    put_u64(buf + record_runs_at() + (size_t)i * RECORD_RUN,
            run->first | (uint64_t)(run->count - 1) << 8 | run->slot << 16 |
                (run->prepared ? RUN_PREPARED : 0) | (run->settled ? RUN_SETTLED : 0));
}

void record_run_get(const uint8_t *buf, uint32_t i, struct record_run *out)
{
    uint64_t word = get_u64(buf + record_runs_at() + (size_t)i * RECORD_RUN);

    *out = (struct record_run){
        .first = (uint32_t)(word & 0xff),
        .count = (uint32_t)(word >> 8 & 0xff) + 1,
        .slot = (word & ~(RUN_PREPARED | RUN_SETTLED)) >> 16,
        .settled = (word & RUN_SETTLED) != 0,
        .prepared = (word & RUN_PREPARED) != 0,
    };
}

void record_crc_put(uint8_t *buf, const struct record_head *h, uint32_t i, uint32_t crc)
{
    put_u32(buf + record_crcs_at(h) + (size_t)i * RECORD_CRC, crc);
}

uint32_t record_crc_get(const uint8_t *buf, const struct record_head *h, uint32_t i)
{
    return get_u32(buf + record_crcs_at(h) + (size_t)i * RECORD_CRC);
}

void record_dedup_put(uint8_t *buf, const struct record_head *h, uint32_t i,
                      const struct store_dedup *d)
{
    uint8_t *at = buf + record_dedups_at(h) + (size_t)i * RECORD_DEDUP;

    check(d->seq < STORE_SEQ_MAX);
    put_u64(at, d->client);
    put_u64(at + 8, d->seq);
    put_u64(at + 16, d->version);
}

void record_dedup_get(const uint8_t *buf, const struct record_head *h, uint32_t i,
                      struct store_dedup *out)
{
    const uint8_t *at = buf + record_dedups_at(h) + (size_t)i * RECORD_DEDUP;

    *out =
        (struct store_dedup){get_u64(at), get_u64(at + 8) & (STORE_SEQ_MAX - 1), get_u64(at + 16)};
}

/* Above the seq: how far the floor is below seq + 2; 0: not known. */
void record_floor_put(uint8_t *buf, const struct record_head *h, uint32_t i, uint64_t floor)
{
    uint8_t *at = buf + record_dedups_at(h) + (size_t)i * RECORD_DEDUP + 8;
    uint64_t seq = get_u64(at) & (STORE_SEQ_MAX - 1);
    uint64_t away = floor > seq ? 1 : seq + 2 - floor;

    put_u64(at, seq | (floor == 0 || away > UINT16_MAX ? 0 : away) << FLOOR_SHIFT);
}

uint64_t record_floor_get(const uint8_t *buf, const struct record_head *h, uint32_t i)
{
    uint64_t word = get_u64(buf + record_dedups_at(h) + (size_t)i * RECORD_DEDUP + 8);
    uint64_t away = word >> FLOOR_SHIFT, seq = word & (STORE_SEQ_MAX - 1);

    return away == 0 || away > seq + 2 ? 0 : seq + 2 - away;
}

void record_prepared_put(uint8_t *buf, const struct record_head *h, const struct record_prepared *p)
{
    uint8_t *at = buf + record_prepared_at(h);

    put_u64(at, p->version);
    put_u64(at + 8, (p->clear ? PREPARED_CLEAR : 0u) | (p->deleted ? PREPARED_DELETED : 0u));
}

void record_prepared_get(const uint8_t *buf, const struct record_head *h,
                         struct record_prepared *out)
{
    const uint8_t *at = buf + record_prepared_at(h);

    *out = (struct record_prepared){
        .version = get_u64(at),
        .clear = (get_u64(at + 8) & PREPARED_CLEAR) != 0,
        .deleted = (get_u64(at + 8) & PREPARED_DELETED) != 0,
    };
}

void drops_encode(uint8_t *buf, const uint64_t *seqs, uint32_t count)
{
    check(count <= RECORD_DROPS_MAX);
    put_u32(buf, RECORD_DROPS);
    put_u32(buf + 4, count);
    for (uint32_t i = 0; i < count; i++)
        put_u64(buf + drops_size(i), seqs[i]);
}

int drops_decode(const uint8_t *buf, uint32_t len)
{
    if (len < drops_size(0) || get_u32(buf) != RECORD_DROPS)
        return -EBADMSG;

    uint32_t count = get_u32(buf + 4);
    if (count > RECORD_DROPS_MAX || len != drops_size(count))
        return -EBADMSG;
    return (int)count;
}

uint64_t drops_get(const uint8_t *buf, uint32_t i)
{
    return get_u64(buf + drops_size(i));
}
