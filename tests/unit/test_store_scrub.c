/* Scrub: everything in use is read once a round, at a pace, whatever happens meanwhile. */

#include "test_store_world.h"

enum { HOUR = 3600, MINUTE = 60, BAD_MAX = 64 };

struct bad {
    struct store_id id;
    uint64_t pg;
    uint32_t block;
    int error;
};

static struct {
    struct bad items[BAD_MAX];
    uint32_t count;
} bads;

static void on_bad(void *arg, const struct store_id *id, uint64_t pg, uint32_t block, int error)
{
    (void)arg;
    assert_true(bads.count < BAD_MAX);
    bads.items[bads.count++] = (struct bad){*id, pg, block, error};
}

static uint32_t bads_of(uint64_t object, uint32_t block, int error)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < bads.count; i++) {
        const struct bad *b = &bads.items[i];
        count += b->id.image == 1 && b->id.object == object && b->block == block &&
                 b->error == error && b->pg == object % 2;
    }
    return count;
}

static void scrub_world(struct world *w, uint64_t seed, uint64_t period_s, uint64_t rate)
{
    bads.count = 0;
    world_create(w, &(struct sim_config){.seed = seed});
    w->scrub_period_s = period_s;
    w->scrub_rate = rate;
    w->scrub_bad = on_bad;
    world_format_store(w);
    assert_int_equal(world_open(w), 0);
}

static void run_s(struct world *w, uint64_t seconds)
{
    world_run(w, seconds * NS_PER_S);
}

static void fill(struct world *w, uint64_t objects, uint32_t blocks)
{
    for (uint64_t i = 1; i <= objects; i++)
        assert_int_equal(world_write(w, i, i, 0, blocks, 1000 * i), 0);
}

/* Until a round is over; at most two periods. */
static void run_round(struct world *w)
{
    uint64_t rounds = world_status(w).scrub_rounds_total;

    for (uint64_t i = 0; i < 2 * w->scrub_period_s && world_status(w).scrub_rounds_total == rounds;
         i++)
        run_s(w, 1);
    assert_int_equal(world_status(w).scrub_rounds_total, rounds + 1);
}

static uint64_t slot_of(struct world *w, uint64_t object, uint32_t block)
{
    const struct object *o = object_find(w->store, &(struct store_id){1, object});
    uint64_t slot;
    uint32_t crc;

    map_read(o->map, o->runs, block, 1, &slot, &crc);
    assert_true(slot != 0);
    return slot;
}

static void rot(struct world *w, uint64_t object, uint32_t block)
{
    uint64_t bit = slot_of(w, object, block) * STORE_BLOCK * 8 + 77;

    assert_int_equal(sim_disk_flip(w->host, WORLD_PATH, bit), 0);
}

static void all_in_use_is_read_once_within_the_period(void **state)
{
    struct world w;
    (void)state;

    for (uint64_t seed = 1; seed <= 4; seed++) {
        scrub_world(&w, seed, HOUR, 0);
        fill(&w, 50, 3);
        assert_int_equal(world_change(&w, STORE_DELETE, 7, 51, 0, 0), 0);
        assert_int_equal(world_change(&w, STORE_ZERO, 8, 52, 1, 1), 0);
        world_settle(&w);
        run_round(&w); /* shorter, and things came while it ran */
        for (uint32_t round = 0; round < 3; round++) {
            uint64_t blocks = world_status(&w).scrub_blocks_total, from = sim_now(w.sim);
            run_round(&w);
            assert_int_equal(world_status(&w).scrub_blocks_total - blocks, 49 * 3 - 1);
            uint64_t took = (sim_now(w.sim) - from) / NS_PER_S;
            assert_in_range(took, HOUR * 8 / 10, HOUR);
            assert_false(world_status(&w).scrub_late);
        }
        assert_int_equal(bads.count, 0);
        world_deinit(&w);
    }
}

static void reads_are_spread_over_the_round(void **state)
{
    struct world w;
    uint64_t before = 0, most = 0;
    uint32_t idle = 0;
    (void)state;

    scrub_world(&w, 5, HOUR, 0);
    fill(&w, 300, 2);
    run_round(&w);
    before = world_status(&w).scrub_blocks_total;
    for (uint32_t i = 0; i < 50; i++) {
        run_s(&w, MINUTE);
        uint64_t now = world_status(&w).scrub_blocks_total;
        most = now - before > most ? now - before : most;
        idle += now == before;
        before = now;
    }
    assert_in_range(most, 10, 40); /* 11 on average */
    assert_true(idle <= 5);
    world_deinit(&w);
}

static void each_rotten_block_is_told_once_a_round_by_name(void **state)
{
    struct world w;
    (void)state;

    scrub_world(&w, 6, HOUR, 0);
    fill(&w, 20, 8);
    world_settle(&w);
    rot(&w, 3, 0);
    rot(&w, 3, 5);
    rot(&w, 3, 6);
    rot(&w, 11, 7);
    run_round(&w);
    bads.count = 0;
    for (uint32_t round = 1; round <= 2; round++) {
        run_round(&w);
        assert_int_equal(bads.count, 4 * round);
        assert_int_equal(bads_of(3, 0, -EBADMSG), round);
        assert_int_equal(bads_of(3, 5, -EBADMSG), round);
        assert_int_equal(bads_of(3, 6, -EBADMSG), round);
        assert_int_equal(bads_of(11, 7, -EBADMSG), round);
    }
    assert_int_equal(world_write(&w, 3, 100, 0, 8, 1), 0);
    assert_int_equal(world_write(&w, 11, 100, 0, 8, 1), 0);
    run_round(&w); /* may have come by before */
    bads.count = 0;
    uint64_t blocks = world_status(&w).scrub_blocks_total;
    run_round(&w);
    assert_int_equal(bads.count, 0);
    assert_int_equal(world_status(&w).scrub_blocks_total - blocks, 20 * 8);
    assert_int_equal(w.failed_count, 0);
    world_deinit(&w);
}

static void what_the_device_does_not_give_back_is_told_too(void **state)
{
    struct world w;
    (void)state;

    scrub_world(&w, 7, HOUR, 0);
    fill(&w, 1, 4);
    run_round(&w);
    sim_disk_fail(w.host, "", SIM_DISK_READ, 0, -EIO, false);
    run_round(&w);
    sim_disk_clear_faults(w.host);
    assert_int_equal(bads.count, 4);
    for (uint32_t b = 0; b < 4; b++)
        assert_int_equal(bads_of(1, b, -EIO), 1);
    run_round(&w);
    assert_int_equal(bads.count, 4);
    /* An error that passes is none. */
    sim_disk_fail(w.host, "", SIM_DISK_READ, 0, -EIO, true);
    run_round(&w);
    assert_int_equal(bads.count, 4);
    assert_int_equal(w.failed_count, 0);
    world_deinit(&w);
}

static void a_prepared_version_is_read_too(void **state)
{
    struct world w;
    (void)state;

    scrub_world(&w, 8, HOUR, 0);
    assert_int_equal(world_write(&w, 1, 1, 0, 4, 10), 0);
    struct op *op = op_new(&w);
    op_prepare_range(op, STORE_PREPARE, 1, 2, 1, 2, 0);
    op_fill(op, 1, 1, 2, 500);
    assert_int_equal(op_run(op), 0);
    world_settle(&w);
    run_round(&w);
    uint64_t blocks = world_status(&w).scrub_blocks_total;
    run_round(&w);
    assert_int_equal(world_status(&w).scrub_blocks_total - blocks, 6);

    const struct object *o = object_find(w.store, &(struct store_id){1, 1});
    struct layout l;
    prepared_changes(object_work(w.store, o)->prepared, &l);
    sim_disk_flip(w.host, WORLD_PATH, l.slots[2] * STORE_BLOCK * 8 + 5);
    run_round(&w);
    assert_int_equal(bads.count, 1);
    assert_int_equal(bads_of(1, 2, -EBADMSG), 1);
    op_free(op);
    world_deinit(&w);
}

/* The positions of one round, cut by restarts, add up to one round. */
static void a_restart_goes_on_where_it_was(void **state)
{
    struct world w;
    (void)state;

    for (uint64_t seed = 10; seed < 14; seed++) {
        uint64_t read = 0;
        uint32_t restarts = 0;
        scrub_world(&w, seed, HOUR, 0);
        fill(&w, 200, 2);
        world_settle(&w);
        run_round(&w);
        uint64_t from = sim_now(w.sim), before = world_status(&w).scrub_blocks_total;
        uint64_t since = world_status(&w).scrub_started_s;
        while (restarts < 8) {
            run_s(&w, 5 * MINUTE + 20);
            uint32_t permille = world_status(&w).scrub_permille;
            read += world_status(&w).scrub_blocks_total - before;
            assert_int_equal(world_restart(&w, restarts % 2 == 0), 0);
            assert_in_range(world_status(&w).scrub_permille, permille < 25 ? 0 : permille - 25,
                            permille);
            assert_int_equal(world_status(&w).scrub_started_s, since);
            before = 0;
            restarts++;
        }
        run_round(&w);
        read += world_status(&w).scrub_blocks_total;
        assert_in_range(read, 400, 400 + restarts * 16);
        assert_in_range((sim_now(w.sim) - from) / NS_PER_S, HOUR * 8 / 10, HOUR);
        world_deinit(&w);
    }
}

/* Each object that lives through a whole round is read in it: each has a rotten block, and others
 * come and go around it, with restarts in between. */
static void whatever_comes_and_goes_what_stays_is_read(void **state)
{
    struct world w;
    (void)state;

    for (uint64_t seed = 20; seed < 24; seed++) {
        scrub_world(&w, seed, HOUR, 0);
        fill(&w, 20, 2);
        world_settle(&w);
        for (uint64_t i = 1; i <= 20; i++)
            rot(&w, i, 1);
        run_round(&w);
        bads.count = 0;
        struct prng *p = sim_prng(w.sim);
        uint64_t version = 1000;
        uint64_t since = world_status(&w).scrub_started_s;
        while (world_status(&w).scrub_started_s == since) {
            uint64_t object = 21 + prng_below(p, 600);
            struct store_object so;
            version++;
            bool there = store_lookup(w.store, &(struct store_id){1, object}, &so);
            if (there && prng_chance(p, 1, 2))
                world_change(&w, prng_chance(p, 1, 2) ? STORE_PURGE : STORE_DELETE, object, version,
                             0, 0);
            else
                world_write(&w, object, version, 0, 1 + (uint32_t)prng_below(p, 8), version);
            run_s(&w, prng_below(p, 5));
            if (prng_chance(p, 1, 400))
                assert_int_equal(world_restart(&w, false), 0);
        }
        for (uint64_t i = 1; i <= 20; i++)
            assert_true(bads_of(i, 1, -EBADMSG) >= 1);
        world_deinit(&w);
    }
}

static void the_rate_is_kept(void **state)
{
    const uint64_t rate = 128 << 10;
    struct world w;
    (void)state;

    scrub_world(&w, 30, MINUTE, rate); /* 12 MiB in a minute: too much for it */
    fill(&w, 12, 256);
    world_settle(&w);
    run_round(&w);
    uint64_t from = sim_now(w.sim), before = world_status(&w).scrub_blocks_total;
    uint64_t bytes = 0, seconds = 0;
    bool late = false;
    for (uint32_t i = 0; i < 60; i++) {
        run_s(&w, 10);
        bytes = (world_status(&w).scrub_blocks_total - before) * STORE_BLOCK;
        seconds = (sim_now(w.sim) - from) / NS_PER_S;
        assert_true(bytes <= rate * seconds + STORE_OBJECT_MAX);
        late = late || world_status(&w).scrub_late;
    }
    assert_true(late);
    /* … and used, but for where a round begins with little to read. */
    assert_true(bytes >= rate * seconds * 7 / 10);
    world_deinit(&w);
}

struct load {
    struct op *ops[48];
    uint64_t version;
    uint32_t turns, quiet;
};

static void load_init(struct load *l, struct world *w)
{
    *l = (struct load){.version = 100000};
    for (uint32_t i = 0; i < COUNT_OF(l->ops); i++) {
        l->ops[i] = op_new(w);
        l->ops[i]->done = true;
    }
    sim_disk_set_slow(w->host, 1, 1, 80 * NS_PER_MS);
}

/* Writes, so many at once that the store is hardly ever quiet. */
static void load_run(struct load *l, struct world *w, uint64_t seconds)
{
    uint64_t end = sim_now(w->sim) + seconds * NS_PER_S;

    while (sim_now(w->sim) < end) {
        for (uint32_t i = 0, begun = 0; i < COUNT_OF(l->ops) && begun < 4; i++) {
            if (!l->ops[i]->done)
                continue;
            begun++;
            l->version++;
            op_prepare_range(l->ops[i], STORE_WRITE, 1 + i, l->version, 0, 1, l->version);
            store_write_start(w->store, &l->ops[i]->w);
        }
        world_run(w, 10 * NS_PER_MS);
        l->turns++;
        l->quiet += w->store->writes_count <= 4;
    }
    assert_true(l->quiet < l->turns / 50);
}

static void load_deinit(struct load *l, struct world *w)
{
    for (uint32_t i = 0; i < COUNT_OF(l->ops); i++) {
        assert_true(world_wait(w, &l->ops[i]->done, 60 * NS_PER_S));
        op_free(l->ops[i]);
    }
}

static void under_load_it_is_slow_but_goes_on(void **state)
{
    struct world w;
    struct load l;
    (void)state;

    scrub_world(&w, 31, 10 * MINUTE, 0);
    fill(&w, 100, 2);
    load_init(&l, &w);
    uint64_t rounds = world_status(&w).scrub_rounds_total;
    load_run(&l, &w, 22 * MINUTE);
    assert_true(world_status(&w).scrub_rounds_total >= rounds + 1);
    load_deinit(&l, &w);
    world_deinit(&w);
}

/* While there is time others go first; what was left out is made up for. */
static void when_others_are_busy_it_waits(void **state)
{
    struct world w;
    struct load l;
    (void)state;

    scrub_world(&w, 32, 2 * HOUR, 0);
    fill(&w, 2000, 1);
    run_round(&w);
    run_s(&w, 10 * MINUTE);
    load_init(&l, &w);
    uint64_t before = world_status(&w).scrub_blocks_total, from = sim_now(w.sim);
    load_run(&l, &w, MINUTE);
    assert_in_range(world_status(&w).scrub_blocks_total - before, 0, 6); /* else 18 */
    sim_disk_clear_faults(w.host);
    load_deinit(&l, &w);
    run_round(&w);
    assert_true((sim_now(w.sim) - from) / NS_PER_S < 2 * HOUR - 10 * MINUTE);
    world_deinit(&w);
}

/* What the log says of the time may be anything: it neither stalls nor runs wild. */
static void steps_of_the_wall_clock_do_no_harm(void **state)
{
    static const int64_t steps[] = {-40ll * 365 * 86400, -86400, 86400, 40ll * 365 * 86400};
    struct world w;
    (void)state;

    for (uint32_t i = 0; i < COUNT_OF(steps); i++) {
        scrub_world(&w, 40 + i, HOUR, 0);
        fill(&w, 300, 4);
        run_round(&w);
        run_s(&w, 10 * MINUTE);
        w.store->scrub_since = (uint32_t)((int64_t)w.store->scrub_since - steps[i]);
        uint32_t permille = world_status(&w).scrub_permille;
        assert_int_equal(world_write(&w, 1, 999, 0, 1, 1), 0);
        assert_int_equal(world_restart(&w, true), 0);
        assert_in_range(world_status(&w).scrub_permille, permille - 1, permille);

        uint64_t before = 0, most = 0, seconds = 0;
        while (world_status(&w).scrub_rounds_total == 0) {
            run_s(&w, 10);
            uint64_t now = world_status(&w).scrub_blocks_total;
            most = now - before > most ? now - before : most;
            before = now;
            seconds += 10;
            assert_true(seconds < HOUR);
        }
        /* An even round reads 3.5 blocks in 10 s; haste is 4 times that. */
        assert_true(most < 60);
        assert_true(seconds > HOUR * 8 / 10 * 8 / 10 / 4);
        uint64_t from = sim_now(w.sim);
        run_round(&w);
        assert_in_range((sim_now(w.sim) - from) / NS_PER_S, HOUR * 8 / 10, HOUR);
        world_deinit(&w);
    }
}

static void an_empty_store_is_scrubbed_in_silence(void **state)
{
    struct world w;
    (void)state;

    scrub_world(&w, 50, HOUR, 0);
    world_settle(&w);
    uint64_t head = w.store->head;
    run_round(&w);
    run_round(&w);
    assert_int_equal(world_status(&w).scrub_blocks_total, 0);
    assert_int_equal(w.store->head, head);
    world_deinit(&w);
}

/* … and one with content writes an empty block now and then, and no more. */
static void a_quiet_store_says_its_position_now_and_then(void **state)
{
    struct world w;
    (void)state;

    scrub_world(&w, 51, 48 * HOUR, 0);
    fill(&w, 500, 1);
    run_round(&w);
    uint64_t head = w.store->head;
    run_s(&w, 24 * HOUR);
    assert_in_range(w.store->head - head, 24 * 3, 24 * 6);
    world_deinit(&w);
}

static void stores_made_together_do_not_work_in_step(void **state)
{
    uint64_t first = UINT64_MAX, last = 0;
    struct world w;
    (void)state;

    for (uint64_t seed = 60; seed < 68; seed++) {
        scrub_world(&w, seed, HOUR, 0);
        fill(&w, 10, 1);
        run_round(&w);
        uint64_t at = sim_now(w.sim) / NS_PER_S;
        assert_true(at <= HOUR);
        first = at < first ? at : first;
        last = at > last ? at : last;
        world_deinit(&w);
    }
    assert_true(last - first > HOUR / 4);
}

static void without_a_period_nothing_is_read(void **state)
{
    struct world w;
    (void)state;

    scrub_world(&w, 70, 0, 0);
    fill(&w, 10, 2);
    uint64_t reads = world_status(&w).reads_total;
    run_s(&w, 100 * HOUR);
    assert_int_equal(world_status(&w).reads_total, reads);
    assert_int_equal(world_status(&w).scrub_permille, 0);
    world_deinit(&w);
}

static void a_failed_store_is_not_scrubbed(void **state)
{
    struct world w;
    (void)state;

    scrub_world(&w, 71, MINUTE, 0);
    fill(&w, 10, 2);
    sim_disk_fail(w.host, "", SIM_DISK_WRITE, 0, -EIO, true);
    assert_int_equal(world_write(&w, 1, 100, 0, 1, 1), -EIO);
    run_s(&w, 1);
    uint64_t reads = world_status(&w).reads_total;
    run_s(&w, HOUR);
    assert_int_equal(world_status(&w).reads_total, reads);
    assert_int_equal(bads.count, 0);
    world_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_in_use_is_read_once_within_the_period),
        cmocka_unit_test(reads_are_spread_over_the_round),
        cmocka_unit_test(each_rotten_block_is_told_once_a_round_by_name),
        cmocka_unit_test(what_the_device_does_not_give_back_is_told_too),
        cmocka_unit_test(a_prepared_version_is_read_too),
        cmocka_unit_test(a_restart_goes_on_where_it_was),
        cmocka_unit_test(whatever_comes_and_goes_what_stays_is_read),
        cmocka_unit_test(the_rate_is_kept),
        cmocka_unit_test(under_load_it_is_slow_but_goes_on),
        cmocka_unit_test(when_others_are_busy_it_waits),
        cmocka_unit_test(steps_of_the_wall_clock_do_no_harm),
        cmocka_unit_test(an_empty_store_is_scrubbed_in_silence),
        cmocka_unit_test(a_quiet_store_says_its_position_now_and_then),
        cmocka_unit_test(stores_made_together_do_not_work_in_step),
        cmocka_unit_test(without_a_period_nothing_is_read),
        cmocka_unit_test(a_failed_store_is_not_scrubbed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
