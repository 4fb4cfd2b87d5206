/*
 * The fault model of the simulator (io/sim.h), fault by fault. Where a fault is a matter of chance,
 * a test looks at many seeds: each outcome that is allowed must occur, and none that is not.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "io/sim.h"

enum { HOSTS = 2, SEEDS = 200, PAGE = 4096, SECTOR = 512 };

struct world {
    struct sim *sim;
    struct sim_host *host[HOSTS];
    struct loop *loop[HOSTS];
};

static void world_init_config(struct world *w, const struct sim_config *config)
{
    w->sim = sim_create(config);
    for (uint32_t i = 0; i < HOSTS; i++) {
        w->host[i] = sim_host_create(w->sim, i + 1);
        w->loop[i] = sim_loop_create(w->host[i]);
    }
}

static void world_init(struct world *w, uint64_t seed)
{
    world_init_config(w, &(struct sim_config){.seed = seed});
}

static void world_deinit(struct world *w)
{
    for (uint32_t i = 0; i < HOSTS; i++)
        loop_destroy(w->loop[i]);
    sim_destroy(w->sim);
}

static void world_restart(struct world *w, uint32_t i, bool power_loss)
{
    sim_host_crash(w->host[i], power_loss);
    assert_true(sim_loop_is_dead(w->loop[i]));
    loop_destroy(w->loop[i]);
    w->loop[i] = sim_loop_create(w->host[i]);
}

static void world_rest(struct world *w, uint64_t ns)
{
    sim_run_until(w->sim, sim_now(w->sim) + ns);
}

struct call {
    struct loop_op op; /* first: done() finds the rest */
    uint32_t done_count;
    struct iovec iov;
};

static void on_done(struct loop_op *op)
{
    ((struct call *)op)->done_count++;
}

static bool is_done(void *arg)
{
    return ((struct call *)arg)->done_count > 0;
}

static struct call *call_init(struct call *c)
{
    c->done_count = 0;
    loop_op_init(&c->op, on_done);
    return c;
}

static int64_t wait_for(struct world *w, struct call *c)
{
    assert_true(sim_run_until_true(w->sim, is_done, c, sim_now(w->sim) + 1000 * NS_PER_S));
    assert_int_equal(c->done_count, 1);
    return c->op.result;
}

/* ---- Disk ---- */

static struct loop_file *open_file(struct world *w, const char *path)
{
    struct loop_file *f;

    assert_int_equal(loop_file_open(w->loop[0], path, LOOP_FILE_WRITE | LOOP_FILE_CREATE, &f), 0);
    return f;
}

/* Its name will be there after power loss. */
static struct loop_file *open_named(struct world *w, const char *path)
{
    struct loop_file *f = open_file(w, path);

    assert_int_equal(loop_dir_sync(w->loop[0], ""), 0);
    return f;
}

static int64_t write_page(struct world *w, struct loop_file *f, char fill, uint64_t page)
{
    uint8_t buf[PAGE];
    struct call c;

    memset(buf, fill, sizeof(buf));
    loop_write(w->loop[0], &call_init(&c)->op, f, buf, sizeof(buf), page * PAGE);
    return wait_for(w, &c);
}

static int64_t flush(struct world *w, struct loop_file *f)
{
    struct call c;

    loop_flush(w->loop[0], &call_init(&c)->op, f);
    return wait_for(w, &c);
}

/* How many sectors of the page hold `fill`; each must hold one of the letters of `allowed`. */
static uint32_t count_sectors(struct world *w, const char *path, uint64_t page, char fill,
                              const char *allowed)
{
    uint8_t buf[PAGE];
    uint32_t count = 0;

    assert_int_equal(sim_disk_peek(w->host[0], path, page * PAGE, buf, sizeof(buf)), 0);
    for (uint32_t i = 0; i < PAGE; i++) {
        assert_int_equal(buf[i], buf[i / SECTOR * SECTOR]);
        bool is_allowed = buf[i] == 0 ? allowed[0] == '0' : strchr(allowed, buf[i]) != NULL;
        assert_true(is_allowed);
    }
    for (uint32_t i = 0; i < PAGE; i += SECTOR)
        count += buf[i] == (uint8_t)fill;
    return count;
}

static void flushed_data_survives_power_loss(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        world_init(&w, seed);
        struct loop_file *f = open_named(&w, "f");
        for (uint64_t page = 0; page < 20; page++) {
            write_page(&w, f, 'a', page);
            write_page(&w, f, 'b', page);
        }
        assert_int_equal(flush(&w, f), 0);
        world_restart(&w, 0, true);
        for (uint64_t page = 0; page < 20; page++)
            assert_int_equal(count_sectors(&w, "f", page, 'b', "b"), 8);
        world_deinit(&w);
    }
}

static void power_loss_keeps_of_an_unflushed_page_the_old_the_new_or_a_mix(void **state)
{
    uint32_t kept[9] = {0};

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        world_init(&w, seed);
        struct loop_file *f = open_named(&w, "f");
        for (uint64_t page = 0; page < 4; page++)
            write_page(&w, f, 'a', page);
        flush(&w, f);
        for (uint64_t page = 0; page < 4; page++)
            write_page(&w, f, 'b', page);
        world_restart(&w, 0, true);
        for (uint64_t page = 0; page < 4; page++)
            kept[count_sectors(&w, "f", page, 'b', "ab")]++;
        world_deinit(&w);
    }
    assert_true(kept[0] > SEEDS / 2 && kept[8] > SEEDS / 2);
    for (uint32_t i = 1; i < 8; i++)
        assert_true(kept[i] > 0);
}

static int64_t write_page_durable(struct world *w, struct loop_file *f, char fill, uint64_t page)
{
    uint8_t buf[PAGE];
    struct call c;

    memset(buf, fill, sizeof(buf));
    loop_write_durable(w->loop[0], &call_init(&c)->op, f, buf, sizeof(buf), page * PAGE);
    return wait_for(w, &c);
}

/* Also over an older write that was not flushed, and beyond the size that was; its neighbour gains
 * nothing. */
static void a_durable_write_survives_power_loss_and_saves_no_other(void **state)
{
    uint32_t lost = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        world_init(&w, seed);
        struct loop_file *f = open_named(&w, "f");
        write_page(&w, f, 'a', 0);
        write_page(&w, f, 'a', 1);
        assert_int_equal(write_page_durable(&w, f, 'b', 1), PAGE);
        assert_int_equal(write_page_durable(&w, f, 'b', 2), PAGE);
        world_restart(&w, 0, true);
        assert_int_equal(count_sectors(&w, "f", 1, 'b', "b"), 8);
        assert_int_equal(count_sectors(&w, "f", 2, 'b', "b"), 8);
        lost += count_sectors(&w, "f", 0, 'a', "0a") < 8;
        world_deinit(&w);
    }
    assert_true(lost > SEEDS / 4);
}

static void a_device_that_writes_through_keeps_what_is_done(void **state)
{
    struct loop_file_info device = {.is_device = true, .has_fua = true, .io_align = 512}, info;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        world_init(&w, seed);
        sim_disk_set_info(w.host[0], &device);
        struct loop_file *f = open_named(&w, "f");
        loop_file_info(f, &info);
        assert_true(info.is_device && info.has_fua && !info.is_volatile && !info.can_discard);
        assert_int_equal(info.io_align, 512);
        assert_int_equal(loop_file_resize(f, 4 * PAGE, true), 0);
        assert_int_equal(flush(&w, f), 0);
        write_page(&w, f, 'a', 0);
        write_page(&w, f, 'b', 0);
        struct call c;
        loop_discard(w.loop[0], &call_init(&c)->op, f, 0, PAGE);
        assert_int_equal(wait_for(&w, &c), -EOPNOTSUPP);
        world_restart(&w, 0, true);
        assert_int_equal(count_sectors(&w, "f", 0, 'b', "b"), 8);
        world_deinit(&w);
    }
}

enum page_holds { HOLDS_OLD, HOLDS_ZEROS, HOLDS_GARBAGE };

static enum page_holds page_holds(struct world *w, uint64_t page, char old)
{
    static const uint8_t zeros[PAGE];
    uint8_t buf[PAGE], was[PAGE];

    memset(was, old, sizeof(was));
    assert_int_equal(sim_disk_peek(w->host[0], "f", page * PAGE, buf, sizeof(buf)), 0);
    if (memcmp(buf, was, PAGE) == 0)
        return HOLDS_OLD;
    return memcmp(buf, zeros, PAGE) == 0 ? HOLDS_ZEROS : HOLDS_GARBAGE;
}

/* Each page of it goes its own way. One that is refused changes nothing; one that fails, some. */
static void a_discard_leaves_zeros_or_garbage_or_what_was(void **state)
{
    static const int error[] = {0, -EIO, -EOPNOTSUPP};
    uint32_t seen[3][3] = {{0}};

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        world_init(&w, seed);
        uint32_t how = (uint32_t)(seed % 3);
        struct loop_file *f = open_named(&w, "f");
        for (uint64_t page = 0; page < 4; page++)
            write_page(&w, f, 'a', page);
        if (error[how] != 0)
            sim_disk_fail(w.host[0], "f", SIM_DISK_DISCARD, 0, error[how], true);
        struct call c;
        uint64_t start = sim_now(w.sim);
        loop_discard(w.loop[0], &call_init(&c)->op, f, PAGE, 2 * PAGE);
        assert_int_equal(page_holds(&w, 1, 'a'), HOLDS_OLD);
        assert_int_equal(wait_for(&w, &c), error[how]);
        assert_true(sim_now(w.sim) > start);
        assert_int_equal(page_holds(&w, 0, 'a'), HOLDS_OLD);
        assert_int_equal(page_holds(&w, 3, 'a'), HOLDS_OLD);
        seen[how][page_holds(&w, 1, 'a')]++;
        assert_int_equal(loop_file_size(f), 4 * PAGE);
        world_deinit(&w);
    }
    for (uint32_t i = 0; i < 3; i++) {
        assert_true(seen[0][i] > SEEDS / 20);
        assert_true(seen[1][i] > 0);
    }
    assert_true(seen[1][HOLDS_OLD] > seen[0][HOLDS_OLD]);
    assert_int_equal(seen[2][HOLDS_ZEROS] + seen[2][HOLDS_GARBAGE], 0);
}

static void a_discard_may_be_undone_by_power_loss_until_it_is_flushed(void **state)
{
    uint32_t undone = 0, kept = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 4 * SEEDS; seed++) {
        struct world w;
        bool is_flushed = seed % 2 == 0;
        world_init(&w, seed);
        struct loop_file *f = open_named(&w, "f");
        write_page(&w, f, 'a', 0);
        flush(&w, f);
        struct call c;
        loop_discard(w.loop[0], &call_init(&c)->op, f, 0, PAGE);
        wait_for(&w, &c);
        if (is_flushed)
            assert_int_equal(flush(&w, f), 0);
        enum page_holds before = page_holds(&w, 0, 'a');
        world_restart(&w, 0, true);
        enum page_holds after = page_holds(&w, 0, 'a');
        if (is_flushed)
            assert_int_equal(before, after);
        else if (before != HOLDS_OLD)
            *(after == HOLDS_OLD ? &undone : &kept) += 1;
        world_deinit(&w);
    }
    assert_true(undone > SEEDS / 4 && kept > SEEDS / 4);
}

static void a_crash_under_a_discard_leaves_any_part_of_it(void **state)
{
    uint32_t mixed = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        struct call c;
        uint32_t old = 0;
        world_init(&w, seed);
        struct loop_file *f = open_named(&w, "f");
        for (uint64_t page = 0; page < 8; page++)
            write_page(&w, f, 'a', page);
        loop_discard(w.loop[0], &call_init(&c)->op, f, 0, 7 * PAGE);
        world_restart(&w, 0, false);
        assert_int_equal(c.done_count, 0);
        for (uint64_t page = 0; page < 8; page++)
            old += page_holds(&w, page, 'a') == HOLDS_OLD;
        assert_true(old >= 1);
        mixed += old > 1 && old < 8;
        world_deinit(&w);
    }
    assert_true(mixed > SEEDS / 2);
}

/* Several unflushed versions of a page: any of them may be what is left. */
static void power_loss_may_keep_any_unflushed_version(void **state)
{
    uint32_t whole[3] = {0};

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        world_init(&w, seed);
        struct loop_file *f = open_named(&w, "f");
        for (const char *c = "abc"; *c != '\0'; c++) {
            write_page(&w, f, *c, 0);
            if (*c == 'a')
                flush(&w, f);
        }
        world_restart(&w, 0, true);
        for (uint32_t i = 0; i < 3; i++)
            whole[i] += count_sectors(&w, "f", 0, (char)('a' + i), "abc") == 8;
        world_deinit(&w);
    }
    assert_true(whole[0] > 0 && whole[1] > 0 && whole[2] > 0);
}

/* The write is done long before the flush is, but was not when the flush was started. */
static void a_flush_does_not_cover_a_write_that_was_not_done_before_it(void **state)
{
    uint32_t lost = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        uint8_t buf[PAGE];
        struct call write, sync;
        world_init(&w, seed);
        struct loop_file *f = open_named(&w, "f");
        write_page(&w, f, 'a', 0);
        flush(&w, f);
        memset(buf, 'b', sizeof(buf));
        loop_write(w.loop[0], &call_init(&write)->op, f, buf, sizeof(buf), 0);
        sim_disk_set_slow(w.host[0], 1, 1, 1000 * NS_PER_S);
        loop_flush(w.loop[0], &call_init(&sync)->op, f);
        wait_for(&w, &write);
        if (sync.done_count == 0) {
            assert_int_equal(wait_for(&w, &sync), 0);
            world_restart(&w, 0, true);
            lost += count_sectors(&w, "f", 0, 'b', "ab") < 8;
        }
        world_deinit(&w);
    }
    assert_true(lost > SEEDS / 4);
}

static void a_crash_of_the_process_keeps_done_writes_and_any_part_of_others(void **state)
{
    uint32_t kept[9] = {0};

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        uint8_t buf[PAGE];
        struct call write;
        world_init(&w, seed);
        struct loop_file *f = open_file(&w, "f");
        write_page(&w, f, 'a', 0);
        write_page(&w, f, 'a', 1);
        memset(buf, 'b', sizeof(buf));
        loop_write(w.loop[0], &call_init(&write)->op, f, buf, sizeof(buf), PAGE);
        world_restart(&w, 0, false);
        assert_int_equal(count_sectors(&w, "f", 0, 'a', "a"), 8);
        kept[count_sectors(&w, "f", 1, 'b', "ab")]++;
        world_rest(&w, NS_PER_S);
        assert_int_equal(write.done_count, 0);
        world_deinit(&w);
    }
    assert_true(kept[0] > 0 && kept[8] > 0 && kept[4] > 0);
}

static void what_survived_a_crash_is_still_lost_by_power_loss_until_flushed(void **state)
{
    uint32_t lost = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        world_init(&w, seed);
        struct loop_file *f = open_named(&w, "f");
        write_page(&w, f, 'a', 0);
        write_page(&w, f, 'a', 1);
        world_restart(&w, 0, false);
        if (seed % 2 == 0) {
            f = open_file(&w, "f");
            assert_int_equal(flush(&w, f), 0);
        }
        sim_host_crash(w.host[0], true);
        uint8_t buf[2 * PAGE];
        bool whole = sim_disk_peek(w.host[0], "f", 0, buf, sizeof(buf)) == 0;
        for (uint32_t i = 0; i < sizeof(buf) && whole; i++)
            whole = buf[i] == 'a';
        assert_true(whole || seed % 2 != 0);
        lost += !whole;
        world_deinit(&w);
    }
    assert_true(lost > 0);
}

static void after_a_failed_flush_no_later_one_saves_the_pages(void **state)
{
    uint32_t lost = 0, saved = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        world_init(&w, seed);
        struct loop_file *f = open_named(&w, "f");
        write_page(&w, f, 'a', 0);
        flush(&w, f);
        write_page(&w, f, 'b', 0);
        sim_disk_fail(w.host[0], "f", SIM_DISK_FLUSH, 0, EIO, true);
        assert_int_equal(flush(&w, f), -EIO);
        assert_int_equal(flush(&w, f), 0);
        world_restart(&w, 0, true);
        uint32_t b = count_sectors(&w, "f", 0, 'b', "ab");
        lost += b < 8;
        saved += b == 8;
        world_deinit(&w);
    }
    assert_true(lost > 0 && saved > 0);
}

static void the_nth_call_fails_where_the_prefix_says_so(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 1);
    assert_int_equal(loop_dir_create(w.loop[0], "osd"), 0);
    struct loop_file *f = open_file(&w, "osd/1"), *other = open_file(&w, "log");
    sim_disk_fail(w.host[0], "osd/", SIM_DISK_WRITE, 2, EIO, true);
    assert_int_equal(write_page(&w, f, 'a', 0), PAGE);
    assert_int_equal(write_page(&w, other, 'a', 0), PAGE);
    assert_int_equal(write_page(&w, f, 'a', 0), PAGE);
    assert_int_equal(write_page(&w, f, 'a', 0), -EIO);
    assert_int_equal(write_page(&w, f, 'a', 0), PAGE);

    sim_disk_fail(w.host[0], "", SIM_DISK_READ, 0, -EIO, false);
    char buf[8];
    assert_int_equal(loop_read_now(f, buf, sizeof(buf), 0), -EIO);
    assert_int_equal(loop_read_now(other, buf, sizeof(buf), 0), -EIO);
    sim_disk_clear_faults(w.host[0]);
    assert_int_equal(loop_read_now(other, buf, sizeof(buf), 0), 8);
    world_deinit(&w);
}

static void a_sparse_file_costs_what_was_written_and_then_there_is_no_space(void **state)
{
    struct world w;

    (void)state;
    world_init_config(&w, &(struct sim_config){.seed = 1, .host_disk_bytes = 10 * PAGE});
    struct loop_file *f = open_file(&w, "f");
    assert_int_equal(loop_file_resize(f, 1ull << 30, false), 0);
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(write_page(&w, f, 'a', i * 20000), PAGE);
    assert_int_equal(loop_disk_free(w.loop[0], "f"), 0);
    assert_int_equal(write_page(&w, f, 'a', 7), -ENOSPC);
    assert_int_equal(write_page(&w, f, 'b', 20000), PAGE);
    assert_int_equal(loop_file_resize(f, 5 * PAGE, false), 0);
    assert_int_equal(flush(&w, f), 0);
    assert_int_equal(loop_disk_free(w.loop[0], "f"), 9 * PAGE);
    assert_int_equal(loop_file_resize(f, 10 * PAGE, true), 0);
    assert_int_equal(loop_disk_free(w.loop[0], "f"), 0);
    assert_int_equal(write_page(&w, f, 'c', 9), PAGE);
    loop_file_close(f);
    assert_int_equal(loop_unlink(w.loop[0], "f"), 0);
    assert_int_equal(loop_dir_sync(w.loop[0], "/"), 0);
    assert_int_equal(loop_disk_free(w.loop[0], "f"), 10 * PAGE);
    world_deinit(&w);
}

/* A hole is a hole: others may take its room, whether it was reserved or only written. A device
 * keeps its own. */
static void what_was_discarded_of_a_file_has_no_room_any_more(void **state)
{
    struct loop_file_info info;

    (void)state;
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct world w;
        struct call c;
        bool is_reserved = seed % 2 == 0, is_device = seed % 3 == 0;
        world_init_config(&w, &(struct sim_config){.seed = seed, .host_disk_bytes = 8 * PAGE});
        if (is_device)
            sim_disk_set_info(w.host[0],
                              &(struct loop_file_info){.is_device = true, .can_discard = true});
        struct loop_file *f = open_file(&w, "f"), *other = open_file(&w, "g");
        assert_int_equal(loop_file_resize(f, 4 * PAGE, is_reserved), 0);
        for (uint64_t page = is_reserved ? 1 : 0; page < 4; page++)
            assert_int_equal(write_page(&w, f, 'a', page), PAGE);
        assert_int_equal(loop_file_resize(other, 4 * PAGE, true), 0);
        assert_int_equal(write_page(&w, other, 'b', 4), -ENOSPC);

        loop_discard(w.loop[0], &call_init(&c)->op, f, 0, 2 * PAGE);
        assert_int_equal(wait_for(&w, &c), 0);
        loop_discard(w.loop[0], &call_init(&c)->op, f, 0, 2 * PAGE);
        assert_int_equal(wait_for(&w, &c), 0);
        loop_file_info(f, &info);
        assert_true(info.is_sparse == !is_device);
        assert_int_equal(loop_disk_free(w.loop[0], ""), is_device ? 0 : 2 * PAGE);
        assert_int_equal(write_page(&w, other, 'b', 4), is_device ? -ENOSPC : PAGE);
        assert_int_equal(write_page(&w, f, 'c', 1), PAGE);
        assert_int_equal(write_page(&w, f, 'c', 0), is_device ? PAGE : -ENOSPC);
        assert_int_equal(loop_file_resize(f, 4 * PAGE, true), is_device ? 0 : -ENOSPC);
        assert_int_equal(loop_file_resize(other, 3 * PAGE, false), 0);
        assert_int_equal(flush(&w, other), 0);
        assert_int_equal(loop_file_resize(f, 4 * PAGE, true), 0);
        assert_int_equal(write_page(&w, f, 'c', 0), PAGE);
        loop_file_close(f);
        loop_file_close(other);
        assert_int_equal(loop_unlink(w.loop[0], "f"), 0);
        assert_int_equal(loop_unlink(w.loop[0], "g"), 0);
        assert_int_equal(loop_dir_sync(w.loop[0], ""), 0);
        assert_int_equal(loop_disk_free(w.loop[0], ""), 8 * PAGE);
        world_deinit(&w);
    }
}

static void a_flipped_bit_is_read_back(void **state)
{
    struct world w;
    uint8_t buf[PAGE];

    (void)state;
    world_init(&w, 1);
    struct loop_file *f = open_file(&w, "f");
    write_page(&w, f, 'a', 0);
    flush(&w, f);
    assert_int_equal(sim_disk_flip(w.host[0], "g", 0), -ENOENT);
    assert_int_equal(sim_disk_flip(w.host[0], "f", PAGE * 8), -ERANGE);
    assert_int_equal(sim_disk_flip(w.host[0], "f", 100 * 8 + 1), 0);
    assert_int_equal(loop_read_now(f, buf, PAGE, 0), PAGE);
    assert_int_equal(buf[99], 'a');
    assert_int_equal(buf[100], 'a' ^ 2);
    world_deinit(&w);
}

static void lies_report_success_once_and_do_something_else(void **state)
{
    struct world w;
    uint8_t buf[PAGE], clean[PAGE];
    uint32_t flipped = 0;

    (void)state;
    world_init(&w, 3);
    struct loop_file *f = open_file(&w, "f");
    for (uint64_t page = 0; page < 8; page++)
        write_page(&w, f, (char)('a' + page), page);

    sim_disk_lie(w.host[0], "f", SIM_LIE_WRITE_DROPPED, 0);
    assert_int_equal(write_page(&w, f, 'x', 0), PAGE);
    assert_int_equal(count_sectors(&w, "f", 0, 'a', "a"), 8);

    sim_disk_lie(w.host[0], "f", SIM_LIE_READ_FLIPPED, 1);
    assert_int_equal(loop_read_now(f, clean, PAGE, 0), PAGE);
    assert_int_equal(loop_read_now(f, buf, PAGE, 0), PAGE);
    for (uint32_t i = 0; i < PAGE; i++)
        flipped += (uint32_t)__builtin_popcount(buf[i] ^ clean[i]);
    assert_int_equal(flipped, 1);
    assert_int_equal(loop_read_now(f, buf, PAGE, 0), PAGE);
    assert_memory_equal(buf, clean, PAGE);

    sim_disk_lie(w.host[0], "f", SIM_LIE_WRITE_MISDIRECTED, 0);
    assert_int_equal(write_page(&w, f, 'x', 2), PAGE);
    uint32_t elsewhere = 0;
    for (uint64_t page = 0; page < 8; page++)
        elsewhere += page != 2 && count_sectors(&w, "f", page, 'x', "abcdefghx") == 8;
    assert_int_equal(elsewhere, 1);

    sim_disk_lie(w.host[0], "f", SIM_LIE_READ_MISDIRECTED, 0);
    assert_int_equal(loop_read_now(f, buf, PAGE, 2 * PAGE), PAGE);
    assert_true(buf[0] != 'c');
    world_deinit(&w);
}

static bool exists(struct world *w, const char *path)
{
    uint8_t x;

    return sim_disk_peek(w->host[0], path, 0, &x, 0) == 0;
}

static void name_changes_not_synced_are_kept_in_order_up_to_some_point(void **state)
{
    uint32_t points[5] = {0};

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        world_init(&w, seed);
        struct loop_file *f = open_named(&w, "old");
        write_page(&w, f, 'o', 0);
        flush(&w, f);
        f = open_file(&w, "new"); /* 1 */
        write_page(&w, f, 'n', 0);
        flush(&w, f);
        assert_int_equal(loop_rename(w.loop[0], "new", "old"), 0); /* 2 */
        open_file(&w, "third");                                    /* 3 */
        assert_int_equal(loop_unlink(w.loop[0], "old"), 0);        /* 4 */
        assert_false(exists(&w, "old"));
        world_restart(&w, 0, true);

        uint32_t point = !exists(&w, "old")                            ? 4
                         : exists(&w, "third")                         ? 3
                         : exists(&w, "new")                           ? 1
                         : count_sectors(&w, "old", 0, 'n', "on") == 8 ? 2
                                                                       : 0;
        points[point]++;
        assert_int_equal(exists(&w, "third"), point >= 3);
        assert_int_equal(exists(&w, "new"), point == 1);
        if (point < 4)
            assert_int_equal(count_sectors(&w, "old", 0, point < 2 ? 'o' : 'n', "on"), 8);
        world_deinit(&w);
    }
    for (uint32_t i = 0; i < 5; i++)
        assert_true(points[i] > 0);
}

static void a_synced_folder_does_not_save_its_own_name(void **state)
{
    uint32_t lost = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        world_init(&w, seed);
        assert_int_equal(loop_dir_create(w.loop[0], "d"), 0);
        open_file(&w, "d/f");
        assert_int_equal(loop_dir_sync(w.loop[0], "d"), 0);
        if (seed % 2 == 0)
            assert_int_equal(loop_dir_sync(w.loop[0], "."), 0);
        world_restart(&w, 0, true);
        assert_true(exists(&w, "d/f") || seed % 2 != 0);
        lost += !exists(&w, "d/f");
        world_deinit(&w);
    }
    assert_true(lost > 0);
}

static void a_crash_releases_locks(void **state)
{
    unsigned flags = LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_LOCK;
    struct loop_file *f;
    struct world w;

    (void)state;
    world_init(&w, 1);
    assert_int_equal(loop_file_open(w.loop[0], "f", flags, &f), 0);
    assert_int_equal(loop_file_open(w.loop[0], "f", flags, &f), -EWOULDBLOCK);
    world_restart(&w, 0, false);
    assert_int_equal(loop_file_open(w.loop[0], "f", flags, &f), 0);
    world_deinit(&w);
}

static void a_slow_disk_takes_its_time(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 1);
    struct loop_file *f = open_file(&w, "f");
    uint64_t start = sim_now(w.sim);
    write_page(&w, f, 'a', 0);
    assert_true(sim_now(w.sim) - start < 2 * NS_PER_MS);
    sim_disk_set_slow(w.host[0], 1, 1, 100 * NS_PER_S);
    start = sim_now(w.sim);
    for (uint32_t i = 0; i < 10; i++)
        write_page(&w, f, 'a', 0);
    assert_true(sim_now(w.sim) - start > 100 * NS_PER_S);
    world_deinit(&w);
}

/* ---- Network ---- */

struct pair {
    struct loop_listener *listener;
    struct loop_addr addr;
    struct loop_conn *conn[HOSTS]; /* host 0 connected to host 1 */
};

static void pair_open(struct world *w, struct pair *p)
{
    struct call accept, connect;

    sim_host_addr(w->host[1], 7400, &p->addr);
    assert_int_equal(loop_listen(w->loop[1], &p->addr, &p->listener, NULL), 0);
    loop_accept(w->loop[1], &call_init(&accept)->op, p->listener);
    loop_connect(w->loop[0], &call_init(&connect)->op, &p->addr);
    assert_int_equal(wait_for(w, &connect), 0);
    assert_int_equal(wait_for(w, &accept), 0);
    p->conn[0] = connect.op.conn;
    p->conn[1] = accept.op.conn;
}

static void start_send(struct world *w, struct pair *p, uint32_t from, struct call *c,
                       const void *data, size_t len)
{
    c->iov = (struct iovec){(void *)(uintptr_t)data, len};
    loop_send(w->loop[from], &call_init(c)->op, p->conn[from], &c->iov, 1);
}

static void start_recv(struct world *w, struct pair *p, uint32_t to, struct call *c, void *buf,
                       size_t len)
{
    loop_recv(w->loop[to], &call_init(c)->op, p->conn[to], buf, len);
}

static void a_partition_stalls_bytes_and_healing_delivers_them_in_order(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        struct pair p;
        struct call send, recv, back;
        uint8_t buf[10], other[10];
        world_init(&w, seed);
        pair_open(&w, &p);
        sim_net_cut(w.sim, 1, 2, true);
        for (const char *c = "0123456789"; *c != '\0'; c++) {
            start_send(&w, &p, 0, &send, c, 1);
            assert_int_equal(wait_for(&w, &send), 1);
        }
        start_recv(&w, &p, 1, &recv, buf, 1);
        world_rest(&w, 100 * NS_PER_S);
        assert_int_equal(recv.done_count, 0);

        start_send(&w, &p, 1, &send, "b", 1); /* the other way is open */
        start_recv(&w, &p, 0, &back, other, 1);
        assert_int_equal(wait_for(&w, &back), 1);

        sim_net_cut(w.sim, 1, 2, false);
        for (uint32_t i = 0; i < 10; i++) {
            assert_int_equal(wait_for(&w, &recv), 1);
            assert_int_equal(buf[0], '0' + i);
            if (i < 9)
                start_recv(&w, &p, 1, &recv, buf, 1);
        }
        world_deinit(&w);
    }
}

static void a_connect_hangs_while_cut_off_and_works_once_healed(void **state)
{
    (void)state;
    for (uint32_t way = 0; way < 2; way++) {
        struct world w;
        struct loop_addr addr;
        struct loop_listener *listener;
        struct call connect;
        world_init(&w, way);
        sim_host_addr(w.host[1], 7400, &addr);
        assert_int_equal(loop_listen(w.loop[1], &addr, &listener, NULL), 0);
        sim_net_cut(w.sim, 1 + way, 2 - way, true);
        loop_connect(w.loop[0], &call_init(&connect)->op, &addr);
        world_rest(&w, 60 * NS_PER_S);
        assert_int_equal(connect.done_count, 0);
        sim_net_heal_all(w.sim);
        assert_int_equal(wait_for(&w, &connect), 0);

        sim_net_cut(w.sim, 1 + way, 2 - way, true);
        loop_connect(w.loop[0], &call_init(&connect)->op, &addr);
        assert_int_equal(wait_for(&w, &connect), -ETIMEDOUT);
        world_deinit(&w);
    }
}

static void a_dead_process_refuses_connections_and_resets_the_ones_it_had(void **state)
{
    struct world w;
    struct pair p;
    struct call recv, connect;
    uint8_t buf[10];

    (void)state;
    world_init(&w, 1);
    pair_open(&w, &p);
    start_recv(&w, &p, 0, &recv, buf, sizeof(buf));
    sim_host_crash(w.host[1], false);
    assert_int_equal(wait_for(&w, &recv), -ECONNRESET);
    start_send(&w, &p, 0, &recv, "x", 1);
    assert_int_equal(wait_for(&w, &recv), -EPIPE);
    loop_connect(w.loop[0], &call_init(&connect)->op, &p.addr);
    assert_int_equal(wait_for(&w, &connect), -ECONNREFUSED);
    world_deinit(&w);
}

static void behind_a_cut_nobody_hears_of_a_crash(void **state)
{
    struct world w;
    struct pair p;
    struct call recv;
    uint8_t buf[10];

    (void)state;
    world_init(&w, 1);
    pair_open(&w, &p);
    start_recv(&w, &p, 0, &recv, buf, sizeof(buf));
    sim_net_cut(w.sim, 2, 1, true);
    sim_host_crash(w.host[1], true);
    world_rest(&w, 3600 * NS_PER_S);
    assert_int_equal(recv.done_count, 0);
    sim_net_heal_all(w.sim);
    assert_int_equal(wait_for(&w, &recv), -ECONNRESET);
    world_deinit(&w);
}

static void bytes_under_way_when_a_process_dies_may_be_lost_but_only_the_last(void **state)
{
    uint32_t all = 0, some = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world w;
        struct pair p;
        struct call send, recv;
        uint8_t buf[1];
        uint32_t got = 0;
        world_init(&w, seed);
        pair_open(&w, &p);
        for (const char *c = "0123456789"; *c != '\0'; c++) {
            start_send(&w, &p, 0, &send, c, 1);
            wait_for(&w, &send);
            world_rest(&w, 100000);
        }
        sim_host_crash(w.host[0], false);
        for (;;) {
            uint8_t x;
            start_recv(&w, &p, 1, &recv, &x, 1);
            if (wait_for(&w, &recv) != 1)
                break;
            assert_int_equal(x, '0' + got);
            got++;
        }
        assert_int_equal(recv.op.result, -ECONNRESET);
        world_rest(&w, NS_PER_S); /* nothing comes after */
        start_recv(&w, &p, 1, &recv, buf, 1);
        assert_int_equal(wait_for(&w, &recv), -ECONNRESET);
        all += got == 10;
        some += got < 10;
        world_deinit(&w);
    }
    assert_true(all > 0 && some > 0);
}

static void a_peer_that_does_not_read_stops_the_sender(void **state)
{
    static uint8_t big[8 << 20];
    struct world w;
    struct pair p;
    struct call send, recv;
    uint64_t got = 0;

    (void)state;
    world_init(&w, 1);
    pair_open(&w, &p);
    for (size_t i = 0; i < sizeof(big); i += 8)
        put_u64(big + i, i);
    start_send(&w, &p, 0, &send, big, sizeof(big));
    world_rest(&w, 100 * NS_PER_S);
    assert_int_equal(send.done_count, 0);
    while (got < sizeof(big)) {
        static uint8_t buf[100000];
        start_recv(&w, &p, 1, &recv, buf, sizeof(buf));
        int64_t n = wait_for(&w, &recv);
        assert_true(n > 0);
        assert_memory_equal(buf, big + got, (size_t)n);
        got += (uint64_t)n;
    }
    assert_int_equal(wait_for(&w, &send), sizeof(big));
    world_deinit(&w);
}

static void a_slow_network_delays_some_sends(void **state)
{
    struct world w;
    struct pair p;
    struct call send, recv;
    uint8_t x;
    uint32_t slow = 0;

    (void)state;
    world_init(&w, 1);
    pair_open(&w, &p);
    sim_net_set_slow(w.sim, 1, 4, 10 * NS_PER_S);
    for (uint32_t i = 0; i < 100; i++) {
        uint64_t start = sim_now(w.sim);
        start_send(&w, &p, 0, &send, "x", 1);
        start_recv(&w, &p, 1, &recv, &x, 1);
        assert_int_equal(wait_for(&w, &recv), 1);
        wait_for(&w, &send);
        slow += sim_now(w.sim) - start > 100 * NS_PER_MS;
    }
    assert_true(slow > 10 && slow < 50);
    world_deinit(&w);
}

/* ---- Processes and clocks ---- */

struct alarm {
    struct loop_timer timer; /* first: fire() finds the rest */
    struct sim *sim;
    uint64_t fired_at;
};

static void on_alarm(struct loop_timer *t)
{
    struct alarm *a = (struct alarm *)t;

    a->fired_at = sim_now(a->sim);
}

static void a_paused_process_runs_late_and_a_dead_one_never(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 1);
    struct alarm a[HOSTS];
    for (uint32_t i = 0; i < HOSTS; i++) {
        a[i] = (struct alarm){.sim = w.sim};
        loop_timer_init(&a[i].timer, on_alarm);
        loop_timer_start(w.loop[i], &a[i].timer, loop_now(w.loop[i]) + NS_PER_S);
    }
    sim_host_pause(w.host[0], 7 * NS_PER_S);
    sim_host_crash(w.host[1], false);
    world_rest(&w, 6 * NS_PER_S);
    assert_int_equal(a[0].fired_at, 0);
    world_rest(&w, 6 * NS_PER_S);
    assert_true(a[0].fired_at >= 7 * NS_PER_S && a[0].fired_at < 8 * NS_PER_S);
    assert_int_equal(a[1].fired_at, 0);
    world_deinit(&w);
}

static void clocks_run_at_their_own_rates_within_one_percent(void **state)
{
    uint64_t fastest = 0, slowest = UINT64_MAX;

    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct world w;
        world_init(&w, seed);
        struct alarm a = {.sim = w.sim};
        uint64_t start = loop_now(w.loop[0]);
        loop_timer_init(&a.timer, on_alarm);
        loop_timer_start(w.loop[0], &a.timer, start + 500 * NS_PER_S);
        world_rest(&w, 1000 * NS_PER_S);
        uint64_t passed = loop_now(w.loop[0]) - start;
        assert_true(passed > 990 * NS_PER_S && passed < 1010 * NS_PER_S);
        assert_true(a.fired_at > 495 * NS_PER_S && a.fired_at < 506 * NS_PER_S);
        fastest = passed > fastest ? passed : fastest;
        slowest = passed < slowest ? passed : slowest;
        world_deinit(&w);
    }
    assert_true(fastest > 1005 * NS_PER_S && slowest < 995 * NS_PER_S);
}

static void a_stopped_loop_turns_no_more(void **state)
{
    struct world w;
    struct call c;

    (void)state;
    world_init(&w, 1);
    struct loop_file *f = open_file(&w, "f");
    loop_flush(w.loop[0], &call_init(&c)->op, f);
    loop_stop(w.loop[0]);
    assert_true(sim_loop_is_stopped(w.loop[0]));
    assert_false(sim_loop_is_stopped(w.loop[1]));
    world_rest(&w, NS_PER_S);
    assert_int_equal(c.done_count, 0);
    world_deinit(&w);
}

/* ---- Determinism ---- */

/* A bit of everything; what comes out must depend on the seed alone. */
static uint64_t run_story(uint64_t seed)
{
    struct world w;
    struct pair p;
    struct call send, recv;
    uint8_t buf[1000];

    world_init(&w, seed);
    struct prng *r = sim_prng(w.sim);
    struct loop_file *f = open_named(&w, "f");
    pair_open(&w, &p);
    for (uint32_t i = 0; i < 50; i++) {
        write_page(&w, f, (char)('a' + prng_below(r, 26)), prng_below(r, 8));
        memset(buf, (int)i, sizeof(buf));
        start_send(&w, &p, 0, &send, buf, 1 + prng_below(r, sizeof(buf)));
        wait_for(&w, &send);
    }
    start_recv(&w, &p, 1, &recv, buf, sizeof(buf));
    wait_for(&w, &recv);
    world_restart(&w, 0, true);
    world_rest(&w, NS_PER_S);
    for (uint64_t page = 0; page < 8; page++) {
        uint8_t x = 0;
        sim_disk_peek(w.host[0], "f", page * PAGE + 1, &x, 1);
        sim_trace_note(w.sim, x);
    }
    uint64_t hash = sim_trace_hash(w.sim);
    world_deinit(&w);
    return hash;
}

static void the_same_seed_is_the_same_run_and_another_seed_another(void **state)
{
    uint64_t hashes[20];

    (void)state;
    for (uint64_t seed = 0; seed < COUNT_OF(hashes); seed++) {
        hashes[seed] = run_story(seed);
        void *disturbance = malloc(10000 + 777 * seed); /* other addresses, the same run */
        assert_int_equal(run_story(seed), hashes[seed]);
        free(disturbance);
        for (uint64_t other = 0; other < seed; other++)
            assert_true(hashes[other] != hashes[seed]);
    }
}

/* ---- What it catches ---- */

static void start_twice(struct world *w)
{
    static struct call c;
    struct loop_file *f = open_file(w, "f");

    loop_flush(w->loop[0], &call_init(&c)->op, f);
    loop_flush(w->loop[0], &c.op, f);
}

static void change_bytes_in_flight(struct world *w)
{
    static struct call c;
    static uint8_t buf[PAGE];
    struct loop_file *f = open_file(w, "f");

    loop_write(w->loop[0], &call_init(&c)->op, f, buf, sizeof(buf), 0);
    buf[17] = 1;
    world_rest(w, NS_PER_S);
}

static void close_under_an_op(struct world *w)
{
    static struct call c;
    struct loop_file *f = open_file(w, "f");

    loop_flush(w->loop[0], &call_init(&c)->op, f);
    loop_file_close(f);
}

static void receive_twice_at_once(struct world *w)
{
    static struct call c, d;
    static uint8_t buf[8];
    struct pair p;

    pair_open(w, &p);
    start_recv(w, &p, 0, &c, buf, 4);
    start_recv(w, &p, 0, &d, buf + 4, 4);
}

static void write_crooked_to_a_direct_file(struct world *w)
{
    static struct call c;
    static _Alignas(PAGE) uint8_t buf[PAGE];
    struct loop_file *f;

    loop_file_open(w->loop[0], "f", LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_DIRECT, &f);
    loop_write(w->loop[0], &call_init(&c)->op, f, buf, SECTOR, 0);
}

static void mistakes_of_the_caller_end_the_program(void **state)
{
    static void (*const mistakes[])(struct world * w) = {start_twice, change_bytes_in_flight,
                                                         close_under_an_op, receive_twice_at_once,
                                                         write_crooked_to_a_direct_file};

    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(mistakes); i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            struct world w;
            signal(SIGABRT, SIG_DFL);
            if (freopen("/dev/null", "w", stderr) == NULL)
                _exit(1);
            world_init(&w, 1);
            mistakes[i](&w);
            _exit(0);
        }
        assert_true(child > 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flushed_data_survives_power_loss),
        cmocka_unit_test(power_loss_keeps_of_an_unflushed_page_the_old_the_new_or_a_mix),
        cmocka_unit_test(power_loss_may_keep_any_unflushed_version),
        cmocka_unit_test(a_durable_write_survives_power_loss_and_saves_no_other),
        cmocka_unit_test(a_device_that_writes_through_keeps_what_is_done),
        cmocka_unit_test(a_discard_leaves_zeros_or_garbage_or_what_was),
        cmocka_unit_test(a_discard_may_be_undone_by_power_loss_until_it_is_flushed),
        cmocka_unit_test(a_crash_under_a_discard_leaves_any_part_of_it),
        cmocka_unit_test(a_flush_does_not_cover_a_write_that_was_not_done_before_it),
        cmocka_unit_test(a_crash_of_the_process_keeps_done_writes_and_any_part_of_others),
        cmocka_unit_test(what_survived_a_crash_is_still_lost_by_power_loss_until_flushed),
        cmocka_unit_test(after_a_failed_flush_no_later_one_saves_the_pages),
        cmocka_unit_test(the_nth_call_fails_where_the_prefix_says_so),
        cmocka_unit_test(a_sparse_file_costs_what_was_written_and_then_there_is_no_space),
        cmocka_unit_test(what_was_discarded_of_a_file_has_no_room_any_more),
        cmocka_unit_test(a_flipped_bit_is_read_back),
        cmocka_unit_test(lies_report_success_once_and_do_something_else),
        cmocka_unit_test(name_changes_not_synced_are_kept_in_order_up_to_some_point),
        cmocka_unit_test(a_synced_folder_does_not_save_its_own_name),
        cmocka_unit_test(a_crash_releases_locks),
        cmocka_unit_test(a_slow_disk_takes_its_time),
        cmocka_unit_test(a_partition_stalls_bytes_and_healing_delivers_them_in_order),
        cmocka_unit_test(a_connect_hangs_while_cut_off_and_works_once_healed),
        cmocka_unit_test(a_dead_process_refuses_connections_and_resets_the_ones_it_had),
        cmocka_unit_test(behind_a_cut_nobody_hears_of_a_crash),
        cmocka_unit_test(bytes_under_way_when_a_process_dies_may_be_lost_but_only_the_last),
        cmocka_unit_test(a_peer_that_does_not_read_stops_the_sender),
        cmocka_unit_test(a_slow_network_delays_some_sends),
        cmocka_unit_test(a_paused_process_runs_late_and_a_dead_one_never),
        cmocka_unit_test(clocks_run_at_their_own_rates_within_one_percent),
        cmocka_unit_test(a_stopped_loop_turns_no_more),
        cmocka_unit_test(the_same_seed_is_the_same_run_and_another_seed_another),
        cmocka_unit_test(mistakes_of_the_caller_end_the_program),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
