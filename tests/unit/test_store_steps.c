/* Erasure coding's steps by hand: one more version beside what is, and what becomes of it. */

#include "test_store_world.h"

enum { OBJECT = 5, BLOCKS = 8 };

static struct store_object lookup(struct world *w)
{
    struct store_object o = {0};

    assert_true(store_lookup(w->store, &(struct store_id){1, OBJECT}, &o));
    return o;
}

static bool exists(struct world *w)
{
    struct store_object o;

    return store_lookup(w->store, &(struct store_id){1, OBJECT}, &o);
}

/* ---- Steps in one line ---- */

static void op_prepare_step(struct op *op, uint64_t version, uint32_t first, uint32_t count,
                            uint64_t value)
{
    op_prepare(op, STORE_PREPARE, OBJECT, version);
    op->w.offset = first * STORE_BLOCK;
    op->w.len = count * STORE_BLOCK;
    op->w.zero = value == 0;
    if (value != 0)
        op_fill(op, OBJECT, first, count, value);
}

/* Value 0: holes. */
static int prepare(struct world *w, uint64_t version, uint32_t first, uint32_t count,
                   uint64_t value)
{
    struct op *op = op_new(w);

    op_prepare_step(op, version, first, count, value);
    int result = op_run(op);
    op_free(op);
    return result;
}

static int prepare_delete(struct world *w, uint64_t version)
{
    struct op *op = op_new(w);

    op_prepare(op, STORE_PREPARE, OBJECT, version);
    op->w.deleted = true;
    int result = op_run(op);
    op_free(op);
    return result;
}

static int step(struct world *w, enum store_write_kind kind, uint64_t version)
{
    return world_change(w, kind, OBJECT, version, 0, 0);
}

/* ---- What there is ---- */

static uint64_t read_one(struct world *w, uint32_t block, bool prepared, int expected)
{
    struct op *op = op_new(w);

    op->r = (struct store_read){
        .id = {1, OBJECT},
        .offset = block * STORE_BLOCK,
        .len = STORE_BLOCK,
        .buf = op->data,
        .crcs = op->crcs,
        .prepared = prepared,
        .done = op_on_read,
    };
    store_read_start(w->store, &op->r);
    assert_true(world_wait(w, &op->done, 60 * NS_PER_S));
    assert_int_equal(op->r.result, expected);
    uint64_t value = block_value(op->data);
    assert_true(block_is(op->data, value));
    op_free(op);
    return value;
}

/* Versions (0: none), and the content of blocks 0 to 7 of both. */
struct expected {
    uint64_t version, prepared;
    bool deleted;
    uint64_t is[BLOCKS], next[BLOCKS];
    uint32_t slots; /* of both together */
};

static void expect_now(struct world *w, const struct expected *e)
{
    struct store_object o = lookup(w);

    assert_int_equal(o.version, e->version);
    assert_int_equal(o.prepared, e->prepared);
    assert_int_equal(o.deleted, e->deleted);
    for (uint32_t b = 0; b < BLOCKS; b++) {
        assert_int_equal(o.present[0] >> b & 1, e->is[b] != 0);
        assert_int_equal(read_one(w, b, false, 0), e->is[b]);
        assert_int_equal(read_one(w, b, true, e->prepared != 0 ? 0 : -ENOENT), e->next[b]);
    }
    assert_int_equal(store_image_blocks(w->store, 1), e->slots);
}

/* … and after each kind of end, and that no slot is lost or kept. `used`: of the empty store. */
static void expect(struct world *w, uint64_t used, const struct expected *e)
{
    expect_now(w, e);
    world_settle(w);
    assert_int_equal(world_status(w).used_bytes, used + (uint64_t)e->slots * STORE_BLOCK);
    for (int pass = 0; pass < 4; pass++) {
        assert_int_equal(world_restart(w, pass % 2 == 0), 0);
        expect_now(w, e);
        assert_int_equal(world_status(w).used_bytes, used + (uint64_t)e->slots * STORE_BLOCK);
    }
}

static uint64_t begin(struct world *w, uint64_t seed)
{
    world_init(w, seed);
    uint64_t used = world_status(w).used_bytes;
    assert_int_equal(world_write(w, OBJECT, 10, 0, 4, 100), 0);
    return used;
}

/* ---- One step after the other ---- */

static void a_prepared_version_lies_beside_what_is_until_it_is_committed(void **state)
{
    struct world w;
    (void)state;

    uint64_t used = begin(&w, 1);
    assert_int_equal(prepare(&w, 20, 2, 4, 200), 0);
    expect(&w, used,
           &(struct expected){.version = 10,
                              .prepared = 20,
                              .is = {100, 101, 102, 103},
                              .next = {100, 101, 200, 201, 202, 203},
                              .slots = 8});
    assert_int_equal(step(&w, STORE_COMMIT, 20), 0);
    expect(&w, used,
           &(struct expected){.version = 20, .is = {100, 101, 200, 201, 202, 203}, .slots = 6});
    world_deinit(&w);
}

static void a_rollback_leaves_what_was_and_its_slots(void **state)
{
    struct world w;
    (void)state;

    uint64_t used = begin(&w, 2);
    assert_int_equal(prepare(&w, 20, 2, 4, 200), 0);
    assert_int_equal(step(&w, STORE_ROLLBACK, 20), 0);
    expect(&w, used, &(struct expected){.version = 10, .is = {100, 101, 102, 103}, .slots = 4});
    assert_int_equal(world_write(&w, OBJECT, 21, 0, 1, 300), 0); /* it is free for others */
    world_deinit(&w);
}

static void holes_may_be_prepared(void **state)
{
    struct world w;
    (void)state;

    uint64_t used = begin(&w, 3);
    assert_int_equal(prepare(&w, 20, 1, 2, 0), 0);
    expect(&w, used,
           &(struct expected){.version = 10,
                              .prepared = 20,
                              .is = {100, 101, 102, 103},
                              .next = {100, 0, 0, 103},
                              .slots = 4});
    assert_int_equal(step(&w, STORE_COMMIT, 20), 0);
    expect(&w, used, &(struct expected){.version = 20, .is = {100, 0, 0, 103}, .slots = 2});
    world_deinit(&w);
}

static void a_version_alone_may_be_prepared(void **state)
{
    struct world w;
    (void)state;

    uint64_t used = begin(&w, 4);
    assert_int_equal(prepare(&w, 20, 0, 0, 1), 0);
    expect(&w, used,
           &(struct expected){.version = 10,
                              .prepared = 20,
                              .is = {100, 101, 102, 103},
                              .next = {100, 101, 102, 103},
                              .slots = 4});
    assert_int_equal(step(&w, STORE_COMMIT, 20), 0);
    expect(&w, used, &(struct expected){.version = 20, .is = {100, 101, 102, 103}, .slots = 4});
    world_deinit(&w);
}

static void a_delete_may_be_prepared(void **state)
{
    struct world w;
    (void)state;

    uint64_t used = begin(&w, 5);
    assert_int_equal(prepare_delete(&w, 20), 0);
    expect(
        &w, used,
        &(struct expected){.version = 10, .prepared = 20, .is = {100, 101, 102, 103}, .slots = 4});
    assert_int_equal(step(&w, STORE_COMMIT, 20), 0);
    expect(&w, used, &(struct expected){.version = 20, .deleted = true});
    world_deinit(&w);
}

static void a_later_prepare_commits_an_earlier_one_and_replaces_itself(void **state)
{
    struct world w;
    (void)state;

    uint64_t used = begin(&w, 6);
    assert_int_equal(prepare(&w, 20, 0, 1, 200), 0);
    assert_int_equal(prepare(&w, 30, 1, 1, 300), 0);
    expect(&w, used,
           &(struct expected){.version = 20,
                              .prepared = 30,
                              .is = {200, 101, 102, 103},
                              .next = {200, 300, 102, 103},
                              .slots = 5});
    assert_int_equal(prepare(&w, 30, 2, 2, 400), 0); /* block 1 is as it was */
    expect(&w, used,
           &(struct expected){.version = 20,
                              .prepared = 30,
                              .is = {200, 101, 102, 103},
                              .next = {200, 101, 400, 401},
                              .slots = 6});
    world_deinit(&w);
}

static void an_object_that_was_never_more_than_prepared_goes_with_it(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 7);
    uint64_t used = world_status(&w).used_bytes;
    assert_int_equal(prepare(&w, 20, 0, 2, 200), 0);
    expect(&w, used,
           &(struct expected){.prepared = 20, .deleted = true, .next = {200, 201}, .slots = 2});
    assert_int_equal(step(&w, STORE_ROLLBACK, 20), 0);
    for (int pass = 0; pass < 3; pass++) {
        assert_false(exists(&w));
        assert_int_equal(store_image_blocks(w.store, 1), 0);
        world_settle(&w);
        assert_int_equal(world_status(&w).used_bytes, used);
        assert_int_equal(world_restart(&w, pass % 2 == 0), 0);
    }
    world_deinit(&w);
}

static void steps_out_of_order_are_refused_and_change_nothing(void **state)
{
    struct world w;
    (void)state;

    uint64_t used = begin(&w, 8);
    assert_int_equal(step(&w, STORE_COMMIT, 20), -ENOENT);
    assert_int_equal(step(&w, STORE_COMMIT, 10), 0); /* it was before */
    assert_int_equal(step(&w, STORE_COMMIT, 9), 0);
    assert_int_equal(step(&w, STORE_ROLLBACK, 20), 0);
    assert_int_equal(step(&w, STORE_ROLLBACK, 10), -ESTALE);
    assert_int_equal(prepare(&w, 10, 0, 1, 200), -ESTALE);
    assert_int_equal(prepare(&w, 20, 0, 1, 200), 0);
    assert_int_equal(prepare(&w, 19, 0, 1, 300), -ESTALE);
    assert_int_equal(world_write(&w, OBJECT, 30, 0, 1, 400), -EBUSY);
    assert_int_equal(world_change(&w, STORE_ZERO, OBJECT, 30, 0, 1), -EBUSY);
    assert_int_equal(world_change(&w, STORE_DELETE, OBJECT, 30, 0, 0), -EBUSY);
    assert_int_equal(step(&w, STORE_COMMIT, 21), -ENOENT);
    assert_int_equal(step(&w, STORE_ROLLBACK, 21), 0);
    expect(&w, used,
           &(struct expected){.version = 10,
                              .prepared = 20,
                              .is = {100, 101, 102, 103},
                              .next = {200, 101, 102, 103},
                              .slots = 5});
    assert_int_equal(world_change(&w, STORE_COMMIT, 77, 5, 0, 0), -ENOENT); /* nobody knows it */
    assert_int_equal(world_change(&w, STORE_ROLLBACK, 77, 5, 0, 0), 0);
    world_deinit(&w);
}

static void replace_and_purge_forget_what_is_prepared(void **state)
{
    struct world w;
    (void)state;

    uint64_t used = begin(&w, 9);
    assert_int_equal(prepare(&w, 20, 0, 2, 200), 0);
    struct op *op = op_new(&w);
    op_prepare(op, STORE_REPLACE, OBJECT, 15);
    op->w.present[0] = 1;
    op_fill(op, OBJECT, 0, 1, 900);
    assert_int_equal(op_run(op), 0);
    op_free(op);
    expect(&w, used, &(struct expected){.version = 15, .is = {900}, .slots = 1});
    assert_int_equal(prepare(&w, 20, 0, 2, 200), 0);
    assert_int_equal(step(&w, STORE_PURGE, 0), 0);
    world_settle(&w);
    assert_false(exists(&w));
    assert_int_equal(world_status(&w).used_bytes, used);
    assert_int_equal(world_restart(&w, true), 0);
    assert_false(exists(&w));
    world_deinit(&w);
}

/* R10: a request that was rolled back was never seen; one that was committed was. */
static void dedup_records_share_the_fate_of_the_step(void **state)
{
    struct world w;
    uint64_t version;
    (void)state;

    begin(&w, 10);
    struct op *op = op_new(&w);
    for (uint64_t seq = 1; seq <= 2; seq++) {
        op_prepare_step(op, 20 + seq, 0, 1, 200);
        op->w.client = 9;
        op->w.seq = seq;
        assert_int_equal(op_run(op), 0);
        assert_true(store_dedup_find(w.store, 1, 9, seq, &version) && version == 20 + seq);
        assert_int_equal(step(&w, seq == 1 ? STORE_ROLLBACK : STORE_COMMIT, 20 + seq), 0);
        for (int pass = 0; pass < 2; pass++) {
            assert_false(store_dedup_find(w.store, 1, 9, 1, &version));
            assert_int_equal(store_dedup_find(w.store, 1, 9, 2, &version), seq == 2);
            assert_int_equal(world_restart(&w, true), 0);
        }
    }
    op_free(op);
    world_deinit(&w);
}

/* ---- Together ---- */

/* On a slow disk the first write holds the log; what comes meanwhile is one record, in full. */
static void steps_that_wait_together_are_one_record(void **state)
{
    struct world w;
    struct op *ops[6];
    (void)state;

    uint64_t used = begin(&w, 11);
    world_settle(&w);
    sim_disk_set_slow(w.host, 1, 1, 4 * NS_PER_MS);
    for (uint32_t i = 0; i < COUNT_OF(ops); i++)
        ops[i] = op_new(&w);
    uint64_t fill[] = {801, 802};
    for (uint32_t i = 0; i < COUNT_OF(fill); i++) { /* both groups of log blocks are away */
        op_prepare_range(ops[i], STORE_WRITE, fill[i], 1, 0, 1, 1);
        store_write_start(w.store, &ops[i]->w);
        world_run(&w, 1000);
    }
    uint64_t before = w.store->seq_last;
    op_prepare_step(ops[2], 20, 0, 1, 200);
    store_write_start(w.store, &ops[2]->w);
    op_prepare_step(ops[3], 30, 1, 1, 300);
    store_write_start(w.store, &ops[3]->w);
    op_prepare(ops[4], STORE_COMMIT, OBJECT, 30);
    store_write_start(w.store, &ops[4]->w);
    op_prepare_step(ops[5], 40, 2, 1, 400);
    store_write_start(w.store, &ops[5]->w);
    for (uint32_t i = 0; i < COUNT_OF(ops); i++) {
        assert_true(world_wait(&w, &ops[i]->done, NS_PER_S));
        assert_int_equal(ops[i]->w.result, 0);
        op_free(ops[i]);
    }
    assert_true(w.store->seq_last <= before + 2);
    sim_disk_set_slow(w.host, 0, 1, 0);
    for (uint32_t i = 0; i < COUNT_OF(fill); i++)
        assert_int_equal(world_change(&w, STORE_PURGE, fill[i], 0, 0, 0), 0);
    expect(&w, used,
           &(struct expected){.version = 30,
                              .prepared = 40,
                              .is = {200, 300, 102, 103},
                              .next = {200, 300, 400, 103},
                              .slots = 5});
    world_deinit(&w);
}

/* The power goes at any moment of a PREPARE and a COMMIT: one of three states, and no other. */
static void whenever_the_power_goes_it_is_before_between_or_after(void **state)
{
    uint32_t seen[3] = {0};
    (void)state;

    for (uint64_t seed = 0; seed < 150; seed++) {
        struct world w;
        begin(&w, 100 + seed);
        struct op *a = op_new(&w), *b = op_new(&w);
        op_prepare_step(a, 20, 2, 4, 200);
        store_write_start(w.store, &a->w);
        world_run(&w, seed * 10000);
        op_prepare(b, STORE_COMMIT, OBJECT, 20);
        if (seed % 3 != 0)
            store_write_start(w.store, &b->w);
        world_run(&w, seed % 7 * 60000);
        assert_int_equal(world_restart(&w, true), 0);
        struct store_object o = lookup(&w);
        uint32_t at = o.version == 20 ? 2 : o.prepared == 20 ? 1 : 0;
        assert_true(at >= (uint32_t)a->done + (uint32_t)b->done);
        assert_true(o.version == (at == 2 ? 20 : 10) && o.prepared == (at == 1 ? 20 : 0));
        for (uint32_t k = 0; k < BLOCKS; k++) {
            uint64_t old = k < 4 ? 100 + k : 0, new = k >= 2 && k < 6 ? 198 + k : old;
            assert_int_equal(read_one(&w, k, false, 0), at == 2 ? new : old);
            assert_int_equal(read_one(&w, k, true, at == 1 ? 0 : -ENOENT), at == 1 ? new : 0);
        }
        assert_int_equal(store_image_blocks(w.store, 1), at == 2 ? 6 : at == 1 ? 8 : 4);
        seen[at]++;
        op_free(a);
        op_free(b);
        world_deinit(&w);
    }
    assert_true(seen[0] > 5 && seen[1] > 5 && seen[2] > 5);
}

/* ---- Cleaning, and no room ---- */

/* Its records leave the ring again and again; copies carry both versions. */
static void cleaning_carries_what_is_prepared(void **state)
{
    struct world w;
    (void)state;

    world_create(&w, &(struct sim_config){.seed = 12});
    world_format_store(&w);
    world_shrink_ring(&w, RING_BLOCKS_MIN);
    assert_int_equal(world_open(&w), 0);
    uint64_t used = world_status(&w).used_bytes;
    assert_int_equal(world_write(&w, OBJECT, 10, 0, 4, 100), 0);
    assert_int_equal(prepare(&w, 20, 2, 4, 200), 0);
    uint64_t last = w.store->head;
    for (uint32_t i = 0; w.store->tail_durable <= last + RING_BLOCKS_MIN; i++)
        assert_int_equal(world_write(&w, 3, 2000 + i, 0, 1, 1 + i), 0);
    assert_true(world_status(&w).cleaned_total > 1);
    assert_int_equal(world_change(&w, STORE_PURGE, 3, 0, 0, 0), 0);
    expect(&w, used,
           &(struct expected){.version = 10,
                              .prepared = 20,
                              .is = {100, 101, 102, 103},
                              .next = {100, 101, 200, 201, 202, 203},
                              .slots = 8});
    world_deinit(&w);
}

/* R13: what gives room back never waits for room. `fill` is the object that is refused. */
static void a_full_store_takes_what_ends_a_step(struct world *w, uint64_t fill, uint32_t blocks)
{
    while (world_write(w, fill, 1, 0, blocks, fill) == 0)
        assert_true(++fill < 20000);
    if (blocks > 1) { /* to the last slot */
        while (world_write(w, fill, 1, 0, 1, fill) == 0)
            fill++;
    }
    assert_int_equal(prepare(w, 30, 0, STORE_BLOCKS_MAX, 300), -ENOSPC);
    assert_int_equal(lookup(w).prepared, 20);
    assert_int_equal(step(w, STORE_COMMIT, 20), 0);
    assert_int_equal(read_one(w, 0, false, 0), 200);
    assert_int_equal(step(w, STORE_DELETE, 31), 0);
    assert_int_equal(world_restart(w, true), 0);
    assert_true(lookup(w).deleted);
}

static void full_of_data_or_of_records_it_still_commits_and_deletes(void **state)
{
    struct world w;
    (void)state;

    for (uint32_t i = 0; i < 2; i++) {
        begin(&w, 13 + i);
        assert_int_equal(prepare(&w, 20, 0, 4, 200), 0);
        a_full_store_takes_what_ends_a_step(&w, 100, i == 0 ? STORE_BLOCKS_MAX : 1);
        world_deinit(&w);
    }
}

static void full_it_still_rolls_back(void **state)
{
    struct world w;
    uint64_t object = 100;
    (void)state;

    begin(&w, 15);
    assert_int_equal(prepare(&w, 20, 0, 4, 200), 0);
    while (world_write(&w, object, 1, 0, STORE_BLOCKS_MAX, object) == 0)
        object++;
    while (world_write(&w, object, 1, 0, 1, object) == 0)
        object++;
    assert_int_equal(step(&w, STORE_ROLLBACK, 20), 0);
    assert_int_equal(prepare(&w, 21, 0, 4, 300), 0); /* there is room for as much again */
    world_deinit(&w);
}

/* As many writes in flight as there may be: what comes now waits for its turn. */
static void crowd_start(struct world *w, struct op **ops, uint64_t version)
{
    for (uint32_t i = 0; i < STORE_WRITES_MAX; i++) {
        op_prepare_range(ops[i], STORE_ZERO, 100 + i % 50, version + i, 0, 1, 0);
        store_write_start(w->store, &ops[i]->w);
    }
}

static void crowd_wait(struct world *w, struct op **ops)
{
    for (uint32_t i = 0; i < STORE_WRITES_MAX; i++)
        assert_true(world_wait(w, &ops[i]->done, NS_PER_S));
}

static void a_request_that_comes_again_and_waits_keeps_its_record(void **state)
{
    struct world w;
    struct op *crowd[STORE_WRITES_MAX];
    uint64_t version = 0;
    (void)state;

    world_init(&w, 77);
    for (uint32_t i = 0; i < STORE_WRITES_MAX; i++) {
        crowd[i] = mem_zalloc(sizeof(*crowd[i]));
        crowd[i]->world = &w;
    }
    struct op *op = op_new(&w);
    for (uint32_t pass = 0; pass < 2; pass++) {
        if (pass == 1)
            crowd_start(&w, crowd, 1);
        op_prepare_range(op, STORE_PREPARE, 5, 5, 0, 1, 0);
        op_fill(op, 5, 0, 1, 77);
        op->w.client = 3;
        op->w.seq = 9;
        assert_int_equal(op_run(op), pass == 0 ? 0 : -ESTALE);
        op_prepare(op, STORE_COMMIT, 5, 5);
        assert_int_equal(op_run(op), 0);
        assert_true(store_dedup_find(w.store, 1, 3, 9, &version));
        assert_int_equal(version, 5);
    }
    crowd_wait(&w, crowd);
    assert_int_equal(world_restart(&w, true), 0);
    assert_true(store_dedup_find(w.store, 1, 3, 9, &version));
    for (uint32_t i = 0; i < STORE_WRITES_MAX; i++)
        free(crowd[i]);
    op_free(op);
    world_deinit(&w);
}

/* A COMMIT waits, and a DEDUP behind it: the look-up shows it when it is answered. */
static void what_was_answered_shows_though_others_wait(void **state)
{
    struct world w;
    struct op *crowd[STORE_WRITES_MAX];
    struct store_dedup dedup = {8, 1, 7};
    struct store_object o;
    (void)state;

    world_init(&w, 78);
    for (uint32_t i = 0; i < STORE_WRITES_MAX; i++) {
        crowd[i] = mem_zalloc(sizeof(*crowd[i]));
        crowd[i]->world = &w;
    }
    struct op *step = op_new(&w), *later = op_new(&w);
    op_prepare_range(step, STORE_PREPARE, 5, 6, 0, 1, 0);
    op_fill(step, 5, 0, 1, 77);
    assert_int_equal(op_run(step), 0);
    crowd_start(&w, crowd, 1);
    op_prepare(step, STORE_COMMIT, 5, 6);
    store_write_start(w.store, &step->w);
    for (uint32_t i = 0; i < STORE_WRITES_MAX && !step->done; i++) {
        if (i == 0) {
            op_prepare(later, STORE_DEDUP, 5, 0);
            later->w.dedups = &dedup;
            later->w.dedups_count = 1;
            store_write_start(w.store, &later->w);
        }
        assert_true(store_lookup(w.store, &(struct store_id){1, 5}, &o));
        world_run(&w, 100 * 1000);
    }
    assert_true(world_wait(&w, &step->done, NS_PER_S));
    assert_int_equal(step->w.result, 0);
    assert_true(store_lookup(w.store, &(struct store_id){1, 5}, &o));
    assert_int_equal(o.version, 6);
    assert_int_equal(o.prepared, 0);
    assert_true(world_wait(&w, &later->done, NS_PER_S));
    crowd_wait(&w, crowd);
    for (uint32_t i = 0; i < STORE_WRITES_MAX; i++)
        free(crowd[i]);
    op_free(step);
    op_free(later);
    world_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prepared_version_lies_beside_what_is_until_it_is_committed),
        cmocka_unit_test(a_rollback_leaves_what_was_and_its_slots),
        cmocka_unit_test(holes_may_be_prepared),
        cmocka_unit_test(a_version_alone_may_be_prepared),
        cmocka_unit_test(a_delete_may_be_prepared),
        cmocka_unit_test(a_later_prepare_commits_an_earlier_one_and_replaces_itself),
        cmocka_unit_test(an_object_that_was_never_more_than_prepared_goes_with_it),
        cmocka_unit_test(steps_out_of_order_are_refused_and_change_nothing),
        cmocka_unit_test(replace_and_purge_forget_what_is_prepared),
        cmocka_unit_test(dedup_records_share_the_fate_of_the_step),
        cmocka_unit_test(steps_that_wait_together_are_one_record),
        cmocka_unit_test(whenever_the_power_goes_it_is_before_between_or_after),
        cmocka_unit_test(cleaning_carries_what_is_prepared),
        cmocka_unit_test(full_of_data_or_of_records_it_still_commits_and_deletes),
        cmocka_unit_test(full_it_still_rolls_back),
        cmocka_unit_test(a_request_that_comes_again_and_waits_keeps_its_record),
        cmocka_unit_test(what_was_answered_shows_though_others_wait),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
