#include "io/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void addresses_go_there_and_back(void **state)
{
    static const char *const texts[] = {"127.0.0.1:7400", "0.0.0.0:0", "255.255.255.255:65535",
                                        "[::1]:7400",     "[::]:0",    "[fe80::1:2]:80"};
    char text[LOOP_ADDR_STR];
    struct loop_addr a;

    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(texts); i++) {
        assert_true(loop_addr_parse(texts[i], &a));
        loop_addr_format(&a, text, sizeof(text));
        assert_string_equal(text, texts[i]);
    }
}

static void what_is_no_address_is_refused_and_leaves_none(void **state)
{
    static const char *const texts[] = {"",
                                        ":",
                                        ":80",
                                        "127.0.0.1",
                                        "127.0.0.1:",
                                        "127.0.0.1:65536",
                                        "127.0.0.1:-1",
                                        "127.0.0.1:1x",
                                        "127.0.0.1:000080",
                                        "127.0.0:80",
                                        "localhost:80",
                                        "::1:80",
                                        "[::1:80",
                                        "[::1]80",
                                        "[]:80",
                                        "[127.0.0.1]:80",
                                        "[fe80::1%eth0]:80"};
    static const struct loop_addr none;
    struct loop_addr a;

    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(texts); i++) {
        memset(&a, 0xff, sizeof(a));
        assert_false(loop_addr_parse(texts[i], &a));
        assert_true(loop_addr_equal(&a, &none));
    }
}

static void both_kinds_of_loopback_are_known(void **state)
{
    static const struct {
        const char *text;
        bool is_loopback;
    } cases[] = {{"127.0.0.1:1", true},  {"127.9.9.9:1", true}, {"[::1]:1", true},
                 {"128.0.0.1:1", false}, {"0.0.0.0:1", false},  {"[::]:1", false},
                 {"[::2]:1", false},     {"10.0.0.1:1", false}, {"[::ffff:127.0.0.1]:1", true},
                 {"[7f00::1]:1", false}};
    struct loop_addr a;

    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(cases); i++) {
        assert_true(loop_addr_parse(cases[i].text, &a));
        assert_int_equal(loop_addr_is_loopback(&a), cases[i].is_loopback);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_go_there_and_back),
        cmocka_unit_test(what_is_no_address_is_refused_and_leaves_none),
        cmocka_unit_test(both_kinds_of_loopback_are_known),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
