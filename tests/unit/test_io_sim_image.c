/* Images of simulated files: every content a crash could leave, and nothing else. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#include "io/sim.h"

enum { PAGE = 4096, SECTOR = 512 };

struct world {
    struct sim *sim;
    struct sim_host *host;
    struct loop *loop;
    struct loop_file *file;
    uint32_t calls;
};

static void world_init(struct world *w, uint64_t seed)
{
    *w = (struct world){.sim = sim_create(&(struct sim_config){.seed = seed})};
    w->host = sim_host_create(w->sim, 1);
    w->loop = sim_loop_create(w->host);
    assert_int_equal(
        loop_file_open(w->loop, "f", LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_LOCK, &w->file),
        0);
    assert_int_equal(loop_dir_sync(w->loop, "."), 0);
}

static void world_kill(struct world *w, bool power_loss)
{
    sim_host_crash(w->host, power_loss);
    loop_destroy(w->loop);
    w->loop = sim_loop_create(w->host);
    w->file = NULL;
}

static void world_deinit(struct world *w)
{
    sim_host_crash(w->host, false);
    loop_destroy(w->loop);
    sim_destroy(w->sim);
}

static void world_write(struct world *w, uint64_t page, uint8_t byte)
{
    uint8_t buf[PAGE];

    memset(buf, byte, sizeof(buf));
    assert_int_equal(loop_write_now(w->file, buf, PAGE, page * PAGE), PAGE);
}

static uint8_t world_byte(struct world *w, uint64_t at)
{
    uint8_t byte = 0xee;

    assert_int_equal(sim_disk_peek(w->host, "f", at, &byte, 1), 0);
    return byte;
}

static void never_done(struct loop_op *op)
{
    (void)op;
    fail();
}

/* Page 0: flushed. 1: flushed, then written twice. 2: never flushed; and a write is under way to
 * it. */
static struct sim_image *image_of_all(struct world *w, struct loop_op *op, uint8_t *buf)
{
    world_write(w, 0, 10);
    world_write(w, 1, 20);
    assert_int_equal(loop_flush_now(w->file), 0);
    world_write(w, 1, 21);
    world_write(w, 1, 22);
    world_write(w, 2, 30);
    memset(buf, 31, PAGE);
    loop_op_init(op, never_done);
    loop_write(w->loop, op, w->file, buf, PAGE, 2 * PAGE);
    return sim_image_take(w->host, "f");
}

static void an_image_knows_every_content_of_each_open_page(void **state)
{
    struct world from, to;
    struct loop_op op;
    uint8_t buf[PAGE];
    (void)state;

    world_init(&from, 1);
    world_init(&to, 2);
    struct sim_image *i = image_of_all(&from, &op, buf);
    assert_int_equal(sim_image_open_pages(i), 2);
    assert_int_equal(sim_image_page(i, 0), 1);
    assert_int_equal(sim_image_contents(i, 0), 3);
    assert_int_equal(sim_image_page(i, 1), 2);
    assert_int_equal(sim_image_contents(i, 1), 3);
    assert_int_equal(sim_image_cached(i, 0), 2);
    assert_int_equal(sim_image_cached(i, 1), 1);
    world_deinit(&from); /* the image outlives its world */

    world_kill(&to, true);
    static const uint8_t contents[2][3] = {{20, 21, 22}, {0, 30, 31}};
    for (uint8_t k = 0; k < 9; k++) {
        struct sim_page_choice c[2];
        memset(&c[0], k % 3, sizeof(c[0]));
        memset(&c[1], k / 3, sizeof(c[1]));
        c[1].sectors[5] = 0; /* torn */
        assert_int_equal(sim_image_put(to.host, "f", i, c, true), 0);
        assert_int_equal(world_byte(&to, 0), 10);
        assert_int_equal(world_byte(&to, PAGE + 7), contents[0][k % 3]);
        assert_int_equal(world_byte(&to, 2 * PAGE), contents[1][k / 3]);
        assert_int_equal(world_byte(&to, 2 * PAGE + 5 * SECTOR), 0);
        world_kill(&to, true); /* it was durable */
        assert_int_equal(world_byte(&to, PAGE + 7), contents[0][k % 3]);
    }
    assert_int_equal(sim_image_put(to.host, "other", i, NULL, true), -ENOENT);
    sim_image_free(i);
    world_deinit(&to);
}

static void what_a_dead_process_left_in_the_cache_may_still_be_lost(void **state)
{
    struct world from, to;
    struct loop_op op;
    uint8_t buf[PAGE];
    uint32_t seen = 0;
    (void)state;

    world_init(&from, 3);
    world_init(&to, 4);
    struct sim_image *i = image_of_all(&from, &op, buf);
    world_kill(&to, true);
    for (uint32_t k = 0; k < 100; k++) {
        assert_int_equal(sim_image_put(to.host, "f", i, NULL, false), 0);
        assert_int_equal(world_byte(&to, PAGE), 22);
        assert_int_equal(world_byte(&to, 2 * PAGE), 31);
        world_kill(&to, true);
        uint8_t byte = world_byte(&to, PAGE);
        assert_true(byte == 20 || byte == 22);
        seen |= byte == 20 ? 1 : 2;
    }
    assert_int_equal(seen, 3);
    sim_image_free(i);
    world_deinit(&from);
    world_deinit(&to);
}

/* The file, the image and other files share pages, and nobody sees what another one changes. */
static void what_becomes_of_a_file_does_not_change_its_image(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 5);
    world_write(&w, 0, 1);
    assert_int_equal(loop_flush_now(w.file), 0);
    struct sim_image *i = sim_image_take(w.host, "f");
    assert_int_equal(sim_image_open_pages(i), 0);
    world_write(&w, 0, 2);
    world_write(&w, 9, 3);
    assert_int_equal(loop_flush_now(w.file), 0);
    world_kill(&w, true);
    assert_int_equal(world_byte(&w, 0), 2);
    for (uint32_t k = 0; k < 2; k++) {
        uint8_t beyond;
        assert_int_equal(sim_image_put(w.host, "f", i, NULL, true), 0);
        assert_int_equal(world_byte(&w, 0), 1);
        assert_int_equal(sim_disk_peek(w.host, "f", 9 * PAGE, &beyond, 1), -ERANGE);
        assert_int_equal(sim_disk_flip(w.host, "f", 3), 0);
        assert_int_equal(world_byte(&w, 0), 9);
    }
    sim_image_free(i);
    world_deinit(&w);
}

static void count_call(void *arg, enum sim_disk_op op)
{
    ((struct world *)arg)->calls += op == SIM_DISK_READ ? 100 : op == SIM_DISK_WRITE ? 10 : 1;
}

static void a_watch_sees_each_call_before_it_counts(void **state)
{
    struct world w;
    struct loop_op op;
    uint8_t buf[PAGE] = {0};
    (void)state;

    world_init(&w, 6);
    sim_disk_watch(w.host, count_call, &w);
    world_write(&w, 0, 1);
    assert_int_equal(loop_read_now(w.file, buf, PAGE, 0), PAGE);
    assert_int_equal(loop_flush_now(w.file), 0);
    assert_int_equal(w.calls, 111);
    loop_op_init(&op, never_done);
    loop_write(w.loop, &op, w.file, buf, PAGE, 0);
    assert_int_equal(w.calls, 121);
    world_kill(&w, false);
    sim_disk_watch(w.host, NULL, NULL);
    world_deinit(&w);
}

static void a_fault_of_any_call_counts_them_together(void **state)
{
    struct world w;
    uint8_t buf[PAGE];
    (void)state;

    world_init(&w, 7);
    sim_disk_fail(w.host, "", SIM_DISK_ANY, 2, -EIO, true);
    world_write(&w, 0, 1);
    assert_int_equal(loop_flush_now(w.file), 0);
    assert_int_equal(loop_read_now(w.file, buf, PAGE, 0), -EIO);
    assert_int_equal(loop_read_now(w.file, buf, PAGE, 0), PAGE);
    world_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_image_knows_every_content_of_each_open_page),
        cmocka_unit_test(what_a_dead_process_left_in_the_cache_may_still_be_lost),
        cmocka_unit_test(what_becomes_of_a_file_does_not_change_its_image),
        cmocka_unit_test(a_watch_sees_each_call_before_it_counts),
        cmocka_unit_test(a_fault_of_any_call_counts_them_together),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
