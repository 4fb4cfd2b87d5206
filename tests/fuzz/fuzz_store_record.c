/*
 * Records of any bytes, and records that are well-formed and say anything. What is not refused
 * means the same when its parts are written again, and goes into an index, one after the other:
 * refused there, or no block lies in two objects and the accounts are right.
 */

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "store/replay.h"

enum {
    BLOCKS = 4096, /* of the device */
    RING = 256,
    RUNS_MAX = 12,
    DEDUPS_MAX = 6,
    RECORDS_MAX = 64,
    RAW_MAX = 512,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *data;
    size_t size;
};

static uint8_t take(struct input *in)
{
    if (in->size == 0)
        return 0;
    in->size--;
    return *in->data++;
}

static uint32_t below(struct input *in, uint32_t limit)
{
    uint32_t high = take(in);

    return (high << 8 | take(in)) % limit;
}

/* ---- A store that no device is under ---- */

static struct store *store_make(void)
{
    struct store *s = mem_zalloc(sizeof(*s));

    s->super = (struct superblock){
        .blocks = BLOCKS,
        .object_size = STORE_OBJECT_MAX,
        .ring_first = 1,
        .ring_blocks = RING,
    };
    s->scratch = mem_alloc_aligned(RECORD_BYTES_MAX, 64);
    s->tail = s->tail_durable = 1;
    index_init(s);
    store_limits(s);
    index_size(s);
    return s;
}

static void store_free(struct store *s)
{
    index_deinit(s);
    slots_deinit(&s->slots);
    free(s->scratch);
    free(s);
}

/* ---- Records ---- */

static uint32_t record_raw(struct input *in, uint8_t *buf)
{
    uint32_t len = below(in, RAW_MAX);

    for (uint32_t i = 0; i < len; i++)
        buf[i] = take(in);
    return len;
}

static struct record_run run_any(struct input *in, uint32_t i, uint32_t runs)
{
    uint8_t flags = take(in);
    struct record_run run = {
        .first = take(in),
        .count = 1u + (flags & 8 ? take(in) : take(in) % 4u),
        .slot = flags & 1 ? 0 : below(in, flags & 16 ? UINT16_MAX : BLOCKS),
        .settled = (flags & 2) != 0,
        .prepared = (flags & 4) != 0 && i >= runs / 2,
    };

    return run;
}

/* Counts fit; all else may be nonsense. */
static uint32_t record_any(struct input *in, uint8_t *buf)
{
    struct record_head h = {
        .kind = (enum record_kind)(1 + take(in) % 3),
        .flags = take(in) & 0x7f,
        .id = {1u + take(in) % 2u, take(in) % 4u},
        .pg = take(in) % 3u,
        .version = take(in) % 16u,
    };
    bool both = (h.flags & RECORD_BOTH) != 0;
    uint32_t runs = take(in) % RUNS_MAX, dedups = take(in) % DEDUPS_MAX;

    for (uint32_t i = 0; i < runs; i++) {
        struct record_run run = run_any(in, i, runs);
        if (h.crcs_count + run.count > RECORD_RUNS_MAX)
            break;
        record_run_put(buf, h.runs_count++, &run);
        h.crcs_count += run.slot != 0 ? run.count : 0;
    }
    h.dedups_count = dedups;
    for (uint32_t i = 0; i < h.crcs_count; i++)
        record_crc_put(buf, &h, i, take(in));
    for (uint32_t i = 0; i < dedups; i++) {
        struct store_dedup d = {take(in) % 3u, take(in) % 8u, take(in) % 16u};
        record_dedup_put(buf, &h, i, &d);
        record_floor_put(buf, &h, i, take(in) % 8u);
    }
    record_head_encode(buf, &h);
    if (both) {
        struct record_prepared p = {take(in), (take(in) & 1) != 0, (take(in) & 1) != 0};
        record_prepared_put(buf, &h, &p);
    }
    return record_size(h.runs_count, h.crcs_count, h.dedups_count, both);
}

/* What was decoded says the same when it is written again. */
static void record_again(const uint8_t *buf, uint32_t len, const struct record_head *h)
{
    static uint8_t again[RECORD_BYTES_MAX];
    bool both = (h->flags & RECORD_BOTH) != 0;

    memcpy(again, buf, len); /* what has no meaning stays */
    for (uint32_t i = 0; i < h->runs_count; i++) {
        struct record_run run;
        record_run_get(buf, i, &run);
        check(run.first + run.count <= STORE_BLOCKS_MAX && run.slot + run.count <= BLOCKS);
        record_run_put(again, i, &run);
    }
    for (uint32_t i = 0; i < h->crcs_count; i++)
        record_crc_put(again, h, i, record_crc_get(buf, h, i));
    for (uint32_t i = 0; i < h->dedups_count; i++) {
        struct store_dedup d;
        record_dedup_get(buf, h, i, &d);
        record_dedup_put(again, h, i, &d);
        record_floor_put(again, h, i, record_floor_get(buf, h, i));
    }
    if (both) {
        struct record_prepared p;
        record_prepared_get(buf, h, &p);
        record_prepared_put(again, h, &p);
    }
    check(memcmp(again, buf, len) == 0);
}

/* ---- Into the index ---- */

/* False: the log is damaged. */
static bool replay_one(struct replay *r, struct input *in, const uint8_t *buf, uint32_t len,
                       uint64_t seq)
{
    struct store *s = r->s;
    struct piece p = {.seq = seq, .total = len, .len = len, .bytes = buf};
    uint8_t control = take(in);

    if (replay_add_piece(r, &p, seq % (RING - 1) + 1) != 1)
        return false;
    r->open = false;
    if (record_decode(s->scratch, r->len, s->super.blocks, &r->head) < 0)
        return true; /* as if it had not been there */
    record_again(buf, len, &r->head);
    /* The data that a start has to look at is not what was written, now and then. */
    return replay_apply(r, !replay_must_verify(r) || control % 4 != 0) == 0;
}

static void index_check(const struct store *s)
{
    uint64_t reserved = s->super.ring_blocks + SUPER_COPIES;

    check(s->slots.count - s->slots.free == reserved + s->slots_live);
    check(s->ring_bytes >= s->live_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t buf[RECORD_BYTES_MAX];
    struct input in = {data, size};
    struct store *s = store_make();
    struct replay r = {.s = s};
    bool whole = true;

    replay_begin(&r, 1, RING - 1, take(&in) % 16);
    for (uint64_t seq = 1; seq <= RECORDS_MAX && in.size > 0 && whole; seq++) {
        memset(buf, 0, sizeof(buf) < 8192 ? sizeof(buf) : 8192);
        uint32_t len = take(&in) % 8 == 0 ? record_raw(&in, buf) : record_any(&in, buf);
        whole = len == 0 || replay_one(&r, &in, buf, len, seq);
    }
    if (whole && replay_end(&r) == 0)
        index_check(s);
    replay_deinit(&r);
    store_free(s);
    return 0;
}
