/*
 * Every short sequence of operations, every moment at which the power may go, and every subset of
 * what is not flushed then, whole or torn: each is a device that a start must make sense of.
 *
 * A sequence is run once. Before each write and flush it makes, an image of its device is taken; on
 * another host each choice of what becomes of the open pages is started from and compared. Some of
 * these starts are looked at in the same way while they are at it: the power may go twice.
 *
 * By default a sample. SWEEP=full: all sequences, and all choices up to 2^12.
 */

#include "test_store_ledger.h"

#include <time.h>

enum { SEQUENCE_MAX = 3, CHOICES_MAX = 1 << 12, CHOICES_SAMPLE = 16, PAGES_MAX = 1024 };

static const struct letter {
    const char *name;
    struct step step;
} alphabet[] = {
    {"write", {.kind = STEP_WRITE, .first = 1, .count = 1}},
    {"write over", {.kind = STEP_WRITE, .first = 0, .count = 2}},
    {"write another", {.kind = STEP_WRITE, .item = 1, .first = 1, .count = 1}},
    {"zero", {.kind = STEP_ZERO, .first = 1, .count = 1}},
    {"delete", {.kind = STEP_DELETE}},
    {"replace", {.kind = STEP_REPLACE, .present = 5, .list = 2, .lower = true}},
    {"long list", {.kind = STEP_REPLACE, .item = 2, .present = 1, .list = 700}},
    {"dedup", {.kind = STEP_DEDUP, .list = 3}},
    {"prepare", {.kind = STEP_PREPARE, .first = 1, .count = 2}},
    {"prepare again", {.kind = STEP_PREPARE, .first = 2, .count = 1, .lower = true}},
    {"prepare a deletion", {.kind = STEP_PREPARE, .deletes = true}},
    {"commit", {.kind = STEP_COMMIT}},
    {"roll back", {.kind = STEP_ROLLBACK}},
    {"purge", {.kind = STEP_PURGE}},
    {"restart", {.kind = STEP_RESTART}},
};

enum { LETTERS = COUNT_OF(alphabet) };

/* What the sequences begin with: a device, and what is promised of it. */
struct base {
    const char *name;
    struct sim_image *image;
    struct ledger ledger;
};

struct crash {
    struct world w;
    struct ledger l;
    struct probe probe, second;
    struct prng p;
    struct sim_image *base;
    bool full;
    uint32_t choices_max;
    uint64_t sequences, copies, images, states, seconds, sampled;
    uint32_t pages_max;
    /* While the probe's start is watched. */
    const struct ledger *known;
    bool broken;
};

/* ---- Choices ---- */

/* Number `n` of the choices for all open pages: of each page one of its contents, or torn. */
static void choice_decode(struct crash *c, const struct sim_image *i, uint64_t n,
                          struct sim_page_choice *choices)
{
    for (uint32_t k = 0; k < sim_image_open_pages(i); k++) {
        uint32_t contents = sim_image_contents(i, k);
        uint32_t how = (uint32_t)(n % (contents + 1));
        n /= contents + 1;
        if (how == contents)
            choice_torn(&choices[k], &c->p, 0, contents);
        else
            memset(&choices[k], (int)how, sizeof(choices[k]));
    }
}

/* How many there are; more than CHOICES_MAX: that. */
static uint64_t choices_count(const struct sim_image *i)
{
    uint64_t count = 1;

    for (uint32_t k = 0; k < sim_image_open_pages(i) && count <= CHOICES_MAX; k++)
        count *= sim_image_contents(i, k) + 1;
    return count;
}

static void choice_random(struct crash *c, const struct sim_image *i,
                          struct sim_page_choice *choices)
{
    for (uint32_t k = 0; k < sim_image_open_pages(i); k++) {
        uint32_t contents = sim_image_contents(i, k);
        uint32_t how = (uint32_t)prng_below(&c->p, contents + 1);
        if (how == contents)
            choice_torn(&choices[k], &c->p, 0, contents);
        else
            memset(&choices[k], (int)how, sizeof(choices[k]));
    }
}

/* ---- The power goes while a start is at it ---- */

static void crash_on_start(void *arg, enum sim_disk_op op)
{
    struct crash *c = arg;
    struct sim_page_choice choices[PAGES_MAX];

    if (op == SIM_DISK_READ || c->broken || prng_chance(&c->p, 1, 2))
        return;
    struct sim_image *i = sim_image_take(c->probe.w.host, WORLD_PATH);
    assert_true(sim_image_open_pages(i) <= PAGES_MAX);
    choice_random(c, i, choices);
    c->seconds++;
    if (!probe_look(&c->second, i, choices, true, c->known)) {
        c->broken = true;
        ledger_fault(&c->l, "power loss in a start after power loss: %.120s",
                     c->second.ledger.error);
    }
    sim_image_free(i);
}

/* ---- One state ---- */

static void crash_look(struct crash *c, const struct sim_image *i,
                       const struct sim_page_choice *choices)
{
    bool watches = c->states % 16 == 0;

    c->states++;
    c->known = &c->l;
    if (watches)
        sim_disk_watch(c->probe.w.host, crash_on_start, c);
    bool right = probe_look(&c->probe, i, choices, true, &c->l);
    sim_disk_watch(c->probe.w.host, NULL, NULL);
    if (right && c->states % 16 == 8)
        right = probe_look_again(&c->probe, true);
    if (!right && !c->broken) {
        c->broken = true;
        ledger_fault(&c->l, "%.160s", c->probe.ledger.error);
    }
}

static void crash_on_call(void *arg, enum sim_disk_op op)
{
    struct crash *c = arg;
    struct sim_page_choice choices[PAGES_MAX];

    if (op == SIM_DISK_READ || c->broken)
        return;
    struct sim_image *i = sim_image_take(c->w.host, WORLD_PATH);
    uint32_t pages = sim_image_open_pages(i);
    uint64_t count = choices_count(i);
    c->images++;
    c->pages_max = pages > c->pages_max ? pages : c->pages_max;
    assert_true(pages <= PAGES_MAX);
    bool samples = count > c->choices_max;
    c->sampled += samples;
    for (uint64_t n = 0; n < (samples ? c->choices_max : count) && !c->broken; n++) {
        if (samples)
            choice_random(c, i, choices);
        else
            choice_decode(c, i, n, choices);
        crash_look(c, i, choices);
    }
    sim_image_free(i);
}

/* ---- Sequences ---- */

/*
 * One after the other: only the last one's crashes are looked at, the others are those of shorter
 * sequences. Or together: all are in flight at once, and a restart cuts them off.
 */
static void sequence_run(struct crash *c, const uint32_t *letters, uint32_t len, bool together)
{
    static const uint64_t pauses[] = {0, 60, 300, 700}; /* us */
    struct ledger *l = &c->l;

    for (uint32_t k = 0; k < len && l->error[0] == 0; k++) {
        if (together ? k == 0 : k == len - 1)
            sim_disk_watch(c->w.host, crash_on_call, c);
        if (together && k > 0) /* in one batch of the log, in several, or after the others */
            world_run(&c->w, pauses[prng_below(&c->p, COUNT_OF(pauses))] * 1000);
        ledger_step(l, &alphabet[letters[k]].step);
        if (!together)
            ledger_wait(l);
    }
    if (l->error[0] == 0 && ledger_wait(l))
        world_settle(&c->w);
    sim_disk_watch(c->w.host, NULL, NULL);
    if (c->w.store != NULL)
        c->copies += world_status(&c->w).cleaned_total;
    c->sequences++;
}

static void sequence(struct crash *c, const struct base *base, const uint32_t *letters,
                     uint32_t len, bool together)
{
    struct ledger *l = &c->l;

    c->broken = false;
    world_crash(&c->w, false);
    ledger_forget_jobs(l);
    ledger_copy(l, &base->ledger);
    assert_int_equal(sim_image_put(c->w.host, WORLD_PATH, base->image, NULL, true), 0);
    c->w.discards = c->sequences % 4 == 0; /* many pages are open then, of slots that are free */
    assert_int_equal(world_open(&c->w), 0);
    sequence_run(c, letters, len, together);
    if (l->error[0] != 0)
        fail_msg("%s store, %s%s%s%s%s%s: %s", base->name, together ? "together: " : "",
                 alphabet[letters[0]].name, len > 1 ? ", " : "",
                 len > 1 ? alphabet[letters[1]].name : "", len > 2 ? ", " : "",
                 len > 2 ? alphabet[letters[2]].name : "", l->error);
}

/* All of a length, or every `step`-th, from a place of its own. */
static void sequences(struct crash *c, const struct base *base, uint32_t len, bool together,
                      uint64_t step)
{
    uint64_t count = 1;

    for (uint32_t k = 0; k < len; k++)
        count *= LETTERS;
    for (uint64_t n = prng_below(&c->p, step); n < count;
         n += 1 + prng_below(&c->p, 2 * step - 1)) {
        uint32_t letters[SEQUENCE_MAX] = {0};
        uint64_t rest = n;
        for (uint32_t k = 0; k < len; k++, rest /= LETTERS)
            letters[k] = (uint32_t)(rest % LETTERS);
        sequence(c, base, letters, len, together);
    }
}

/* ---- Bases ---- */

/* Three objects with something in them, and the second one written to so many times, a block of
 * the ring each. Returns how many of them it took until cleaning copied something. */
static uint32_t base_make(struct base *base, const char *name, uint32_t writes)
{
    struct world w;
    struct ledger *l = &base->ledger;
    uint32_t cleans_after = 0;

    *base = (struct base){.name = name};
    world_create(&w, &(struct sim_config){.seed = 90});
    world_format_store(&w);
    world_shrink_ring(&w, RING_BLOCKS_MIN);
    ledger_init(l, &w);
    assert_int_equal(world_open(&w), 0);
    for (uint32_t item = 0; item < 3; item++)
        ledger_step(l, &(struct step){.kind = STEP_REPLACE, .item = item, .present = 7, .list = 2});
    ledger_wait(l);
    for (uint32_t i = 0; i < writes; i++) {
        ledger_step(l, &(struct step){.kind = STEP_WRITE, .item = 1, .count = 1, .quiet = true});
        ledger_wait(l);
        if (cleans_after == 0 && world_status(&w).cleaned_total > 0)
            cleans_after = i + 1;
    }
    world_settle(&w);
    assert_string_equal(l->error, "");
    base->image = sim_image_take(w.host, WORLD_PATH);
    ledger_settle(l);
    world_deinit(&w);
    return cleans_after;
}

static void base_deinit(struct base *base)
{
    sim_image_free(base->image);
    ledger_deinit(&base->ledger);
}

enum base_kind { BASE_FRESH, BASE_WRAPS, BASE_CLEANS_SOON, BASE_CLEANS, BASES };

/* Fresh; or a few blocks before the ring's end; or so full that cleaning will copy for what comes:
 * at once if that is much. */
static void base_make_kind(struct base *base, enum base_kind kind)
{
    static const char *const names[BASES] = {"fresh", "wrapping", "soon cleaning", "cleaning"};
    uint32_t writes = kind == BASE_FRESH ? 0 : RING_BLOCKS_MIN - 6;

    if (kind > BASE_WRAPS) {
        writes = base_make(base, names[kind], 4 * RING_BLOCKS_MIN);
        assert_true(writes > 50);
        writes -= kind == BASE_CLEANS ? 2 : 12;
        base_deinit(base);
    }
    base_make(base, names[kind], writes);
}

/* ---- The test ---- */

static void whatever_a_crash_leaves_is_a_state_at_or_after_the_last_answer(void **state)
{
    const char *sweep = getenv("SWEEP"), *seed = getenv("SEED");
    struct crash *c = mem_zalloc(sizeof(*c));
    time_t begin = time(NULL);
    (void)state;

    c->full = sweep != NULL && strcmp(sweep, "full") == 0;
    c->choices_max = c->full ? CHOICES_MAX : CHOICES_SAMPLE;
    prng_init(&c->p, seed == NULL ? 1 : strtoull(seed, NULL, 10));
    world_create(&c->w, &(struct sim_config){.seed = 91});
    world_format_store(&c->w);
    ledger_init(&c->l, &c->w);
    probe_init(&c->probe, 92);
    probe_init(&c->second, 93);
    for (uint32_t kind = 0; kind < BASES; kind++) {
        struct base base;
        base_make_kind(&base, kind);
        for (uint32_t len = 1; len <= SEQUENCE_MAX; len++) {
            uint64_t step = c->full || len == 1 ? 1 : len == 2 ? 8 : 150;
            sequences(c, &base, len, false, step);
            sequences(c, &base, len, true, step);
        }
        base_deinit(&base);
    }
    printf("%llu sequences, %llu copies by cleaning, %llu moments (%llu sampled), %llu states and "
           "%llu of a start cut off, "
           "up to %u open pages, %lld s\n",
           (unsigned long long)c->sequences, (unsigned long long)c->copies,
           (unsigned long long)c->images, (unsigned long long)c->sampled,
           (unsigned long long)c->states, (unsigned long long)c->seconds, c->pages_max,
           (long long)(time(NULL) - begin));
    assert_true(c->states > 10000 && c->seconds > 1000 && c->copies > 20);
    world_deinit(&c->w);
    ledger_deinit(&c->l);
    probe_deinit(&c->probe);
    probe_deinit(&c->second);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_a_crash_leaves_is_a_state_at_or_after_the_last_answer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
