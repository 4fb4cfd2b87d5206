#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/check.h"

struct test_sink {
    struct log_sink sink; /* first: a sink is its world */
    uint64_t now_us;
    uint32_t lines;
    char last[2048];
};

static void sink_write(struct log_sink *sink, const char *line, uint32_t len)
{
    struct test_sink *s = (struct test_sink *)sink;

    assert_true(len > 0 && len < sizeof(s->last));
    assert_int_equal(line[len - 1], '\n');
    assert_null(memchr(line, '\n', len - 1));
    memcpy(s->last, line, len);
    s->last[len] = '\0';
    s->lines++;
}

static uint64_t sink_wall_us(struct log_sink *sink)
{
    return ((struct test_sink *)sink)->now_us;
}

static struct test_sink test_sink;

static int setup(void **state)
{
    test_sink = (struct test_sink){.sink = {sink_write, sink_wall_us}, .now_us = 1700000000123456};
    log_set(&test_sink.sink, LOG_INFO, "node.1");
    *state = &test_sink;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    log_set(NULL, LOG_INFO, NULL);
    return 0;
}

static void a_line_has_time_level_node_part_message_and_pairs(void **state)
{
    struct test_sink *s = *state;

    log_warn("osd.3", "device is slow latency_ms=%d path=%s", 250, "/dev/x");
    assert_string_equal(s->last, "ts=2023-11-14T22:13:20.123456Z level=warn node=node.1 sub=osd.3 "
                                 "msg=\"device is slow\" latency_ms=250 path=/dev/x\n");
    log_error("raft", "stopped");
    assert_non_null(strstr(s->last, "level=error node=node.1 sub=raft msg=\"stopped\"\n"));
}

static void foreign_text_cannot_end_a_line_or_a_message(void **state)
{
    struct test_sink *s = *state;

    log_info("nbd", "client said \"%s\" name=%s", "a\\b", "x\ny");
    assert_non_null(strstr(s->last, "msg=\"client said \\\"a\\\\b\\\"\" name=x\\x0ay\n"));
}

static void a_line_that_is_too_long_is_cut_and_still_a_line(void **state)
{
    struct test_sink *s = *state;
    static char text[5000];

    memset(text, '\"', sizeof(text) - 1);
    log_info("x", "%s", text);
    assert_int_equal(s->lines, 1);
    assert_true(strlen(s->last) <= 1024);
}

static void lower_levels_and_a_missing_sink_are_silent(void **state)
{
    struct test_sink *s = *state;

    log_debug("x", "not said");
    assert_int_equal(s->lines, 0);
    log_set(NULL, LOG_DEBUG, "node.1");
    log_error("x", "to nobody");
    assert_int_equal(s->lines, 0);
}

static void one_place_says_fifty_lines_a_second_and_then_how_many_it_kept_back(void **state)
{
    struct test_sink *s = *state;

    for (uint32_t i = 0; i < 121; i++) {
        if (i == 120)
            s->now_us += 1000000;
        log_info("x", "again i=%u", i);
    }
    assert_int_equal(s->lines, 51);
    assert_non_null(strstr(s->last, "i=120 left_out=70\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_line_has_time_level_node_part_message_and_pairs, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(foreign_text_cannot_end_a_line_or_a_message, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_line_that_is_too_long_is_cut_and_still_a_line, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(lower_levels_and_a_missing_sink_are_silent, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            one_place_says_fifty_lines_a_second_and_then_how_many_it_kept_back, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
