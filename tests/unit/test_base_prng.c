#include "base/prng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* The first outputs of splitmix64 from seed 1234567 are published with the algorithm. */
static void mixing_is_the_finaliser_of_splitmix64(void **state)
{
    uint64_t x = 1234567;

    (void)state;
    assert_true(mix64(x + 0x9e3779b97f4a7c15ull) == 6457827717110365317ull);
    assert_true(mix64(x + 2 * 0x9e3779b97f4a7c15ull) == 3203168211198807973ull);
}

static void a_seed_gives_one_sequence(void **state)
{
    struct prng a, b, c;
    uint32_t same = 0;

    (void)state;
    prng_init(&a, 7);
    prng_init(&b, 7);
    prng_init(&c, 8);
    for (uint32_t i = 0; i < 1000; i++) {
        uint64_t x = prng_next(&a);
        assert_true(x == prng_next(&b));
        same += x == prng_next(&c);
    }
    assert_int_equal(same, 0);
}

static void numbers_below_a_limit_are_below_it_and_even(void **state)
{
    struct prng p;
    uint32_t counts[10] = {0}, heads = 0;

    (void)state;
    prng_init(&p, 9);
    for (uint32_t i = 0; i < 100000; i++) {
        counts[prng_below(&p, 10)]++;
        heads += prng_chance(&p, 1, 4);
    }
    for (uint32_t i = 0; i < 10; i++)
        assert_in_range(counts[i], 9500, 10500);
    assert_in_range(heads, 24000, 26000);
    for (uint32_t i = 0; i < 100; i++) {
        assert_true(prng_below(&p, 1) == 0);
        assert_true(prng_below(&p, (1ull << 63) + 1) <= 1ull << 63);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixing_is_the_finaliser_of_splitmix64),
        cmocka_unit_test(a_seed_gives_one_sequence),
        cmocka_unit_test(numbers_below_a_limit_are_below_it_and_even),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
