/*
 * Stores on devices beyond 16 TiB, where a slot has a number of more than 32 bits. The simulated
 * device is sparse: it costs what is written to it. The bitmap of slots is memory that nobody
 * touches.
 */

#include "test_store_world.h"

#include <unistd.h>

static const uint64_t tib = (uint64_t)1 << 40;

enum { OBJECTS = 12, BLOCKS = 8, RING = 300 };

static struct store_format huge_format(uint64_t size)
{
    struct store_format f = world_format();

    f.size = size;
    f.ring_blocks = RING; /* a start reads all of it */
    return f;
}

static void huge_create(struct world *w, uint64_t size)
{
    struct store_format f = huge_format(size);

    world_create(w, &(struct sim_config){.seed = 3});
    assert_int_equal(store_format(w->loop, WORLD_PATH, &f, false), 0);
    assert_int_equal(loop_dir_sync(w->loop, "."), 0);
}

static uint64_t huge_value(uint64_t object, uint64_t version, uint32_t block)
{
    return 1000000 * object + 1000 * version + block + 1;
}

static void huge_write(struct world *w, uint64_t object, uint64_t version)
{
    assert_int_equal(world_write(w, object, version, 0, BLOCKS, huge_value(object, version, 0)), 0);
}

static void huge_check(struct world *w, uint64_t version)
{
    for (uint64_t object = 1; object <= OBJECTS; object++) {
        for (uint32_t b = 0; b < BLOCKS; b++) {
            uint64_t value;
            assert_int_equal(world_read(w, object, b, &value), 0);
            assert_int_equal(value, huge_value(object, version, b));
        }
    }
}

/* The page that holds this block, looked for in [from, to). */
static uint64_t huge_find(struct world *w, uint64_t from, uint64_t to, uint64_t value)
{
    uint8_t block[STORE_BLOCK];

    for (uint64_t page = from; page < to; page++) {
        assert_int_equal(sim_disk_peek(w->host, WORLD_PATH, page * STORE_BLOCK, block, STORE_BLOCK),
                         0);
        if (block_is(block, value))
            return page;
    }
    return 0;
}

/* Writes land on both sides of `slot`, are found by a start, overwritten, copied by cleaning. */
static void huge_life(struct world *w, uint64_t slot)
{
    uint64_t blocks = w->store->super.blocks, bits = STORE_BLOCK * 8, value;

    w->store->slots.next = slot - (uint64_t)OBJECTS * BLOCKS / 2;
    for (uint64_t object = 1; object <= OBJECTS; object++)
        huge_write(w, object, 1);
    huge_check(w, 1);
    uint64_t end =
        slot + (uint64_t)OBJECTS * BLOCKS < blocks ? slot + (uint64_t)OBJECTS * BLOCKS : blocks;
    uint64_t page = huge_find(w, slot - (uint64_t)OBJECTS * BLOCKS / 2, end, huge_value(3, 1, 2));
    assert_true(page > UINT32_MAX);
    assert_int_equal(huge_find(w, 0, 4 * RING, huge_value(3, 1, 2)), 0);

    assert_int_equal(world_restart(w, true), 0);
    huge_check(w, 1);
    uint64_t used = world_status(w).used_bytes;
    w->store->slots.next = slot;
    for (uint64_t version = 2; version < 40; version++) {
        for (uint64_t object = 1; object <= OBJECTS; object++)
            huge_write(w, object, version);
    }
    huge_check(w, 39);
    assert_true(w->store->head > w->store->super.ring_blocks);
    world_settle(w);
    assert_int_equal(world_status(w).used_bytes, used); /* what was overwritten came back */

    assert_int_equal(world_restart(w, true), 0);
    huge_check(w, 39);
    assert_int_equal(world_status(w).used_bytes, used);
    assert_int_equal(store_image_blocks(w->store, 1), OBJECTS * BLOCKS);
    w->store->slots.next = slot;
    assert_int_equal(world_write(w, 3, 40, 0, 1, 77), 0);
    page = huge_find(w, slot, end, 77);
    assert_true(page > UINT32_MAX);
    assert_int_equal(sim_disk_flip(w->host, WORLD_PATH, page * bits + 5), 0);
    assert_int_equal(world_read(w, 3, 0, &value), -EBADMSG);
    assert_int_equal(world_read(w, 3, 1, &value), 0);
    assert_int_equal(world_change(w, STORE_DELETE, 3, 41, 0, 0), 0);
    assert_int_equal(world_restart(w, true), 0);
    assert_int_equal(store_image_blocks(w->store, 1), (OBJECTS - 1) * BLOCKS);
}

static void a_store_works_at(uint64_t size, uint64_t slot)
{
    struct world w;

    huge_create(&w, size);
    assert_int_equal(world_open(&w), 0);
    assert_int_equal(world_status(&w).size_bytes, size);
    huge_life(&w, slot);
    world_deinit(&w);
}

static void slots_beyond_16_tib_hold_data(void **state)
{
    (void)state;
    a_store_works_at(20 * tib, 16 * tib / STORE_BLOCK + 1000);
}

/* Where a number of 32 bits would have gone round; only some of the slots are beyond. */
static void slots_on_both_sides_of_16_tib_are_different_ones(void **state)
{
    struct world w;
    struct op *op;
    uint64_t border = 16 * tib / STORE_BLOCK, value;
    (void)state;

    huge_create(&w, 17 * tib);
    assert_int_equal(world_open(&w), 0);
    w.store->slots.next = border - 16;
    op = op_new(&w);
    op_prepare_range(op, STORE_WRITE, 1, 1, 0, 32, 500);
    assert_int_equal(op_run(op), 0);
    w.store->slots.next = RING + 10; /* what the others would be, cut to 32 bits */
    op_prepare_range(op, STORE_WRITE, 2, 1, 0, 64, 900);
    assert_int_equal(op_run(op), 0);
    assert_true(huge_find(&w, border - 16, border, 500) != 0);
    assert_true(huge_find(&w, border, border + 16, 531) != 0);
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint32_t b = 0; b < 32; b++) {
            assert_int_equal(world_read(&w, 1, b, &value), 0);
            assert_int_equal(value, 500 + b);
            assert_int_equal(world_read(&w, 2, b, &value), 0);
            assert_int_equal(value, 900 + b);
        }
        assert_int_equal(world_restart(&w, true), 0);
    }
    op_free(op);
    world_deinit(&w);
}

static void the_last_slots_of_100_tib_hold_data(void **state)
{
    uint64_t size = 100 * tib;
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    (void)state;

    /* 3.1 GiB of addresses for the bitmap: some kernels refuse more than there is memory. */
    if (pages < 0 || (uint64_t)pages * (uint64_t)page < 6 * (tib >> 10))
        skip();
    a_store_works_at(size, size / STORE_BLOCK - 60);
}

/* Opening it takes a bitmap of 32 GiB; what is written to it does not. */
static void a_device_of_1_pib_is_formatted(void **state)
{
    struct world w;
    struct store_format f;
    uint8_t block[STORE_BLOCK];
    struct superblock sb;
    uint64_t size = 1024 * tib;
    (void)state;

    huge_create(&w, size);
    assert_int_equal(store_probe(w.loop, WORLD_PATH, &f), 0);
    assert_int_equal(f.size, size);
    for (uint32_t copy = 0; copy < SUPER_COPIES; copy++) {
        uint64_t at = superblock_place(size / STORE_BLOCK, copy) * STORE_BLOCK;
        assert_int_equal(sim_disk_peek(w.host, WORLD_PATH, at, block, STORE_BLOCK), 0);
        assert_int_equal(superblock_decode(block, &sb), 0);
        assert_int_equal(sb.copy, copy);
        assert_int_equal(sb.blocks, size / STORE_BLOCK);
    }
    world_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_beyond_16_tib_hold_data),
        cmocka_unit_test(slots_on_both_sides_of_16_tib_are_different_ones),
        cmocka_unit_test(the_last_slots_of_100_tib_hold_data),
        cmocka_unit_test(a_device_of_1_pib_is_formatted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
