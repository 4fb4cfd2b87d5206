/* Discard of what is free, in the background: what, when, and never in anybody's way. */

#include "test_store_world.h"

static void discard_world(struct world *w, uint64_t seed, const struct loop_file_info *info)
{
    world_create(w, &(struct sim_config){.seed = seed});
    if (info != NULL)
        sim_disk_set_info(w->host, info);
    w->discards = true;
    world_format_store(w);
    assert_int_equal(world_open(w), 0);
}

static uint64_t discarded(struct world *w)
{
    return world_status(w).discarded_bytes_total / STORE_BLOCK;
}

/* Longer than a pass. */
static void run_passes(struct world *w, uint32_t count)
{
    world_run(w, count * 65 * NS_PER_S);
}

static void write_all(struct world *w, uint64_t objects, uint64_t version)
{
    for (uint64_t i = 1; i <= objects; i++)
        assert_int_equal(world_write(w, i, version + i, 0, 32, 100 * version + i), 0);
}

static void assert_content(struct world *w, uint64_t objects, uint64_t version)
{
    uint64_t value;

    for (uint64_t i = 1; i <= objects; i++) {
        for (uint32_t b = 0; b < 32; b++) {
            assert_int_equal(world_read(w, i, b, &value), 0);
            assert_int_equal(value, 100 * version + i + b);
        }
    }
}

static void what_is_freed_is_given_back_once(void **state)
{
    struct world w;
    (void)state;

    discard_world(&w, 1, NULL);
    write_all(&w, 40, 1);
    run_passes(&w, 2);
    uint64_t before = discarded(&w), free = w.store->slots.free;
    assert_true(before >= free * 9 / 10); /* at a start, all that is free */
    assert_true(before <= free);          /* … and none of it twice */
    run_passes(&w, 3);
    assert_int_equal(discarded(&w), before);

    for (uint64_t i = 1; i <= 20; i++)
        assert_int_equal(world_change(&w, STORE_DELETE, i, 1000, 0, 0), 0);
    run_passes(&w, 2);
    assert_true(discarded(&w) - before >= 20 * 32);
    assert_int_equal(w.store->slots.free, free + 20 * 32);
    before = discarded(&w);
    run_passes(&w, 3);
    assert_int_equal(discarded(&w), before);
    world_deinit(&w);
}

static void what_is_in_use_stays(void **state)
{
    struct world w;
    (void)state;

    for (uint64_t seed = 1; seed <= 3; seed++) {
        discard_world(&w, seed, NULL);
        for (uint64_t version = 1; version <= 5; version++) {
            write_all(&w, 40, version);
            run_passes(&w, 1);
        }
        assert_content(&w, 40, 5);
        assert_int_equal(world_restart(&w, true), 0);
        run_passes(&w, 2);
        assert_content(&w, 40, 5);
        assert_true(discarded(&w) > 0);
        world_deinit(&w);
    }
}

static void runs_are_as_the_device_wants_them(void **state)
{
    static const struct loop_file_info info = {.is_device = true,
                                               .is_volatile = true,
                                               .can_discard = true,
                                               .io_align = 512,
                                               .discard_align = 64 * STORE_BLOCK};
    struct world w;
    (void)state;

    discard_world(&w, 4, &info);
    assert_int_equal(w.store->discard->least, 64);
    write_all(&w, 40, 1);
    run_passes(&w, 2);
    uint64_t before = discarded(&w);
    assert_true(before > 0 && before % 64 == 0);
    for (uint64_t i = 3; i <= 20; i++) /* in slots that follow each other */
        assert_int_equal(world_change(&w, STORE_DELETE, i, 1000, 0, 0), 0);
    for (uint32_t i = 0; i < 10000; i++) {
        world_run(&w, 10 * NS_PER_MS);
        assert_int_equal(w.store->discard->first % 64, 0);
        assert_int_equal(w.store->discard->count % 64, 0);
    }
    assert_in_range(discarded(&w) - before, 18 * 32 - 2 * 64, w.store->slots.free);
    assert_content(&w, 2, 1);
    world_deinit(&w);
}

static void a_pool_of_slots_that_is_nearly_empty_is_left_alone(void **state)
{
    struct world w;
    (void)state;

    discard_world(&w, 5, NULL);
    run_passes(&w, 2);
    struct slots *sl = &w.store->slots;
    for (uint64_t slot = 0; slot < sl->count && sl->free > 600; slot++) {
        if (!slots_is_used(sl, slot))
            slots_mark(sl, slot, true);
    }
    assert_int_equal(world_write(&w, 1, 1, 0, 32, 1), 0);
    assert_int_equal(world_change(&w, STORE_DELETE, 1, 2, 0, 0), 0);
    uint64_t before = discarded(&w);
    run_passes(&w, 3);
    assert_int_equal(discarded(&w), before);
    w.store->discard->keep = 0; /* and then half of it at a time */
    run_passes(&w, 1);
    assert_true(discarded(&w) > before);
    world_deinit(&w);
}

/* A discard that takes long holds up who needs just these slots, and no longer. */
static void a_write_waits_for_slots_that_come_back(void **state)
{
    struct world w;
    (void)state;

    discard_world(&w, 6, NULL);
    run_passes(&w, 2);
    struct store *s = w.store;
    for (uint64_t slot = 0; slot < s->slots.count && s->slots.free > 40; slot++) {
        if (!slots_is_used(&s->slots, slot))
            slots_mark(&s->slots, slot, true);
    }
    assert_int_equal(world_write(&w, 1, 1, 0, 32, 1), 0);
    assert_int_equal(world_change(&w, STORE_DELETE, 1, 2, 0, 0), 0);
    world_settle(&w);
    assert_int_equal(s->slots.free, 40);
    s->discard->keep = 0;
    sim_disk_set_slow(w.host, 1, 1, 3 * NS_PER_S);
    for (uint32_t i = 0; i < 10000 && s->discard->held == 0; i++)
        world_run(&w, 10 * NS_PER_MS);
    assert_int_equal(s->discard->held, 20);
    assert_int_equal(s->slots.free, 20);
    assert_int_equal(world_status(&w).used_bytes / STORE_BLOCK,
                     s->slots.count - s->super.ring_blocks - SUPER_COPIES - 40);
    uint64_t before = discarded(&w);
    struct op *op = op_new(&w);
    op_prepare_range(op, STORE_WRITE, 2, 3, 0, 32, 55);
    store_write_start(s, &op->w);
    assert_false(list_empty(&s->deferred));
    assert_true(world_wait(&w, &op->done, 60 * NS_PER_S));
    assert_int_equal(op->w.result, 0);
    assert_true(discarded(&w) > before);
    op_free(op);
    world_deinit(&w);
}

static void a_device_that_cannot_is_asked_once(void **state)
{
    static const int errors[] = {-EOPNOTSUPP, -EIO};
    struct world w;
    (void)state;

    for (uint32_t i = 0; i < COUNT_OF(errors); i++) {
        discard_world(&w, 7, NULL);
        sim_disk_fail(w.host, "", SIM_DISK_DISCARD, 0, errors[i], true);
        uint64_t free = w.store->slots.free;
        run_passes(&w, 3);
        assert_int_equal(discarded(&w), 0);
        assert_int_equal(w.store->slots.free, free);
        assert_int_equal(w.failed_count, 0);
        write_all(&w, 3, 1);
        assert_content(&w, 3, 1);
        run_passes(&w, 3);
        assert_int_equal(discarded(&w), 0);
        world_deinit(&w);
    }
}

static void auto_leaves_alone_what_is_reserved_or_cannot(void **state)
{
    static const struct loop_file_info infos[] = {
        {.can_discard = true, .io_align = 512, .discard_align = 4096}, /* a file, not sparse */
        {.is_device = true, .io_align = 512},
        {.is_device = true, .can_discard = true, .io_align = 512, .discard_align = 1 << 30},
    };
    struct world w;
    (void)state;

    for (uint32_t i = 0; i < COUNT_OF(infos); i++) {
        discard_world(&w, 8, &infos[i]);
        assert_null(w.store->discard);
        write_all(&w, 3, 1);
        run_passes(&w, 2);
        assert_int_equal(discarded(&w), 0);
        world_deinit(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_freed_is_given_back_once),
        cmocka_unit_test(what_is_in_use_stays),
        cmocka_unit_test(runs_are_as_the_device_wants_them),
        cmocka_unit_test(a_pool_of_slots_that_is_nearly_empty_is_left_alone),
        cmocka_unit_test(a_write_waits_for_slots_that_come_back),
        cmocka_unit_test(a_device_that_cannot_is_asked_once),
        cmocka_unit_test(auto_leaves_alone_what_is_reserved_or_cannot),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
