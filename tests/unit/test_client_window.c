/* The window of a client's numbers (R10). */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "base/check.h"
#include "base/prng.h"
#include "client/window.h"

static void floor_is_the_lowest_number_without_an_answer(void **state)
{
    (void)state;
    struct seq_window w;

    seq_window_init(&w);
    assert_int_equal(seq_window_take(&w), 1);
    assert_int_equal(seq_window_take(&w), 2);
    assert_int_equal(seq_window_take(&w), 3);
    seq_window_answer(&w, 2);
    assert_int_equal(w.floor, 1);
    seq_window_answer(&w, 1);
    assert_int_equal(w.floor, 3);
    seq_window_answer(&w, 3);
    assert_int_equal(w.floor, 4);
}

static void one_write_without_an_answer_stops_the_next_window(void **state)
{
    (void)state;
    struct seq_window w;

    seq_window_init(&w);
    assert_int_equal(seq_window_take(&w), 1);
    for (uint64_t seq = 2; seq <= WIRE_OSD_WINDOW; seq++) {
        assert_int_equal(seq_window_take(&w), seq);
        seq_window_answer(&w, seq);
    }
    assert_true(seq_window_is_full(&w));
    assert_int_equal(seq_window_take(&w), 0);
    seq_window_answer(&w, 1);
    assert_int_equal(w.floor, WIRE_OSD_WINDOW + 1);
    assert_int_equal(seq_window_take(&w), WIRE_OSD_WINDOW + 1);
}

static void any_order_of_answers_keeps_floor_and_window(void **state)
{
    (void)state;
    static uint64_t open[WIRE_OSD_WINDOW];
    struct prng prng;
    struct seq_window w;
    uint32_t count = 0;

    prng_init(&prng, 1);
    seq_window_init(&w);
    for (uint32_t step = 0; step < 200000; step++) {
        if (prng_chance(&prng, 1, 2)) {
            uint64_t seq = seq_window_take(&w);
            if (seq != 0)
                open[count++] = seq;
        } else if (count > 0) {
            uint64_t i = prng_below(&prng, prng_chance(&prng, 1, 4) ? 1 : count);
            seq_window_answer(&w, open[i]);
            open[i] = open[--count];
        }
        uint64_t lowest = w.next;
        for (uint32_t i = 0; i < count && step % 64 == 0; i++)
            lowest = open[i] < lowest ? open[i] : lowest;
        if (step % 64 == 0)
            assert_int_equal(w.floor, lowest);
        assert_true(w.next - w.floor <= WIRE_OSD_WINDOW);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floor_is_the_lowest_number_without_an_answer),
        cmocka_unit_test(one_write_without_an_answer_stops_the_next_window),
        cmocka_unit_test(any_order_of_answers_keeps_floor_and_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
