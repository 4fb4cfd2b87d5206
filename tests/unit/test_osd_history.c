/*
 * The simulator's judge, judged: its verdict on random histories of one register against trying
 * every order, as docs/design/models/lin.py does.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/prng.h"
#include "tests/sim/history.c"

enum { OPS_MAX = 8, HISTORIES = 40000 };

/* Can the operations that are not done (bits) still be put in an order, with `value` current? */
static bool brute(const struct history *h, uint32_t done, uint64_t value)
{
    uint64_t first_answer = HISTORY_NEVER;
    bool all = true;

    for (size_t i = 0; i < h->count; i++) {
        if ((done >> i & 1) != 0)
            continue;
        all = all && h->ops[i].answer_ns == HISTORY_NEVER;
        if (h->ops[i].answer_ns < first_answer)
            first_answer = h->ops[i].answer_ns;
    }
    if (all)
        return true;
    for (size_t i = 0; i < h->count; i++) {
        const struct history_op *op = &h->ops[i];
        if ((done >> i & 1) != 0 || op->call_ns > first_answer)
            continue;
        if (!op->write && (op->answer_ns == HISTORY_NEVER || op->value != value))
            continue;
        if (brute(h, done | 1u << i, op->write ? op->value : value))
            return true;
    }
    return false;
}

/* Two different moments for each operation, none of them taken before. */
static void random_times(struct prng *p, uint64_t *taken, struct history_op *op)
{
    uint64_t t[2];

    for (int i = 0; i < 2; i++) {
        do
            t[i] = 1 + prng_below(p, 60);
        while ((*taken >> t[i] & 1) != 0);
        *taken |= 1ull << t[i];
    }
    op->call_ns = t[0] < t[1] ? t[0] : t[1];
    op->answer_ns = t[0] < t[1] ? t[1] : t[0];
}

static void random_history(struct prng *p, struct history *h)
{
    uint64_t count = 2 + prng_below(p, OPS_MAX - 1), writes = 0, taken = 0;

    for (uint64_t i = 0; i < count; i++) {
        struct history_op op = {.write = prng_chance(p, 1, 2)};
        random_times(p, &taken, &op);
        if (op.write) {
            op.value = ++writes;
            if (prng_chance(p, 1, 4))
                op.answer_ns = HISTORY_NEVER;
        }
        history_add(h, &op);
    }
    for (size_t i = 0; i < h->count; i++) {
        if (!h->ops[i].write)
            h->ops[i].value = prng_below(p, writes + 1);
    }
}

static void the_verdict_is_that_of_trying_every_order(void **state)
{
    uint32_t verdicts[2] = {0, 0};
    struct prng p;

    (void)state;
    prng_init(&p, 1);
    for (uint32_t i = 0; i < HISTORIES; i++) {
        struct history h;
        uint64_t a, b;
        history_init(&h);
        random_history(&p, &h);
        bool possible = brute(&h, 0, 0);
        if ((history_check(&h, &a, &b) == NULL) != possible)
            fail_msg("history %u: %s", i, possible ? "accused wrongly" : "not seen through");
        verdicts[possible]++;
        history_deinit(&h);
    }
    assert_true(verdicts[0] > HISTORIES / 10);
    assert_true(verdicts[1] > HISTORIES / 10);
}

static void add(struct history *h, bool write, uint64_t value, uint64_t call, uint64_t answer)
{
    struct history_op op = {write, value, call, answer};

    history_add(h, &op);
}

static void an_acknowledged_write_that_nobody_sees_is_lost(void **state)
{
    struct history h;
    uint64_t a, b;

    (void)state;
    history_init(&h);
    add(&h, true, 1, 1, 2);
    add(&h, true, 2, 3, 4);
    assert_null(history_check(&h, &a, &b));
    add(&h, false, 1, 5, 6);
    assert_non_null(history_check(&h, &a, &b));
    history_deinit(&h);
}

static void a_write_of_unknown_fate_may_show_at_any_time_or_never(void **state)
{
    struct history h;
    uint64_t a, b;

    (void)state;
    history_init(&h);
    add(&h, true, 1, 1, HISTORY_NEVER);
    add(&h, false, 0, 2, 3);
    assert_null(history_check(&h, &a, &b));
    add(&h, false, 1, 8, 9);
    assert_null(history_check(&h, &a, &b));
    add(&h, false, 0, 10, 11); /* but not come and go */
    assert_non_null(history_check(&h, &a, &b));
    history_deinit(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_verdict_is_that_of_trying_every_order),
        cmocka_unit_test(an_acknowledged_write_that_nobody_sees_is_lost),
        cmocka_unit_test(a_write_of_unknown_fate_may_show_at_any_time_or_never),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
