/* Threads, unix sockets and odd files over io_uring; and its registered buffers. */

#include "tests/unit/io_real.h"

#include <sys/mman.h>

enum { BLOCK = 4096 };

static struct loop_file *direct_file(struct loop *l)
{
    static const char path[] = "./test_io_uring.f";
    unsigned flags = LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_DIRECT;
    struct loop_file *f;

    assert_int_equal(loop_file_open(l, path, flags, &f), 0);
    assert_int_equal(loop_unlink(l, path), 0);
    return f;
}

/* By a write and a read; `at` lies in memory that is registered, or is not. */
static void check_moves(struct loop *l, struct loop_file *f, uint8_t *at, uint8_t fill)
{
    struct flagged op = {0};
    uint8_t *in = aligned_alloc(BLOCK, BLOCK);

    memset(at, fill, BLOCK);
    loop_op_init(&op.op, on_done_stop);
    loop_write(l, &op.op, f, at, BLOCK, 0);
    loop_run(l);
    assert_int_equal(op.op.result, BLOCK);
    assert_int_equal(loop_read_now(f, in, BLOCK, 0), BLOCK);
    assert_memory_equal(in, at, BLOCK);

    memset(in, fill + 1, BLOCK);
    assert_int_equal(loop_write_now(f, in, BLOCK, 0), BLOCK);
    loop_read(l, &op.op, f, at, BLOCK, 0);
    loop_run(l);
    assert_int_equal(op.op.result, BLOCK);
    assert_memory_equal(in, at, BLOCK);
    free(in);
}

static void regions_are_registered_before_the_first_run_and_after_up_to_the_limit(void **state)
{
    struct loop *l;
    uint8_t *memory = aligned_alloc(BLOCK, (size_t)(LOOP_BUFFERS_MAX + 1) * BLOCK);

    (void)state;
    assert_int_equal(loop_create(&l, LOOP_URING, 8), 0);
    struct loop_file *f = direct_file(l);
    int r = loop_buffers_register(l, memory, BLOCK);
    if (r != 0) { /* an old kernel, or too little locked memory */
        loop_destroy(l);
        free(memory);
        skip();
    }
    check_moves(l, f, memory, 1);
    for (uint32_t i = 1; i < LOOP_BUFFERS_MAX; i++)
        assert_int_equal(loop_buffers_register(l, memory + (size_t)i * BLOCK, BLOCK), 0);
    uint8_t *one_more = memory + (size_t)LOOP_BUFFERS_MAX * BLOCK;
    assert_int_equal(loop_buffers_register(l, one_more, BLOCK), -ENOSPC);
    for (uint32_t i = 0; i <= LOOP_BUFFERS_MAX; i++)
        check_moves(l, f, memory + (size_t)i * BLOCK, (uint8_t)(2 * i));

    assert_int_equal(loop_buffers_unregister(l, memory + BLOCK), 0);
    assert_int_equal(loop_buffers_unregister(l, memory + BLOCK), -ENOENT);
    assert_int_equal(loop_buffers_register(l, one_more, BLOCK), 0);
    check_moves(l, f, memory + BLOCK, 70);
    check_moves(l, f, one_more, 71);
    loop_destroy(l);
    free(memory);
}

/* As in a node: who starts it prepares the loop, and then it has its own thread. */
static void a_region_registered_before_another_thread_runs_the_loop_works_there(void **state)
{
    struct loop *l;
    struct flagged op = {0};
    pthread_t thread;
    uint8_t *at = aligned_alloc(BLOCK, BLOCK), *in = aligned_alloc(BLOCK, BLOCK);

    (void)state;
    assert_int_equal(loop_create(&l, LOOP_URING, 8), 0);
    struct loop_file *f = direct_file(l);
    memset(at, 9, BLOCK);
    loop_buffers_register(l, at, BLOCK);
    loop_op_init(&op.op, on_done_stop);
    loop_write(l, &op.op, f, at, BLOCK, 0);
    assert_int_equal(pthread_create(&thread, NULL, thread_run, l), 0);
    pthread_join(thread, NULL);
    assert_int_equal(op.op.result, BLOCK);
    assert_int_equal(loop_read_now(f, in, BLOCK, 0), BLOCK);
    assert_memory_equal(in, at, BLOCK);
    loop_destroy(l);
    free(at);
    free(in);
}

/* The kernel would go on writing to the pages that were there before. */
static void memory_that_comes_in_the_place_of_an_unregistered_region_is_itself(void **state)
{
    struct loop *l;
    int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
    uint8_t *at = mmap(NULL, BLOCK, prot, flags, -1, 0);

    (void)state;
    assert_ptr_not_equal(at, MAP_FAILED);
    assert_int_equal(loop_create(&l, LOOP_URING, 8), 0);
    struct loop_file *f = direct_file(l);
    loop_buffers_register(l, at, BLOCK);
    check_moves(l, f, at, 1);
    loop_buffers_unregister(l, at);
    assert_int_equal(munmap(at, BLOCK), 0);
    assert_ptr_equal(mmap(at, BLOCK, prot, flags | MAP_FIXED, -1, 0), at);
    check_moves(l, f, at, 3);
    loop_destroy(l);
    munmap(at, BLOCK);
}

/* One is larger than the kernel takes, one is not there. */
static void a_region_that_is_refused_is_memory_like_any_other(void **state)
{
    static const size_t huge = (size_t)2 << 30;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    struct loop *l;

    (void)state;
    uint8_t *at = mmap(NULL, huge, PROT_READ | PROT_WRITE, flags, -1, 0);
    assert_ptr_not_equal(at, MAP_FAILED);
    assert_int_equal(munmap(at + huge / 2, huge / 2), 0);
    assert_int_equal(loop_create(&l, LOOP_URING, 8), 0);
    struct loop_file *f = direct_file(l);
    assert_true(loop_buffers_register(l, at, huge) < 0);
    assert_true(loop_buffers_register(l, at + huge / 2, BLOCK) < 0);
    assert_int_equal(loop_buffers_unregister(l, at), -ENOENT);
    check_moves(l, f, at, 5);
    loop_destroy(l);
    munmap(at, huge / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(regions_are_registered_before_the_first_run_and_after_up_to_the_limit),
        cmocka_unit_test(a_region_registered_before_another_thread_runs_the_loop_works_there),
        cmocka_unit_test(memory_that_comes_in_the_place_of_an_unregistered_region_is_itself),
        cmocka_unit_test(a_region_that_is_refused_is_memory_like_any_other),
    };
    int failed = real_run(LOOP_URING);

    return failed + cmocka_run_group_tests_name("buffers", tests, NULL, NULL);
}
