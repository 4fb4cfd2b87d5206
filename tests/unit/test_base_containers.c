#include "base/hash.h"
#include "base/heap.h"
#include "base/pool.h"
#include "base/prng.h"
#include "base/task.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* ---- Heap ---- */

enum { NODES = 500 };

static void the_heap_gives_keys_in_order_and_equal_ones_as_they_came(void **state)
{
    struct heap h;
    struct heap_node n[NODES] = {0};
    struct prng p;

    (void)state;
    heap_init(&h);
    prng_init(&p, 1);
    for (uint32_t i = 0; i < NODES; i++)
        heap_insert(&h, &n[i], prng_below(&p, 50));
    struct heap_node last = {0};
    for (uint32_t i = 0; i < NODES; i++) {
        struct heap_node *min = heap_min(&h);
        assert_true(min->key > last.key || (min->key == last.key && min->order > last.order));
        last = *min;
        heap_remove(&h, min);
        assert_false(heap_has(min));
    }
    assert_null(heap_min(&h));
    heap_deinit(&h);
}

/* Against the plainest model: an array looked through each time. */
static void the_heap_agrees_with_a_scan_whatever_is_put_in_and_taken_out(void **state)
{
    struct heap h;
    struct heap_node n[NODES] = {0};
    struct prng p;

    (void)state;
    heap_init(&h);
    prng_init(&p, 2);
    for (uint32_t step = 0; step < 20000; step++) {
        struct heap_node *node = &n[prng_below(&p, NODES)];
        if (heap_has(node))
            heap_remove(&h, node);
        else
            heap_insert(&h, node, prng_below(&p, 1000));
        if (step % 16 != 0)
            continue;
        struct heap_node *least = NULL;
        for (uint32_t i = 0; i < NODES; i++) {
            if (heap_has(&n[i]) && (least == NULL || n[i].key < least->key ||
                                    (n[i].key == least->key && n[i].order < least->order)))
                least = &n[i];
        }
        assert_ptr_equal(heap_min(&h), least);
    }
    heap_deinit(&h);
}

static void taking_out_what_is_in_no_heap_is_harmless(void **state)
{
    struct heap h;
    struct heap_node n = {0};

    (void)state;
    heap_init(&h);
    heap_remove(&h, &n);
    assert_null(heap_min(&h));
    heap_deinit(&h);
}

/* ---- Hash ---- */

struct entry {
    struct hash_link link; /* first: a link is its entry */
    bool is_in;
};

static void the_hash_finds_what_is_in_it_and_nothing_else_while_it_grows(void **state)
{
    static struct entry e[NODES];
    struct hash h;
    struct prng p;

    (void)state;
    hash_init(&h, 1);
    prng_init(&p, 3);
    for (uint32_t step = 0; step < 20000; step++) {
        uint64_t i = prng_below(&p, NODES);
        uint64_t key = i * 0x100000000ull;
        if (e[i].is_in)
            hash_remove(&h, &e[i].link);
        else
            hash_insert(&h, &e[i].link, key);
        e[i].is_in = !e[i].is_in;
        uint64_t other = prng_below(&p, NODES);
        struct hash_link *found = hash_find(&h, other * 0x100000000ull);
        assert_ptr_equal(found, e[other].is_in ? &e[other].link : NULL);
    }
    uint64_t count = 0;
    for (uint32_t i = 0; i < NODES; i++)
        count += e[i].is_in;
    assert_int_equal(h.count, count);
    hash_deinit(&h);
}

static uint64_t walk(const struct hash *h, uint64_t key, struct hash_link *out[], uint64_t max)
{
    uint64_t count = 0;

    for (struct hash_link *l = hash_find(h, key); l != NULL; l = hash_next(l)) {
        assert_true(count < max);
        out[count++] = l;
    }
    return count;
}

static void equal_keys_are_walked_in_one_order_before_and_after_growing(void **state)
{
    static struct hash_link equal[5], others[200], *before[5], *after[5];
    struct hash h;

    (void)state;
    hash_init(&h, 16);
    for (uint32_t i = 0; i < 5; i++)
        hash_insert(&h, &equal[i], 42);
    assert_int_equal(walk(&h, 42, before, 5), 5);
    for (uint32_t i = 0; i < 200; i++)
        hash_insert(&h, &others[i], 1000 + i);
    assert_int_equal(walk(&h, 42, after, 5), 5);
    assert_memory_equal(before, after, sizeof(before));
    hash_deinit(&h);
}

/* ---- Pool ---- */

static void a_pool_gives_its_count_of_distinct_aligned_items_and_no_more(void **state)
{
    struct pool p;
    char *items[10];

    (void)state;
    pool_init(&p, 10, 100, 64);
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 10; i++) {
            items[i] = pool_get(&p);
            assert_non_null(items[i]);
            assert_int_equal((uintptr_t)items[i] % 64, 0);
            memset(items[i], (int)i, 100);
        }
        assert_null(pool_get(&p));
        assert_int_equal(p.used, 10);
        for (uint32_t i = 0; i < 10; i++) {
            for (uint32_t at = 0; at < 100; at++)
                assert_int_equal(items[i][at], i);
            pool_put(&p, items[i]);
        }
        assert_int_equal(p.used, 0);
    }
    pool_deinit(&p);
}

/* ---- Tasks ---- */

struct counted {
    struct task task; /* first: a task is its operation */
    struct runq *q;
    uint32_t runs;
};

static void on_step(struct task *task)
{
    ((struct counted *)task)->runs++;
}

static void a_cancelled_task_does_not_run_and_may_be_woken_again(void **state)
{
    struct runq q;
    struct counted a = {.q = &q}, b = {.q = &q};

    (void)state;
    runq_init(&q);
    task_init(&a.task, on_step);
    task_init(&b.task, on_step);
    runq_wake(&q, &a.task);
    runq_wake(&q, &b.task);
    task_cancel(&a.task);
    assert_true(runq_run_one(&q));
    assert_false(runq_run_one(&q));
    assert_int_equal(a.runs, 0);
    assert_int_equal(b.runs, 1);
    runq_wake(&q, &a.task);
    assert_true(runq_run_one(&q));
    assert_int_equal(a.runs, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_heap_gives_keys_in_order_and_equal_ones_as_they_came),
        cmocka_unit_test(the_heap_agrees_with_a_scan_whatever_is_put_in_and_taken_out),
        cmocka_unit_test(taking_out_what_is_in_no_heap_is_harmless),
        cmocka_unit_test(the_hash_finds_what_is_in_it_and_nothing_else_while_it_grows),
        cmocka_unit_test(equal_keys_are_walked_in_one_order_before_and_after_growing),
        cmocka_unit_test(a_pool_gives_its_count_of_distinct_aligned_items_and_no_more),
        cmocka_unit_test(a_cancelled_task_does_not_run_and_may_be_woken_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
