/* What lies on the disk, by hand-answered bytes; and every rule of validity. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "store/format.h"

/* ---- Superblock ---- */

static struct superblock any_super(void)
{
    struct superblock sb = {
        .copy = 2,
        .osd = 0x01020304,
        .object_size = 131072,
        .blocks = 16384,
        .ring_first = 1,
        .ring_blocks = 563,
        .nonce = 0x1122334455667788,
        .boot = 9,
    };

    memset(sb.cluster, 0xc1, sizeof(sb.cluster));
    memset(sb.uuid, 0x1d, sizeof(sb.uuid));
    return sb;
}

static void super_seal(uint8_t *block)
{
    put_u32(block + 4092, crc32c(0, block, 4092));
}

static void a_superblock_lies_there_byte_by_byte(void **state)
{
    static const uint8_t head[] = {'S', 'K', 'E', 'R', 'R', 'Y', 'S', 'T', 2, 0, 0, 0, 2, 0, 0, 0};
    static const uint8_t tail[] = {
        4,    3,    2,    1,    0,    0,    2,    0,    /* osd, object_size */
        0,    0x40, 0,    0,    0,    0,    0,    0,    /* blocks */
        1,    0,    0,    0,    0,    0,    0,    0,    /* ring_first */
        0x33, 2,    0,    0,    0,    0,    0,    0,    /* ring_blocks */
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, /* nonce */
        9,    0,    0,    0,                            /* boot */
    };
    struct superblock sb = any_super(), out;
    uint8_t block[STORE_BLOCK], expected[STORE_BLOCK] = {0};
    (void)state;

    memcpy(expected, head, sizeof(head));
    memset(expected + 16, 0xc1, 16);
    memset(expected + 32, 0x1d, 16);
    memcpy(expected + 48, tail, sizeof(tail));
    super_seal(expected);
    superblock_encode(&sb, block);
    assert_memory_equal(block, expected, STORE_BLOCK);
    assert_int_equal(superblock_decode(block, &out), 0);
    superblock_encode(&out, block);
    assert_memory_equal(block, expected, STORE_BLOCK);
    assert_int_equal(superblock_place(16384, 0), 0);
    assert_int_equal(superblock_place(16384, 1), 8192);
    assert_int_equal(superblock_place(16384, 2), 16383);
}

static void a_superblock_with_any_byte_changed_is_none(void **state)
{
    struct superblock sb = any_super(), out;
    uint8_t block[STORE_BLOCK];
    (void)state;

    superblock_encode(&sb, block);
    for (uint32_t i = 0; i < STORE_BLOCK; i++) {
        block[i] ^= 0x10;
        assert_int_equal(superblock_decode(block, &out), -EINVAL);
        block[i] ^= 0x10;
    }
}

static int super_with(uint32_t at, uint64_t value, bool wide)
{
    struct superblock sb = any_super(), out;
    uint8_t block[STORE_BLOCK];

    superblock_encode(&sb, block);
    if (wide)
        put_u64(block + at, value);
    else
        put_u32(block + at, (uint32_t)value);
    super_seal(block);
    return superblock_decode(block, &out);
}

/* Of the largest device. */
static int super_huge(uint64_t ring_blocks)
{
    struct superblock sb = any_super(), out;
    uint8_t block[STORE_BLOCK];

    sb.blocks = STORE_SLOTS_MAX;
    sb.ring_blocks = ring_blocks;
    superblock_encode(&sb, block);
    return superblock_decode(block, &out);
}

static void a_superblock_keeps_every_rule(void **state)
{
    (void)state;
    assert_int_equal(super_with(8, 3, false), -ENOTSUP);
    assert_int_equal(super_with(8, 1, false), -EINVAL);
    assert_int_equal(super_with(12, 3, false), -EINVAL);
    assert_int_equal(super_with(52, 0, false), -EINVAL);
    assert_int_equal(super_with(52, STORE_OBJECT_MAX, false), 0);
    assert_int_equal(super_with(52, STORE_OBJECT_MAX + 1, false), -EINVAL);
    assert_int_equal(super_with(52, STORE_BLOCK, false), 0);
    assert_int_equal(super_with(52, STORE_BLOCK - 1, false), -EINVAL);
    assert_int_equal(super_with(56, STORE_SLOTS_MAX, true), 0);
    assert_int_equal(super_with(56, STORE_SLOTS_MAX + 1, true), -EINVAL);
    assert_int_equal(super_with(64, 2, true), -EINVAL);
    assert_int_equal(super_with(72, RING_BLOCKS_MIN, true), 0);
    assert_int_equal(super_with(72, RING_BLOCKS_MIN - 1, true), -EINVAL);
    assert_int_equal(super_with(72, 8191, true), 0);
    assert_int_equal(super_with(72, 8192, true), -EINVAL);
    assert_int_equal(super_huge(RING_BLOCKS_MAX), 0);
    assert_int_equal(super_huge(RING_BLOCKS_MAX + 1), -EINVAL);
}

/* ---- Ring block ---- */

static struct block_head any_block(void)
{
    return (struct block_head){
        .nonce = 0x1122334455667788,
        .seq = 1000,
        .boot = 3,
        .prev_crc = 0xcafe,
        .mark = 77,
        .tail = 900,
        .durable = 998,
        .record = 5,
        .scrub_at = 0x0a0b0c0d0e,
        .scrub_since = 0x77665544,
        .used = 16,
    };
}

static void block_reseal(uint8_t *block)
{
    put_u32(block + 84, crc32c(crc32c(0, block, 84), block + 88, 4008));
}

static void a_ring_block_lies_there_byte_by_byte(void **state)
{
    static const uint8_t expected[] = {
        'S',  'K',  'R',  'B',  2,    0,    0,    0,    /* version */
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, /* nonce */
        0xe8, 3,    0,    0,    0,    0,    0,    0,    /* seq */
        3,    0,    0,    0,    0xfe, 0xca, 0,    0,    /* boot, crc of the one before */
        77,   0,    0,    0,    0,    0,    0,    0,    /* mark */
        0x84, 3,    0,    0,    0,    0,    0,    0,    /* tail */
        0xe6, 3,    0,    0,    0,    0,    0,    0,    /* durable */
        5,    0,    0,    0,    0,    0,    0,    0,    /* record */
        0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 0,    0,    0,    /* scrub: how far */
        0x44, 0x55, 0x66, 0x77, 16,   0,    0,    0,    /* … since when; used */
        0,    0,    0,    0,
    };
    static const uint8_t piece[] = {
        3, 0, 0, 0, 3, 0, 3, 0, 'a', 'b', 'c', 0, 0, 0, 0, 0,
    };
    struct block_head h = any_block(), out;
    struct piece p = {.seq = 5, .total = 3, .len = 3, .bytes = (const uint8_t *)"abc"};
    uint8_t block[STORE_BLOCK];
    (void)state;

    memset(block, 0xee, sizeof(block));
    h.used = 0;
    h.record = 0;
    piece_put(block, &h, &p);
    block_seal(block, &h);
    assert_memory_equal(block, expected, sizeof(expected));
    assert_memory_equal(block + 88, piece, sizeof(piece));
    for (uint32_t i = 88 + sizeof(piece); i < STORE_BLOCK; i++)
        assert_int_equal(block[i], 0);
    assert_int_equal(get_u32(block + 84), h.crc);
    assert_int_equal(block_open(block, h.nonce, &out), 0);
    assert_memory_equal(&out, &h, offsetof(struct block_head, crc) + sizeof(h.crc));
    assert_int_equal(block_open(block, h.nonce + 1, &out), -EINVAL);
    for (uint32_t i = 0; i < STORE_BLOCK; i++) {
        block[i] ^= 4;
        assert_int_equal(block_open(block, h.nonce, &out), -EINVAL);
        block[i] ^= 4;
    }
}

static int block_with(uint32_t at, uint64_t value, bool wide)
{
    struct block_head h = any_block(), out;
    uint8_t block[STORE_BLOCK] = {0};

    block_seal(block, &h);
    if (wide)
        put_u64(block + at, value);
    else
        put_u32(block + at, (uint32_t)value);
    block_reseal(block);
    return block_open(block, h.nonce, &out);
}

static void a_ring_block_keeps_every_rule(void **state)
{
    (void)state;
    assert_int_equal(block_with(4, 3, false), -ENOTSUP);
    assert_int_equal(block_with(4, 1, false), -EINVAL);
    assert_int_equal(block_with(16, 0, true), -EINVAL);
    assert_int_equal(block_with(40, 0, true), -EINVAL);
    assert_int_equal(block_with(40, 1000, true), 0);
    assert_int_equal(block_with(40, 1001, true), -EINVAL);
    assert_int_equal(block_with(48, 999, true), 0);
    assert_int_equal(block_with(48, 1000, true), -EINVAL);
    assert_int_equal(block_with(76, BLOCK_PAYLOAD, false), 0);
    assert_int_equal(block_with(76, BLOCK_PAYLOAD + 8, false), -EINVAL);
    assert_int_equal(block_with(76, 28, false), -EINVAL);
}

/* ---- Pieces ---- */

static void pieces_come_back_in_order_and_know_their_place(void **state)
{
    uint8_t block[STORE_BLOCK] = {0}, bytes[64] = {1, 2, 3};
    struct block_head h = any_block();
    struct piece out;
    struct piece_at at = {0};
    (void)state;

    h.used = 0;
    piece_put(block, &h,
              &(struct piece){.seq = 1, .total = 9, .offset = 8, .len = 1, .bytes = bytes});
    piece_put(block, &h, &(struct piece){.seq = 2, .total = 64, .len = 64, .bytes = bytes});
    piece_put(block, &h, &(struct piece){.seq = 3, .total = 5000, .len = 40, .bytes = bytes});
    assert_int_equal(h.used, 16 + 72 + 48);
    assert_int_equal(h.record, 1);
    assert_int_equal(piece_next(block, &h, &at, &out), 1);
    assert_true(out.seq == 1 && out.total == 9 && out.offset == 8 && out.len == 1);
    assert_int_equal(piece_next(block, &h, &at, &out), 1);
    assert_true(out.seq == 2 && out.total == 64 && out.offset == 0 && out.len == 64);
    assert_memory_equal(out.bytes, bytes, 64);
    assert_int_equal(piece_next(block, &h, &at, &out), 1);
    assert_true(out.seq == 3 && out.offset == 0 && out.total == 5000);
    assert_int_equal(piece_next(block, &h, &at, &out), 0);

    h.used = 0;
    at = (struct piece_at){0};
    piece_put(block, &h,
              &(struct piece){.seq = 3, .total = 5000, .offset = 40, .len = 40, .bytes = bytes});
    assert_int_equal(piece_next(block, &h, &at, &out), 1);
    assert_true(out.seq == 3 && out.offset == 1); /* somewhere */
}

/* The second piece of a block whose first one is fine. */
static int piece_with(uint32_t total, uint16_t len, uint16_t flags, uint32_t used)
{
    uint8_t block[STORE_BLOCK] = {0};
    struct block_head h = {.record = 1};
    struct piece out;
    struct piece_at at = {0};

    piece_put(block, &h, &(struct piece){.seq = 1, .total = 1, .len = 1, .bytes = block});
    h.used = 16 + used;
    put_u32(block + 88 + 16, total);
    put_u16(block + 88 + 16 + 4, len);
    put_u16(block + 88 + 16 + 6, flags);
    assert_int_equal(piece_next(block, &h, &at, &out), 1);
    return piece_next(block, &h, &at, &out);
}

static void a_piece_keeps_every_rule(void **state)
{
    (void)state;
    assert_int_equal(piece_with(8, 8, 3, 16), 1);
    assert_int_equal(piece_with(8, 0, 3, 16), -EBADMSG);
    assert_int_equal(piece_with(8, 8, 3, 4), -EBADMSG);   /* no room for its header */
    assert_int_equal(piece_with(9, 9, 3, 16), -EBADMSG);  /* nor for its bytes */
    assert_int_equal(piece_with(7, 8, 3, 16), -EBADMSG);  /* longer than the record */
    assert_int_equal(piece_with(8, 8, 1, 16), -EBADMSG);  /* all of it, and not the last */
    assert_int_equal(piece_with(16, 8, 3, 16), -EBADMSG); /* first and last, and not all */
    assert_int_equal(piece_with(16, 8, 4, 16), -EBADMSG); /* unknown flag */
    assert_int_equal(piece_with(16, 8, 2, 16), -EBADMSG); /* goes on with another block's record */
    assert_int_equal(piece_with(RECORD_BYTES_MAX, 8, 1, 16), 1);
    assert_int_equal(piece_with(RECORD_BYTES_MAX + 1, 8, 1, 16), -EBADMSG);
    assert_int_equal(piece_with(5000, BLOCK_ROOM - 16, 1, BLOCK_PAYLOAD - 16), 1);
    assert_int_equal(piece_with(5000, BLOCK_ROOM + 1, 1, BLOCK_PAYLOAD - 16), -EBADMSG);
}

/* ---- Records ---- */

#define ANY_SLOT 0x123456789aull

static uint32_t any_record(uint8_t *buf)
{
    struct record_head h = {
        .kind = RECORD_DELTA,
        .flags = RECORD_CLEAR,
        .runs_count = 3,
        .crcs_count = 3,
        .dedups_count = 1,
        .id = {0x0102, 0x0304},
        .pg = 0x0506,
        .version = 0x0708,
    };

    record_run_put(buf, 0, &(struct record_run){1, 2, 1000, true, false});
    record_run_put(buf, 1, &(struct record_run){3, 4, 0, false, false});
    record_run_put(buf, 2, &(struct record_run){255, 1, ANY_SLOT, false, false});
    record_head_encode(buf, &h);
    for (uint32_t i = 0; i < 3; i++)
        record_crc_put(buf, &h, i, 0xa0 + i);
    record_dedup_put(buf, &h, 0, &(struct store_dedup){9, 10, 11});
    return record_size(3, 3, 1, false);
}

static void a_record_lies_there_byte_by_byte(void **state)
{
    static const uint8_t expected[] = {
        2,    2, 3,    0,    3,    0,    1,    0,    /* kind, flags, counts */
        2,    1, 0,    0,    0,    0,    0,    0,    /* image */
        4,    3, 0,    0,    0,    0,    0,    0,    /* object */
        6,    5, 0,    0,    0,    0,    0,    0,    /* pg */
        8,    7, 0,    0,    0,    0,    0,    0,    /* version */
        1,    1, 0xe8, 3,    0,    0,    0,    0x80, /* settled run */
        3,    3, 0,    0,    0,    0,    0,    0,    /* holes */
        255,  0, 0x9a, 0x78, 0x56, 0x34, 0x12, 0,    /* run */
        0xa0, 0, 0,    0,    0xa1, 0,    0,    0,    /* crcs */
        0xa2, 0, 0,    0,    0,    0,    0,    0,    /* and their padding */
        9,    0, 0,    0,    0,    0,    0,    0,    /* dedup */
        10,   0, 0,    0,    0,    0,    0,    0,    /* … seq */
        11,   0, 0,    0,    0,    0,    0,    0,    /* … version */
    };
    uint8_t buf[256];
    struct record_head h;
    struct record_run run;
    struct store_dedup d;
    (void)state;

    memset(buf, 0xee, sizeof(buf));
    uint32_t len = any_record(buf);
    assert_int_equal(len, sizeof(expected));
    assert_memory_equal(buf, expected, len);
    assert_int_equal(record_decode(buf, len, STORE_SLOTS_MAX, &h), 0);
    assert_int_equal(h.kind, RECORD_DELTA);
    assert_true(h.id.image == 0x0102 && h.id.object == 0x0304 && h.pg == 0x0506);
    assert_int_equal(h.version, 0x0708);
    record_run_get(buf, 0, &run);
    assert_true(run.first == 1 && run.count == 2 && run.slot == 1000 && run.settled);
    assert_int_equal(record_crc_get(buf, &h, 2), 0xa2);
    record_dedup_get(buf, &h, 0, &d);
    assert_true(d.client == 9 && d.seq == 10 && d.version == 11);
}

static int record_with(uint32_t at, uint8_t value)
{
    uint8_t buf[256];
    struct record_head h;
    uint32_t len = any_record(buf);

    buf[at] = value;
    return record_decode(buf, len, STORE_SLOTS_MAX, &h);
}

static void a_record_keeps_every_rule(void **state)
{
    uint8_t buf[256];
    struct record_head h;
    uint32_t len = any_record(buf);
    (void)state;

    assert_int_equal(record_decode(buf, len - 8, STORE_SLOTS_MAX, &h), -EBADMSG);
    assert_int_equal(record_decode(buf, 39, STORE_SLOTS_MAX, &h), -EBADMSG);
    assert_int_equal(record_decode(buf, len, ANY_SLOT, &h), -EBADMSG); /* beyond the device */
    assert_int_equal(record_decode(buf, len, ANY_SLOT + 1, &h), 0);
    assert_int_equal(record_with(0, 0), -EBADMSG);
    assert_int_equal(record_with(0, RECORD_FULL), -EBADMSG);  /* has holes, and CLEAR */
    assert_int_equal(record_with(0, RECORD_PURGE), -EBADMSG); /* has anything */
    assert_int_equal(record_with(0, RECORD_DROPS), -EBADMSG);
    assert_int_equal(record_with(1, 0x80), -EBADMSG);
    assert_int_equal(record_with(1, 7), 0);
    assert_int_equal(record_with(1, RECORD_PREPARE), 0);
    assert_int_equal(record_with(1, RECORD_PREPARE | RECORD_KEEP), -EBADMSG);
    assert_int_equal(record_with(1, RECORD_PREPARE | RECORD_COMMIT), -EBADMSG);
    assert_int_equal(record_with(1, RECORD_COMMIT), -EBADMSG); /* has runs */
    assert_int_equal(record_with(1, RECORD_BOTH), -EBADMSG);   /* no full one */
    assert_int_equal(record_with(2, 2), -EBADMSG);
    assert_int_equal(record_with(4, 4), -EBADMSG);     /* as long, and one crc too many */
    assert_int_equal(record_with(48, 2), -EBADMSG);    /* runs overlap */
    assert_int_equal(record_with(55, 0x80), -EBADMSG); /* settled holes */
    assert_int_equal(record_with(63, 0x40), -EBADMSG); /* prepared, in a delta */
    assert_int_equal(record_with(57, 1), -EBADMSG);    /* beyond the object */
    assert_int_equal(record_with(41, 2), -EBADMSG);    /* more blocks than crcs */
}

/* What is in block 0; prepared: a hole there, and data in block 1. */
static uint32_t both_record(uint8_t *buf, bool prepared_first, uint64_t version)
{
    struct record_head h = {
        .kind = RECORD_FULL,
        .flags = RECORD_BOTH,
        .runs_count = 3,
        .crcs_count = 2,
        .id = {1, 2},
        .version = 5,
    };
    uint32_t at = prepared_first ? 2 : 0;

    record_run_put(buf, at, &(struct record_run){0, 1, 1000, true, false});
    record_run_put(buf, prepared_first ? 0 : 1, &(struct record_run){0, 1, 0, false, true});
    record_run_put(buf, prepared_first ? 1 : 2, &(struct record_run){1, 1, 1001, false, true});
    record_head_encode(buf, &h);
    record_crc_put(buf, &h, 0, 1);
    record_crc_put(buf, &h, 1, 2);
    record_prepared_put(buf, &h, &(struct record_prepared){version, false, true});
    return record_size(3, 2, 0, true);
}

static void a_full_record_may_have_a_prepared_part(void **state)
{
    uint8_t buf[256];
    struct record_head h;
    struct record_prepared p;
    uint32_t len = both_record(buf, false, 6);
    (void)state;

    assert_int_equal(record_decode(buf, len, 2000, &h), 0);
    record_prepared_get(buf, &h, &p);
    assert_true(p.version == 6 && !p.clear && p.deleted);
    assert_int_equal(record_decode(buf, len - 16, 2000, &h), -EBADMSG);
    buf[1] = 0; /* as long, and nothing says that there is one */
    assert_int_equal(record_decode(buf, len, 2000, &h), -EBADMSG);
    len = both_record(buf, true, 6);
    assert_int_equal(record_decode(buf, len, 2000, &h), -EBADMSG);
    len = both_record(buf, false, 0);
    assert_int_equal(record_decode(buf, len, 2000, &h), -EBADMSG);
    len = both_record(buf, false, 6);
    buf[len - 8] = 4;
    assert_int_equal(record_decode(buf, len, 2000, &h), -EBADMSG);
}

static uint64_t floor_with(uint64_t seq, uint64_t floor)
{
    uint8_t buf[256];
    struct record_head h = {.kind = RECORD_DELTA, .dedups_count = 1, .id = {1, 2}};
    struct store_dedup d;

    record_head_encode(buf, &h);
    record_dedup_put(buf, &h, 0, &(struct store_dedup){9, seq, 11});
    record_floor_put(buf, &h, 0, floor);
    record_dedup_get(buf, &h, 0, &d);
    assert_true(d.client == 9 && d.seq == seq && d.version == 11);
    return record_floor_get(buf, &h, 0);
}

static void a_request_says_how_far_below_it_the_floor_is(void **state)
{
    (void)state;
    assert_int_equal(floor_with(10, 0), 0); /* not known */
    assert_int_equal(floor_with(10, 1), 1);
    assert_int_equal(floor_with(10, 10), 10);
    assert_int_equal(floor_with(10, 11), 11);
    assert_int_equal(floor_with(10, 500), 11); /* as far as this record can say */
    assert_int_equal(floor_with(70000, 70002 - 65535), 70002 - 65535);
    assert_int_equal(floor_with(70000, 70001 - 65535), 0); /* too far to be said */
    assert_int_equal(floor_with(STORE_SEQ_MAX - 1, STORE_SEQ_MAX - 9), STORE_SEQ_MAX - 9);
}

static void a_purge_is_its_header(void **state)
{
    uint8_t buf[64] = {0};
    struct record_head h = {.kind = RECORD_PURGE, .id = {1, 2}, .pg = 3};
    (void)state;

    record_head_encode(buf, &h);
    assert_int_equal(record_decode(buf, RECORD_HEADER, 100, &h), 0);
    buf[6] = 1;
    assert_int_equal(record_decode(buf, RECORD_HEADER + RECORD_DEDUP, 100, &h), -EBADMSG);
}

static void drops_name_records(void **state)
{
    static const uint64_t seqs[] = {7, 0x1234567890};
    static const uint8_t expected[] = {
        4, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0x90, 0x78, 0x56, 0x34, 0x12, 0, 0, 0,
    };
    uint8_t buf[64];
    (void)state;

    drops_encode(buf, seqs, 2);
    assert_memory_equal(buf, expected, sizeof(expected));
    assert_int_equal(drops_size(2), sizeof(expected));
    assert_int_equal(drops_decode(buf, 24), 2);
    assert_int_equal(drops_get(buf, 1), 0x1234567890);
    assert_int_equal(drops_decode(buf, 16), -EBADMSG);
    assert_int_equal(drops_decode(buf, 4), -EBADMSG);
    put_u32(buf + 4, RECORD_DROPS_MAX + 1);
    assert_int_equal(drops_decode(buf, drops_size(RECORD_DROPS_MAX + 1)), -EBADMSG);
    put_u32(buf, RECORD_FULL);
    assert_int_equal(drops_decode(buf, 24), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_superblock_lies_there_byte_by_byte),
        cmocka_unit_test(a_superblock_with_any_byte_changed_is_none),
        cmocka_unit_test(a_superblock_keeps_every_rule),
        cmocka_unit_test(a_ring_block_lies_there_byte_by_byte),
        cmocka_unit_test(a_ring_block_keeps_every_rule),
        cmocka_unit_test(pieces_come_back_in_order_and_know_their_place),
        cmocka_unit_test(a_piece_keeps_every_rule),
        cmocka_unit_test(a_record_lies_there_byte_by_byte),
        cmocka_unit_test(a_record_keeps_every_rule),
        cmocka_unit_test(a_full_record_may_have_a_prepared_part),
        cmocka_unit_test(a_request_says_how_far_below_it_the_floor_is),
        cmocka_unit_test(a_purge_is_its_header),
        cmocka_unit_test(drops_name_records),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
