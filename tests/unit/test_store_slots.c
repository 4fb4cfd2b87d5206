/* Which slots are given out: what an aged device looks like. */

#include "test_store_world.h"

enum {
    SLOTS = 1 << 18,
    USED = SLOTS / 10 * 8 / 32 * 32,
    WAITING = 64, /* what was replaced comes back only then */
    WHOLE = 32,   /* blocks of an object */
    WHOLES = 2000,
};

struct aged {
    struct slots slots;
    uint64_t *at; /* where each block of data lies */
    struct prng p;
};

static void aged_init(struct aged *a)
{
    slots_init(&a->slots, SLOTS);
    prng_init(&a->p, 1);
    a->at = mem_zalloc(USED * sizeof(*a->at));
    for (uint64_t i = 0; i < USED;) {
        uint64_t first;
        uint32_t len = slots_take(&a->slots, WHOLE, &first);
        for (uint32_t k = 0; k < len && i < USED; k++)
            a->at[i++] = first + k;
    }
}

static void aged_deinit(struct aged *a)
{
    slots_deinit(&a->slots);
    free(a->at);
}

static void overwrite_blocks(struct aged *a, uint64_t count)
{
    uint64_t waiting[WAITING];

    for (uint64_t n = 0; n < count; n++) {
        uint64_t i = prng_below(&a->p, USED), slot;
        assert_int_equal(slots_take(&a->slots, 1, &slot), 1);
        if (n >= WAITING)
            slots_mark(&a->slots, waiting[n % WAITING], false);
        waiting[n % WAITING] = a->at[i];
        a->at[i] = slot;
    }
    for (uint64_t n = 0; n < WAITING; n++)
        slots_mark(&a->slots, waiting[n], false);
}

/* Into how many runs of slots an object falls that is written whole, on average. */
static double overwrite_wholes(struct aged *a)
{
    uint64_t pieces = 0;

    for (uint32_t n = 0; n < WHOLES; n++) {
        uint64_t *at = &a->at[prng_below(&a->p, USED / WHOLE) * WHOLE], now[WHOLE], first;
        for (uint32_t have = 0; have < WHOLE; pieces++) {
            uint32_t len = slots_take(&a->slots, WHOLE - have, &first);
            for (uint32_t k = 0; k < len; k++)
                now[have++] = first + k;
        }
        for (uint32_t k = 0; k < WHOLE; k++) {
            slots_mark(&a->slots, at[k], false);
            at[k] = now[k];
        }
    }
    return (double)pieces / WHOLES;
}

static void blocks_overwritten_at_random_leave_long_runs(void **state)
{
    struct aged a;
    (void)state;

    aged_init(&a);
    assert_true(overwrite_wholes(&a) <= 1.1);
    for (uint32_t round = 1; round <= 4; round++) {
        overwrite_blocks(&a, USED);
        double pieces = overwrite_wholes(&a);
        printf("80 %% full, overwritten %u times in single blocks: %.2f runs for 128 KiB\n", round,
               pieces);
        assert_true(pieces < 9); /* 14 when all take the next free slot */
        assert_int_equal(a.slots.free, SLOTS - USED);
    }
    aged_deinit(&a);
}

static void every_slot_is_given_out_once(void **state)
{
    struct slots sl;
    uint64_t first, given = 0;
    uint32_t len;
    (void)state;

    slots_init(&sl, 10000); /* two groups, and a part of one */
    while ((len = slots_take(&sl, given % 3 == 0 ? 1 : 40, &first)) > 0) {
        assert_true(first + len <= 10000);
        given += len;
    }
    assert_int_equal(given, 10000);
    assert_int_equal(sl.free, 0);
    slots_mark(&sl, 9999, false);
    slots_mark(&sl, 0, false);
    assert_int_equal(slots_take(&sl, 40, &first), 1);
    assert_int_equal(slots_take(&sl, 1, &first), 1);
    assert_int_equal(slots_take(&sl, 1, &first), 0);
    slots_deinit(&sl);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_overwritten_at_random_leave_long_runs),
        cmocka_unit_test(every_slot_is_given_out_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
