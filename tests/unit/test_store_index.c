/* What the index is made of: maps of blocks, slabs of items, listings; and what an object costs. */

#include "test_store_world.h"

#include "store/map.h"
#include "store/slab.h"

/* ---- Maps ---- */

/* Runs and holes of any length, in slots that follow each other or not. */
static void layout_any(struct layout *l, struct prng *p, uint32_t style)
{
    uint64_t slot = 1 + prng_below(p, ((uint64_t)1 << 45) - 2000);

    l->count = 0;
    for (uint32_t b = 0; b < STORE_BLOCKS_MAX;) {
        uint32_t len = 1 + (uint32_t)prng_below(p, style % 3 == 0 ? 2 : 40);
        bool hole = style >= 2 && prng_chance(p, 1, 3);
        if (prng_chance(p, 1, 2))
            slot = 1 + prng_below(p, ((uint64_t)1 << 45) - 2000);
        for (uint32_t end = b + len; b < end && b < STORE_BLOCKS_MAX; b++) {
            if (!hole)
                layout_set(l, b, slot++, (uint32_t)prng_next(p));
        }
    }
}

static uint32_t layout_runs(const struct layout *l, uint32_t *blocks)
{
    uint32_t runs = 0;

    *blocks = 0;
    for (uint32_t b = 0; b < STORE_BLOCKS_MAX; b++) {
        uint64_t before = b == 0 ? 0 : layout_slot(l, b - 1), slot = layout_slot(l, b);
        *blocks += slot != 0;
        runs += slot != 0 && (before == 0 || slot != before + 1);
    }
    return runs;
}

static void map_is(const struct map *m, uint32_t runs, const struct layout *l, struct prng *p)
{
    uint64_t slots[STORE_BLOCKS_MAX], present[STORE_BLOCKS_MAX / 64];
    uint32_t crcs[STORE_BLOCKS_MAX];
    struct layout again;

    map_spread(m, runs, &again);
    map_present(m, runs, present);
    for (uint32_t b = 0; b < STORE_BLOCKS_MAX; b++) {
        assert_true(layout_slot(&again, b) == layout_slot(l, b));
        assert_true(layout_slot(l, b) == 0 || again.crcs[b] == l->crcs[b]);
        assert_int_equal(bitmap_has(present, b), layout_slot(l, b) != 0);
    }
    uint32_t first = (uint32_t)prng_below(p, STORE_BLOCKS_MAX);
    uint32_t count = 1 + (uint32_t)prng_below(p, STORE_BLOCKS_MAX - first);
    map_read(m, runs, first, count, slots, crcs);
    for (uint32_t i = 0; i < count; i++) {
        assert_true(slots[i] == layout_slot(l, first + i));
        assert_true(crcs[i] == (slots[i] == 0 ? 0 : l->crcs[first + i]));
    }
}

/* One map that is packed anew each time, as that of an object is. */
static void a_map_says_what_was_packed_in_as_few_runs_as_there_are(void **state)
{
    struct map *m = NULL;
    uint32_t runs = 0, blocks = 0, most = 0;
    struct prng p;
    (void)state;

    prng_init(&p, 1);
    for (uint32_t round = 0; round < 4000; round++) {
        struct layout l = {0};
        uint32_t expected;
        if (round % 50 != 0)
            layout_any(&l, &p, round % 5);
        m = map_pack(m, &runs, &blocks, &l);
        assert_int_equal(runs, layout_runs(&l, &expected));
        assert_int_equal(blocks, expected);
        assert_true(map_bytes(runs, blocks) >= runs * 8 + blocks * 4);
        assert_true(map_bytes(runs, blocks) <= runs * 8 + blocks * 4 + 23);
        assert_int_equal(m == NULL, blocks == 0);
        map_is(m, runs, &l, &p);
        most = blocks > most ? blocks : most;
    }
    assert_int_equal(most, STORE_BLOCKS_MAX);
    free(m);
}

/* ---- Slabs ---- */

static void slab_items_are_zeroed_named_by_handles_and_used_again(void **state)
{
    enum { ITEMS = 30000 };
    static void *items[ITEMS];
    struct slab a;
    struct prng p;
    uint32_t count = 0;
    (void)state;

    slab_init(&a, 64);
    prng_init(&p, 2);
    for (uint32_t round = 0; round < 200000; round++) {
        bool fill = round < 60000 ? prng_chance(&p, 3, 4) : prng_chance(&p, 1, 2);
        if (fill && count < ITEMS) {
            uint8_t *item = slab_take(&a), zeros[64] = {0};
            assert_non_null(item);
            assert_int_equal(memcmp(item, zeros, 64), 0);
            uint32_t handle = slab_handle(&a, item);
            assert_true(handle != 0 && slab_at(&a, handle) == item);
            memset(item, 0xff, 64);
            put_u32(item + 8, handle);
            items[count++] = item;
        } else if (count > 0) {
            uint32_t i = (uint32_t)prng_below(&p, count);
            assert_int_equal(get_u32((uint8_t *)items[i] + 8), slab_handle(&a, items[i]));
            slab_put(&a, items[i]);
            items[i] = items[--count];
        }
        assert_int_equal(a.count, count);
    }
    for (uint32_t i = 0; i < count; i++) /* nobody's memory is anybody else's */
        assert_int_equal(get_u32((uint8_t *)items[i] + 8), slab_handle(&a, items[i]));
    assert_true(slab_bytes(&a) <= (uint64_t)ITEMS * 64 + 2 * SLAB_CHUNK);
    slab_deinit(&a);
}

/* ---- Many objects ---- */

enum { TOGETHER = 512 };

/* A store with room for many, and objects without end: `count` at a time. */
static void big_init(struct world *w, uint64_t size)
{
    struct store_format f = world_format();

    f.size = size;
    f.ring_blocks = size / STORE_BLOCK / 4;
    world_create(w, &(struct sim_config){.seed = 3});
    assert_int_equal(store_format(w->loop, WORLD_PATH, &f, false), 0);
    assert_int_equal(loop_dir_sync(w->loop, "."), 0);
    assert_int_equal(world_open(w), 0);
}

struct bulk {
    struct store_write w;
    bool done;
};

static void bulk_on_written(struct store_write *w)
{
    container_of(w, struct bulk, w)->done = true;
}

/* Objects first .. first + count - 1, each with this change; all in PG `pg`. */
static void bulk(struct world *w, enum store_write_kind kind, uint64_t pg, uint64_t first,
                 uint32_t count, uint64_t version, uint32_t offset, uint32_t blocks)
{
    static struct bulk writes[TOGETHER];
    static uint32_t crcs[STORE_BLOCKS_MAX];
    uint8_t *data = mem_alloc_aligned(STORE_OBJECT_MAX, STORE_BLOCK);

    memset(data, 0, STORE_OBJECT_MAX);
    for (uint32_t done = 0; done < count; done += TOGETHER) {
        uint32_t n = count - done < TOGETHER ? count - done : TOGETHER;
        for (uint32_t i = 0; i < n; i++) {
            writes[i].done = false;
            writes[i].w = (struct store_write){.kind = kind,
                                               .id = {1, first + done + i},
                                               .pg = pg,
                                               .version = version,
                                               .offset = offset * STORE_BLOCK,
                                               .len = blocks * STORE_BLOCK,
                                               .data = data,
                                               .crcs = crcs,
                                               .done = bulk_on_written};
            store_write_start(w->store, &writes[i].w);
        }
        for (uint32_t i = 0; i < n; i++) {
            assert_true(world_wait(w, &writes[i].done, 60 * NS_PER_S));
            assert_int_equal(writes[i].w.result, 0);
        }
    }
    free(data);
}

/* ---- Listings ---- */

enum { MANY = 12000, GONE = 9000 };

/* A call looks at no more than STORE_LIST_STEP objects, also where there is nothing to list. */
static void a_listing_takes_bounded_steps(void **state)
{
    struct world w;
    static struct store_object out[MANY];
    uint32_t calls = 0, total = 0;
    (void)state;

    big_init(&w, 256 << 20);
    bulk(&w, STORE_WRITE, 7, 1, MANY, 10, 0, 1);
    bulk(&w, STORE_WRITE, 7, 1 + MANY, 5, 20, 0, 1);
    struct store_cursor cursor = {0};
    while (!cursor.ended) {
        uint32_t count = store_list(w.store, 7, 10, &cursor, out, MANY);
        assert_true(count <= STORE_LIST_STEP);
        total += count;
        calls++;
    }
    assert_int_equal(total, 5);
    assert_int_equal(calls, (MANY + 5 + STORE_LIST_STEP - 1) / STORE_LIST_STEP);
    world_deinit(&w);
}

/* While objects go and come, those that stay are listed once; and holes are used again. */
static void a_cursor_is_stable_while_objects_come_and_go(void **state)
{
    struct world w;
    static struct store_object out[500];
    static uint8_t seen[MANY + 1 + GONE];
    struct store_cursor cursor = {0};
    uint64_t next = MANY + 1;
    (void)state;

    big_init(&w, 256 << 20);
    bulk(&w, STORE_WRITE, 7, 1, MANY, 10, 0, 1);
    uint64_t bytes = w.store->places_bytes;
    for (uint32_t round = 0; !cursor.ended; round++) {
        uint32_t count = store_list(w.store, 7, 0, &cursor, out, COUNT_OF(out));
        for (uint32_t i = 0; i < count; i++) {
            assert_true(out[i].pg == 7 && out[i].id.object < COUNT_OF(seen));
            assert_int_equal(seen[out[i].id.object]++, 0);
        }
        if (round >= GONE / 500 || round % 2 != 0)
            continue;
        /* The odd ones of a stretch go, some of them listed before; as many come. */
        for (uint32_t i = 0; i < 20; i++)
            bulk(&w, STORE_PURGE, 7, 1 + 2 * (round * 300 + i * 13), 1, 0, 0, 0);
        bulk(&w, STORE_WRITE, 7, next, 20, 10, 0, 1);
        next += 20;
    }
    for (uint64_t object = 2; object <= MANY; object += 2)
        assert_int_equal(seen[object], 1);
    assert_int_equal(w.store->places_bytes, bytes);
    assert_int_equal(world_status(&w).objects, MANY);
    world_deinit(&w);
}

/* ---- What README.md publishes ---- */

/* Objects in a chunk of a slab: of so many, none hides in room that was there. */
enum { CHUNK = SLAB_CHUNK / sizeof(struct object) - 1 };

/* Scattered: one block at a time, of all objects in turn, so that no two slots of an object follow
 * each other. */
static void create(struct world *w, uint64_t first, uint32_t count, uint32_t blocks, bool scattered)
{
    if (!scattered)
        bulk(w, STORE_WRITE, 7, first, count, 10, 0, blocks);
    for (uint32_t b = 0; scattered && b < blocks; b++)
        bulk(w, STORE_WRITE, 7, first, count, 10 + b, 2 * b, 1);
}

/* Bytes of the index that one more object takes, once there are some. */
static uint64_t cost_of(uint32_t blocks, bool scattered, uint32_t count)
{
    struct world w;

    big_init(&w, 1 << 30);
    create(&w, 1, TOGETHER, blocks, scattered);
    world_settle(&w);
    uint64_t before = world_status(&w).index_bytes;
    create(&w, 1 + TOGETHER, count, blocks, scattered);
    world_settle(&w);
    assert_int_equal(world_status(&w).objects, TOGETHER + count);
    assert_int_equal(store_image_blocks(w.store, 1), (uint64_t)(TOGETHER + count) * blocks);
    uint64_t each = (world_status(&w).index_bytes - before) / count;
    world_deinit(&w);
    return each;
}

static void an_object_costs_what_is_published(void **state)
{
    (void)state;

    uint64_t whole = cost_of(32, false, CHUNK), one = cost_of(1, false, 4 * CHUNK);
    uint64_t scattered = cost_of(32, true, CHUNK);
    printf("{\"index_bytes_per_object\": {\"32_blocks_in_a_row\": %llu, \"1_block\": %llu, "
           "\"32_blocks_scattered\": %llu}}\n",
           (unsigned long long)whole, (unsigned long long)one, (unsigned long long)scattered);
    assert_true(whole <= 240);
    assert_true(one <= 120);
    assert_true(scattered <= 480);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_map_says_what_was_packed_in_as_few_runs_as_there_are),
        cmocka_unit_test(slab_items_are_zeroed_named_by_handles_and_used_again),
        cmocka_unit_test(a_listing_takes_bounded_steps),
        cmocka_unit_test(a_cursor_is_stable_while_objects_come_and_go),
        cmocka_unit_test(an_object_costs_what_is_published),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
