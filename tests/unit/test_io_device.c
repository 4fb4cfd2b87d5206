/*
 * Files that are block devices, over io_uring and over libuv: on the device (a loop device, say)
 * that SKERRY_TEST_DEVICE names, whose first MiB is overwritten. Without it: skipped.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#include "base/prng.h"
#include "io/os.h"

enum { BLOCK = 4096, BYTES = 1 << 20 };

struct device {
    struct loop *loop;
    struct loop_file *file;
    uint8_t *out, *in;
};

static enum loop_kind kind;

static int setup(void **state)
{
    const char *path = getenv("SKERRY_TEST_DEVICE");
    static struct device d;
    struct prng p;

    *state = NULL;
    if (path == NULL)
        return 0;
    unsigned flags = LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_DIRECT | LOOP_FILE_LOCK;
    d.out = aligned_alloc(BLOCK, BYTES);
    d.in = aligned_alloc(BLOCK, BYTES);
    prng_init(&p, 1);
    for (uint32_t i = 0; i < BYTES; i++)
        d.out[i] = (uint8_t)prng_next(&p);
    assert_int_equal(loop_create(&d.loop, kind, 8), 0);
    assert_int_equal(loop_file_open(d.loop, path, flags, &d.file), 0);
    assert_true(loop_file_size(d.file) >= BYTES);
    assert_int_equal(loop_write_now(d.file, d.out, BYTES, 0), BYTES);
    *state = &d;
    return 0;
}

static int teardown(void **state)
{
    struct device *d = *state;

    if (d == NULL)
        return 0;
    loop_file_close(d->file);
    loop_destroy(d->loop);
    free(d->out);
    free(d->in);
    return 0;
}

static struct device *device_or_skip(void **state)
{
    if (*state == NULL)
        skip();
    return *state;
}

static void on_done(struct loop_op *op)
{
    loop_stop(op->loop);
}

static int64_t discard(struct device *d, uint64_t offset, uint64_t len)
{
    struct loop_op op;

    loop_op_init(&op, on_done);
    loop_discard(d->loop, &op, d->file, offset, len);
    loop_run(d->loop);
    return op.result;
}

static void a_device_says_what_it_can(void **state)
{
    struct device *d = device_or_skip(state);
    struct loop_file_info info;

    loop_file_info(d->file, &info);
    assert_true(info.is_device);
    assert_false(info.is_sparse);
    assert_true(info.io_align >= 512);
    assert_true(info.can_discard == (info.discard_align > 0));
    assert_int_equal(loop_file_resize(d->file, BYTES, false), -EINVAL);
}

static void a_durable_write_to_a_device_is_read_back(void **state)
{
    struct device *d = device_or_skip(state);
    struct loop_op op;

    loop_op_init(&op, on_done);
    loop_write_durable(d->loop, &op, d->file, d->out, 3 * BLOCK, 7 * BLOCK);
    loop_run(d->loop);
    assert_int_equal(op.result, 3 * BLOCK);
    assert_int_equal(loop_read_now(d->file, d->in, 3 * BLOCK, 7 * BLOCK), 3 * BLOCK);
    assert_memory_equal(d->in, d->out, 3 * BLOCK);
}

/* Over io_uring by the command, and by a hole where the kernel does not know it. */
static void a_discard_of_a_device_leaves_what_is_around_it(void **state)
{
    struct device *d = device_or_skip(state);
    struct loop_file_info info;

    loop_file_info(d->file, &info);
    for (uint32_t by_hole = 0; by_hole < 2; by_hole++) {
        os_file(d->file)->has_no_discard_cmd = by_hole != 0;
        int64_t r = discard(d, BYTES / 4, BYTES / 2);
        assert_true(r == 0 || r == -EOPNOTSUPP);
        if (by_hole == 0)
            assert_true(info.can_discard == (r == 0));
        assert_int_equal(loop_read_now(d->file, d->in, BYTES, 0), BYTES);
        assert_memory_equal(d->in, d->out, BYTES / 4);
        assert_memory_equal(d->in + BYTES * 3 / 4, d->out + BYTES * 3 / 4, BYTES / 4);
    }
}

static void a_discard_beyond_the_device_fails_and_a_later_one_does_not(void **state)
{
    struct device *d = device_or_skip(state);
    uint64_t size = loop_file_size(d->file) / BLOCK * BLOCK;
    int64_t inside = discard(d, 0, BLOCK);

    assert_true(discard(d, size, BLOCK) < 0);
    assert_int_equal(discard(d, 0, BLOCK), inside);
}

static int device_run(enum loop_kind k)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_device_says_what_it_can, setup, teardown),
        cmocka_unit_test_setup_teardown(a_durable_write_to_a_device_is_read_back, setup, teardown),
        cmocka_unit_test_setup_teardown(a_discard_of_a_device_leaves_what_is_around_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_discard_beyond_the_device_fails_and_a_later_one_does_not,
                                        setup, teardown),
    };

    kind = k;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    int failed = device_run(LOOP_URING);

    return failed + device_run(LOOP_UV);
}
