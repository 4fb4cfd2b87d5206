/* Threads, unix sockets and odd files over libuv; and its thread pool. */

#include "tests/unit/io_real.h"

#include "io/uv_impl.h"

enum { POOL_OPS = 500, POOL_SHARE = 3 };

struct pool_op {
    struct loop_op op; /* first: done() finds the rest */
    struct loop *loop;
    uint32_t *left;
    uint8_t buf[16];
};

static void on_pool_op(struct loop_op *op)
{
    struct pool_op *o = (struct pool_op *)op;

    if (op->result == 0 && --*o->left == 0)
        loop_stop(o->loop);
}

static void a_loop_takes_its_share_of_the_pool_and_no_more(void **state)
{
    static const char path[] = "./test_io_uv.f";
    struct loop *l;
    struct loop_file *f;
    struct pool_op *ops = calloc(POOL_OPS, sizeof(*ops));
    uint32_t left = POOL_OPS;

    (void)state;
    assert_int_equal(loop_create(&l, LOOP_UV, 256), 0);
    assert_int_equal(loop_file_open(l, path, LOOP_FILE_WRITE | LOOP_FILE_CREATE, &f), 0);
    for (uint32_t i = 0; i < POOL_OPS; i++) {
        ops[i].loop = l;
        ops[i].left = &left;
        loop_op_init(&ops[i].op, on_pool_op);
        loop_read(l, &ops[i].op, f, ops[i].buf, sizeof(ops[i].buf), 0);
        assert_true(luv_loop(l)->works_busy <= POOL_SHARE);
    }
    assert_int_equal(luv_loop(l)->works_busy, POOL_SHARE);
    loop_run(l);
    assert_int_equal(left, 0);
    assert_int_equal(luv_loop(l)->works_busy, 0);
    loop_destroy(l);
    assert_int_equal(unlink(path), 0);
    free(ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loop_takes_its_share_of_the_pool_and_no_more)};

    setenv("UV_THREADPOOL_SIZE", "12", 1);
    int failed = real_run(LOOP_UV);
    return failed + cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
