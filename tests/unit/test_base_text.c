#include "base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/check.h"

static void numbers_are_whole_decimal_texts_that_fit(void **state)
{
    static const char *const bad[] = {"",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "0x10",
                                      "1.5",
                                      "18446744073709551616",
                                      "99999999999999999999999"};
    uint64_t x = 5;

    (void)state;
    assert_true(str_to_u64("0", &x) && x == 0);
    assert_true(str_to_u64("18446744073709551615", &x) && x == UINT64_MAX);
    assert_true(str_to_u64("007", &x) && x == 7);
    for (uint32_t i = 0; i < COUNT_OF(bad); i++)
        assert_false(str_to_u64(bad[i], &x));
    assert_int_equal(x, 7);
}

static void sizes_are_bytes_or_powers_of_1024(void **state)
{
    static const char *const bad[] = {"",     "K",   "k",   "1kb",    "1KB",
                                      "1KiB", "1 G", "-1G", "16384P", "18446744073709551615K"};
    uint64_t x;

    (void)state;
    assert_true(str_to_size("512", &x) && x == 512);
    assert_true(str_to_size("4K", &x) && x == 4096);
    assert_true(str_to_size("4k", &x) && x == 4096);
    assert_true(str_to_size("3p", &x) && x == 3ull << 50);
    assert_true(str_to_size("3M", &x) && x == 3ull << 20);
    assert_true(str_to_size("8G", &x) && x == 8ull << 30);
    assert_true(str_to_size("2T", &x) && x == 2ull << 40);
    assert_true(str_to_size("16383P", &x) && x == 16383ull << 50);
    for (uint32_t i = 0; i < COUNT_OF(bad); i++)
        assert_false(str_to_size(bad[i], &x));
}

static void sizes_are_shown_in_the_unit_that_keeps_them_short(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0 B"},
        {1023, "1023 B"},
        {1024, "1.00 KiB"},
        {1536, "1.50 KiB"},
        {1048575, "1.00 MiB"},
        {8ull << 30, "8.00 GiB"},
        {(8ull << 30) + (8ull << 30) / 10, "8.80 GiB"},
        {UINT64_MAX, "16384.00 PiB"},
    };
    char text[32];

    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(cases); i++) {
        size_to_str(cases[i].bytes, text, sizeof(text));
        assert_string_equal(text, cases[i].text);
    }
}

static void names_begin_with_a_letter_or_digit_and_hold_128_characters(void **state)
{
    char long_name[130];

    (void)state;
    assert_true(name_is_valid("a"));
    assert_true(name_is_valid("0/vm.disk_1-x"));
    assert_false(name_is_valid(""));
    assert_false(name_is_valid("-a"));
    assert_false(name_is_valid(".a"));
    assert_false(name_is_valid("a@b"));
    assert_false(name_is_valid("a b"));
    assert_false(name_is_valid("\xc3\xa4"));
    memset(long_name, 'a', sizeof(long_name));
    long_name[129] = '\0';
    assert_false(name_is_valid(long_name));
    long_name[128] = '\0';
    assert_true(name_is_valid(long_name));
}

static void hex_goes_there_and_back_and_takes_exactly_its_digits(void **state)
{
    static const uint8_t data[] = {0x00, 0x1f, 0xa0, 0xff};
    uint8_t back[4];
    char text[9];

    (void)state;
    hex_encode(data, 4, text, sizeof(text));
    assert_string_equal(text, "001fa0ff");
    assert_true(hex_decode("001FA0ff", back, 4));
    assert_memory_equal(data, back, 4);
    assert_false(hex_decode("001fa0f", back, 4));
    assert_false(hex_decode("001fa0fff", back, 4));
    assert_false(hex_decode("001fa0fg", back, 4));
    assert_false(hex_decode("", back, 4));
}

static void a_copy_that_does_not_fit_leaves_nothing(void **state)
{
    char dst[4] = "xyz";

    (void)state;
    assert_true(str_copy(dst, sizeof(dst), "abc"));
    assert_string_equal(dst, "abc");
    assert_false(str_copy(dst, sizeof(dst), "abcd"));
    assert_string_equal(dst, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_whole_decimal_texts_that_fit),
        cmocka_unit_test(sizes_are_bytes_or_powers_of_1024),
        cmocka_unit_test(sizes_are_shown_in_the_unit_that_keeps_them_short),
        cmocka_unit_test(names_begin_with_a_letter_or_digit_and_hold_128_characters),
        cmocka_unit_test(hex_goes_there_and_back_and_takes_exactly_its_digits),
        cmocka_unit_test(a_copy_that_does_not_fit_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
