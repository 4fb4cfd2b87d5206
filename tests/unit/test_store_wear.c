/* A small store that is nearly full is overwritten at random for a long time: it never stops. */

#include "test_store_world.h"

enum {
    DEPTH = 48,
    OBJECT_BLOCKS = 32,
    WRITES = 1200 * 1000,
    RESTARTS = 6,
};

struct wear {
    struct world w;
    struct op *ops[DEPTH];
    uint64_t objects;
    uint64_t *values; /* by block, as acked */
    uint64_t written, value, last_done, longest;
    uint64_t stop_at;
    uint32_t running;
    bool idle;
};

static void wear_next(struct wear *x, struct op *op);

static void wear_on_done(struct store_write *w)
{
    struct op *op = container_of(w, struct op, w);
    struct wear *x = container_of(op->world, struct wear, w);
    uint64_t now = sim_now(x->w.sim);

    assert_int_equal(w->result, 0);
    if (now - x->last_done > x->longest)
        x->longest = now - x->last_done;
    x->last_done = now;
    x->written++;
    x->running--;
    if (x->written < x->stop_at)
        wear_next(x, op);
    else if (x->running == 0)
        x->idle = true;
}

/* One writer per object at a time is not asked for: order is the store's business. */
static void wear_next(struct wear *x, struct op *op)
{
    struct prng *p = sim_prng(x->w.sim);
    uint64_t object = 1 + prng_below(p, x->objects);
    uint32_t block = (uint32_t)prng_below(p, OBJECT_BLOCKS);

    x->value++;
    op_prepare_range(op, STORE_WRITE, object, x->value, block, 1, x->value);
    op->w.client = 1 + x->value % 3;
    op->w.seq = x->value;
    op->w.done = wear_on_done;
    x->values[object * OBJECT_BLOCKS + block] = x->value;
    x->running++;
    store_write_start(x->w.store, &op->w);
    if (x->value % 512 == 0) {
        for (uint64_t client = 1; client <= 3; client++) {
            store_dedup_floor(x->w.store, 0, client, x->value - 400);
            store_dedup_floor(x->w.store, 1, client, x->value - 400);
        }
    }
}

static void wear_fill(struct wear *x)
{
    while (world_write(&x->w, x->objects + 1, 1, 0, OBJECT_BLOCKS, x->value + 1) == 0) {
        x->objects++;
        for (uint32_t b = 0; b < OBJECT_BLOCKS; b++)
            x->values[x->objects * OBJECT_BLOCKS + b] = ++x->value;
    }
}

static void wear_check(struct wear *x)
{
    struct op *op = op_new(&x->w);

    for (uint64_t object = 1; object <= x->objects; object++) {
        assert_int_equal(op_read(op, object, 0, OBJECT_BLOCKS), 0);
        for (uint32_t b = 0; b < OBJECT_BLOCKS; b++)
            assert_true(block_is(op->data + (size_t)b * STORE_BLOCK,
                                 x->values[object * OBJECT_BLOCKS + b]));
    }
    op_free(op);
}

static void overwriting_a_nearly_full_store_never_stops(void **state)
{
    struct wear x = {0};
    uint64_t cleaned = 0;
    (void)state;

    world_init(&x.w, 70);
    x.values = mem_zalloc((uint64_t)WORLD_BLOCKS * 2 * sizeof(*x.values));
    wear_fill(&x);
    assert_true(world_status(&x.w).free_bytes < OBJECT_BLOCKS * STORE_BLOCK);
    for (uint32_t i = 0; i < DEPTH; i++)
        x.ops[i] = op_new(&x.w);
    for (uint32_t round = 1; round <= RESTARTS; round++) {
        x.stop_at = (uint64_t)WRITES / RESTARTS * round;
        x.idle = false;
        x.last_done = sim_now(x.w.sim);
        for (uint32_t i = 0; i < DEPTH; i++)
            wear_next(&x, x.ops[i]);
        assert_true(world_wait(&x.w, &x.idle, 3600 * NS_PER_S));
        world_settle(&x.w);
        cleaned += world_status(&x.w).cleaned_total;
        assert_int_equal(x.w.store->freed.count, 0);
        assert_int_equal(x.w.store->slots_live, x.objects * OBJECT_BLOCKS);
        assert_int_equal(world_status(&x.w).used_bytes, x.w.store->slots_live * STORE_BLOCK);
        assert_int_equal(world_restart(&x.w, round % 2 == 0), 0);
        wear_check(&x);
    }
    printf("%llu objects, %llu laps of the ring, %llu copies, %llu us at most without a write\n",
           (unsigned long long)x.objects, (unsigned long long)(x.w.store->head / WORLD_RING),
           (unsigned long long)cleaned, (unsigned long long)(x.longest / 1000));
    assert_true(x.w.store->head / WORLD_RING > 100);
    assert_true(x.longest < 20 * NS_PER_MS);
    for (uint32_t i = 0; i < DEPTH; i++)
        op_free(x.ops[i]);
    free(x.values);
    world_deinit(&x.w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overwriting_a_nearly_full_store_never_stops),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
