/*
 * A store that leaves out one rule is caught: by the random lives, by a test here that is about the
 * rule, or by a test program beside this one, which must then fail. What caught it, and how soon,
 * is printed.
 *
 * ONLY=NAME: one of them. VERBOSE=1: with what the store says of it.
 */

#include "test_store_lives.h"

#include <libgen.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SEEDS = 500, NOTE_MAX = 160 };

/* ---- Tests of single rules, for what no life comes upon ---- */

/* S7: what a full record names and no waiting write has touched is settled: what rots there does
 * not take the record, and the writes in it, along. */
static void rot_in_what_is_settled_does_not_drop_the_record(void **state)
{
    struct world w;
    uint64_t value;
    (void)state;

    world_init(&w, 1);
    assert_int_equal(world_write(&w, 5, 1, 0, 2, 100), 0);
    world_settle(&w);
    struct object *o = object_find(w.store, &(struct store_id){1, 5});
    struct layout l;
    object_read(o, &l);
    uint64_t slot = layout_slot(&l, 0);
    o->full_needed = true;
    assert_int_equal(world_write(&w, 5, 2, 1, 1, 200), 0);
    assert_true(w.store->mark_durable < w.store->seq_last);
    assert_int_equal(sim_disk_flip(w.host, WORLD_PATH, slot * STORE_BLOCK * 8), 0);
    assert_int_equal(world_restart(&w, true), 0);
    assert_int_equal(world_read(&w, 5, 0, &value), -EBADMSG);
    assert_int_equal(world_read(&w, 5, 1, &value), 0);
    assert_int_equal(value, 200);
    world_deinit(&w);
}

/* S6: it may come to nothing, with the power; then the full record before it is what there is. */
static void a_full_record_in_flight_does_not_move_the_tail(void **state)
{
    (void)state;

    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct world w;
        struct store_object o;
        world_init(&w, seed);
        assert_int_equal(world_write(&w, 5, 1, 0, 2, 100), 0);
        world_settle(&w);
        object_find(w.store, &(struct store_id){1, 5})->full_needed = true;
        struct op *a = op_new(&w), *b = op_new(&w);
        op_prepare_range(a, STORE_WRITE, 5, 2, 0, 2, 200);
        store_write_start(w.store, &a->w);
        world_run(&w, 1000); /* its block is under way, and the next one follows at once */
        op_prepare_range(b, STORE_WRITE, 7, 1, 0, 1, 300);
        store_write_start(w.store, &b->w);
        world_run(&w, 50 * 1000 + seed % 10 * 50 * 1000);
        assert_int_equal(world_restart(&w, true), 0);
        assert_true(store_lookup(w.store, &(struct store_id){1, 5}, &o));
        assert_true(o.version == 2 || (o.version == 1 && !a->done));
        op_free(a);
        op_free(b);
        world_deinit(&w);
    }
}

/* ---- The table ---- */

static const struct mutant {
    enum store_mutant mutant;
    const char *name;
    const char *rule;
    const char *program; /* that catches it; NULL: the lives, or `test` */
    void (*test)(void **state);
} mutants[] = {
#define MUTANT(name, rule)                           \
    {                                                \
        STORE_MUTANT_##name, #name, rule, NULL, NULL \
    }
#define MUTANT_BY(name, rule, program)                  \
    {                                                   \
        STORE_MUTANT_##name, #name, rule, program, NULL \
    }
#define MUTANT_HERE(name, rule, test)                \
    {                                                \
        STORE_MUTANT_##name, #name, rule, NULL, test \
    }
    MUTANT(REUSE_NOW, "S1"),
    MUTANT(REUSE_COMPOSED, "S1"),
    MUTANT(REUSE_ACKED, "S1"),
    MUTANT(REUSE_UNSAID, "S1"),
    MUTANT_BY(REUSE_READ, "S1", "test_store_basic"),
    MUTANT(DISCARD_EARLY, "S1"),
    MUTANT(TRUST_ALL, "S2"),
    MUTANT(CHECK_ALL, "S2"),
    MUTANT(MARK_MAX, "S2"),
    MUTANT_BY(NO_DROP_CHAIN, "S2", "test_store_fault"),
    MUTANT_HERE(UNSETTLED, "S2, S7", rot_in_what_is_settled_does_not_drop_the_record),
    MUTANT(SETTLED_ALL, "S2, S7"),
    MUTANT(NO_START_BLOCK, "S3"),
    MUTANT(NO_DROPS, "S3"),
    MUTANT_BY(RAISE_EARLY, "S3", "test_store_fault"),
    MUTANT_BY(REVIVE, "S3", "test_store_fault"),
    MUTANT(NO_START_FLUSH, "S3"),
    MUTANT_BY(SUPER_AT_ONCE, "S12", "test_store_crash"),
    MUTANT(ACK_EARLY, "S4"),
    MUTANT(ACK_OUT_OF_TURN, "S4"),
    MUTANT(NO_CHAIN, "S5"),
    MUTANT(END_HIGHEST, "S5"),
    MUTANT_BY(NO_DURABLE, "S12", "test_store_fault"),
    MUTANT_HERE(TAIL_EARLY, "S6", a_full_record_in_flight_does_not_move_the_tail),
    MUTANT_HERE(FULL_IN_FLIGHT, "S6", a_full_record_in_flight_does_not_move_the_tail),
    MUTANT_BY(RING_REUSE, "S6", "test_store_basic"),
    MUTANT(LOSE_DEDUPS, "S8"),
    MUTANT(LOSE_PREPARED, "S8"),
    MUTANT(LOSE_TOMBSTONE, "S8"),
    MUTANT_BY(TRIM_UNSAID, "S8", "test_store_basic"),
    MUTANT(REWRITE, "S9"),
    MUTANT(NO_FLUSH, "S10"),
    MUTANT(FLUSH_RACE, "S10"),
    MUTANT(NO_EMPTY, "S11"),
    MUTANT(NO_IDLE, "S11, S12"),
    MUTANT(OVERTAKE, "order"),
    MUTANT_BY(DEDUPS_GROW, "limit", "test_store_basic"),
    MUTANT_BY(NO_CRC, "read", "test_store_basic"),
    MUTANT(READ_AHEAD, "read"),
    MUTANT(WRONG_WRAP, "ring"),
    MUTANT(SLOTS_LEAK, "space"),
    MUTANT_BY(LIST_SHORT, "list", "test_store_basic"),
    MUTANT(PREPARE_FREES, "EC"),
    MUTANT(COMMIT_UNSAID, "EC"),
    MUTANT(ROLLBACK_KEEPS, "EC, R10"),
};

static_assert(COUNT_OF(mutants) == STORE_MUTANT_COUNT, "each of them");

static char program_path[4096];

/* ---- In a process of its own, which may also die of a check ---- */

static void note(int to, const char *text)
{
    ssize_t written = write(to, text, strlen(text));

    _exit(written < 0 ? 2 : 1);
}

static void child_lives(uint64_t bits, int to)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        char text[NOTE_MAX];
        struct life l;
        /* Last words of who dies of a check. */
        snprintf(text, sizeof(text), "seed %llu", (unsigned long long)seed);
        if (pwrite(to, text, strlen(text), 0) < 0)
            _exit(2);
        lives(&l, seed, bits);
        if (l.error[0] == 0)
            continue;
        snprintf(text, sizeof(text), "seed %llu: %.120s", (unsigned long long)seed, l.error);
        lseek(to, 0, SEEK_SET);
        note(to, text);
    }
    _exit(0);
}

static void child_test(const struct mutant *m)
{
    const struct CMUnitTest tests[] = {{m->name, m->test, NULL, NULL, NULL}};

    _exit(cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1);
}

static void child_program(const struct mutant *m)
{
    char path[sizeof(program_path) + 64];

    snprintf(path, sizeof(path), "%s/%s", program_path, m->program);
    execl(path, m->program, (char *)NULL);
    _exit(3);
}

static void child_run(const struct mutant *m, int to)
{
    uint64_t bits = (uint64_t)1 << m->mutant;
    char text[32];

    if (getenv("VERBOSE") == NULL &&
        (freopen("/dev/null", "w", stderr) == NULL || freopen("/dev/null", "w", stdout) == NULL))
        _exit(3);
    snprintf(text, sizeof(text), "0x%llx", (unsigned long long)bits);
    setenv("STORE_MUTANTS", text, 1);
    if (m->program != NULL)
        child_program(m);
    if (m->test != NULL)
        child_test(m);
    child_lives(bits, to);
}

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool mutant_is_caught(const struct mutant *m)
{
    char text[NOTE_MAX] = "";
    double began = seconds();
    FILE *notes = tmpfile();
    int status = 0;

    assert_non_null(notes);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        child_run(m, fileno(notes));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(pread(fileno(notes), text, sizeof(text) - 1, 0) >= 0);
    fclose(notes);
    bool caught = WIFSIGNALED(status) || WEXITSTATUS(status) != 0;
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) != 3); /* could not even be run */
    printf("%-16s %-8s %5.1f s  %-22s %s%s\n", m->name, m->rule, seconds() - began,
           !caught              ? "SURVIVED"
           : m->program != NULL ? m->program
           : m->test != NULL    ? "a test here"
                                : "the lives",
           text, WIFSIGNALED(status) ? ": a check fails" : "");
    return caught;
}

static void a_store_that_leaves_out_one_rule_is_caught(void **state)
{
    const char *only = getenv("ONLY");
    uint32_t missed = 0;
    (void)state;

    for (uint32_t i = 0; i < COUNT_OF(mutants); i++) {
        if (only == NULL || strcmp(only, mutants[i].name) == 0)
            missed += !mutant_is_caught(&mutants[i]);
    }
    assert_int_equal(missed, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rot_in_what_is_settled_does_not_drop_the_record),
        cmocka_unit_test(a_full_record_in_flight_does_not_move_the_tail),
        cmocka_unit_test(a_store_that_leaves_out_one_rule_is_caught),
    };

    check(argc >= 1);
    snprintf(program_path, sizeof(program_path), "%s", dirname(argv[0]));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
