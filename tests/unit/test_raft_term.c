/* The term file: what was promised is never forgotten without notice. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>

#include "io/sim.h"
#include "raft/term.h"

struct world {
    struct sim *sim;
    struct sim_host *host;
    struct loop *loop;
    struct raft_term_file term;
};

static void world_init(struct world *w, uint64_t seed)
{
    *w = (struct world){0};
    w->sim = sim_create(&(struct sim_config){.seed = seed});
    w->host = sim_host_create(w->sim, 1);
    w->loop = sim_loop_create(w->host);
    assert_int_equal(loop_dir_create(w->loop, "raft"), 0);
    assert_int_equal(loop_dir_sync(w->loop, "."), 0);
}

static void world_restart(struct world *w, bool power_loss)
{
    sim_host_crash(w->host, power_loss);
    raft_term_close(&w->term);
    loop_destroy(w->loop);
    w->loop = sim_loop_create(w->host);
}

static void world_deinit(struct world *w)
{
    sim_host_crash(w->host, false);
    raft_term_close(&w->term);
    loop_destroy(w->loop);
    sim_destroy(w->sim);
}

static void a_new_term_clears_the_vote_and_both_survive_power_loss(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 1);
    assert_int_equal(raft_term_open(&w.term, w.loop, "raft"), -ENOENT);
    assert_int_equal(raft_term_create(w.loop, "raft", 1), 0);
    assert_int_equal(raft_term_create(w.loop, "raft", 1), -EEXIST);
    assert_int_equal(raft_term_open(&w.term, w.loop, "raft"), 0);
    assert_int_equal(raft_term_set(&w.term, 5), 0);
    assert_int_equal(raft_term_set_vote(&w.term, 3), 0);
    world_restart(&w, true);
    assert_int_equal(raft_term_open(&w.term, w.loop, "raft"), 0);
    assert_int_equal(w.term.term, 5);
    assert_int_equal(w.term.vote, 3);
    assert_int_equal(raft_term_set(&w.term, 6), 0);
    world_restart(&w, true);
    assert_int_equal(raft_term_open(&w.term, w.loop, "raft"), 0);
    assert_int_equal(w.term.term, 6);
    assert_int_equal(w.term.vote, 0);
    world_deinit(&w);
}

static void no_flipped_bit_brings_back_an_older_promise(void **state)
{
    (void)state;
    for (uint64_t bit = 0; bit < 8ull * 2 * RAFT_TERM_SLOT; bit += bit % 32768 < 512 ? 1 : 97) {
        struct world w;
        world_init(&w, 2);
        assert_int_equal(raft_term_create(w.loop, "raft", 1), 0);
        assert_int_equal(raft_term_open(&w.term, w.loop, "raft"), 0);
        assert_int_equal(raft_term_set(&w.term, 7), 0);
        assert_int_equal(raft_term_set_vote(&w.term, 2), 0);
        world_restart(&w, true);
        assert_int_equal(sim_disk_flip(w.host, "raft/term", bit), 0);
        assert_int_equal(raft_term_open(&w.term, w.loop, "raft"), 0);
        assert_int_equal(w.term.term, 7);
        assert_int_equal(w.term.vote, 2);

        /* The slot was written anew: a second flip, of the other one, does no harm either. */
        world_restart(&w, true);
        assert_int_equal(sim_disk_flip(w.host, "raft/term", bit ^ (8ull * RAFT_TERM_SLOT)), 0);
        assert_int_equal(raft_term_open(&w.term, w.loop, "raft"), 0);
        assert_int_equal(w.term.term, 7);
        world_deinit(&w);
    }
}

static void two_bad_slots_are_refused(void **state)
{
    struct world w;
    (void)state;

    world_init(&w, 3);
    assert_int_equal(raft_term_create(w.loop, "raft", 4), 0);
    sim_disk_flip(w.host, "raft/term", 8 * 16);
    sim_disk_flip(w.host, "raft/term", 8 * (RAFT_TERM_SLOT + 16));
    assert_int_equal(raft_term_open(&w.term, w.loop, "raft"), -EBADMSG);
    world_deinit(&w);
}

/* Power is lost after each number of disk calls, and calls fail at each number. */
static void what_was_answered_is_there_whenever_the_disk_fails(void **state)
{
    (void)state;
    for (uint64_t after = 0; after < 24; after++) {
        for (int op = SIM_DISK_WRITE; op <= SIM_DISK_FLUSH; op++) {
            struct world w;
            uint64_t acted = 1;
            world_init(&w, 100 + after);
            assert_int_equal(raft_term_create(w.loop, "raft", 1), 0);
            assert_int_equal(raft_term_open(&w.term, w.loop, "raft"), 0);
            sim_disk_fail(w.host, "raft/term", (enum sim_disk_op)op, after, EIO, false);
            for (uint64_t term = 2; term < 10 && raft_term_set(&w.term, term) == 0; term++)
                acted = term;
            world_restart(&w, true);
            sim_disk_clear_faults(w.host);
            assert_int_equal(raft_term_open(&w.term, w.loop, "raft"), 0);
            assert_in_range(w.term.term, acted, acted + 1);
            uint64_t seen = w.term.term;
            world_restart(&w, true);
            assert_int_equal(raft_term_open(&w.term, w.loop, "raft"), 0);
            assert_int_equal(w.term.term, seen);
            world_deinit(&w);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_term_clears_the_vote_and_both_survive_power_loss),
        cmocka_unit_test(no_flipped_bit_brings_back_an_older_promise),
        cmocka_unit_test(two_bad_slots_are_refused),
        cmocka_unit_test(what_was_answered_is_there_whenever_the_disk_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
