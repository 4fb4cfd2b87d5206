#include "base/crc32c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void the_published_examples_hold(void **state)
{
    uint8_t zeros[32] = {0}, ones[32];

    (void)state;
    memset(ones, 0xff, sizeof(ones));
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c(0, zeros, sizeof(zeros)), 0x8a9136aa); /* RFC 3720 B.4 */
    assert_int_equal(crc32c(0, ones, sizeof(ones)), 0x62a8ab43);
    assert_int_equal(crc32c(0, "", 0), 0);
}

/* Bit by bit, as the polynomial says. */
static uint32_t crc_plain(uint32_t crc, const uint8_t *data, size_t len)
{
    crc = ~crc;
    for (size_t i = 0; i < len; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
    }
    return ~crc;
}

static void every_length_and_alignment_agrees_with_the_definition(void **state)
{
    static uint8_t data[700];

    (void)state;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * i + 3 * i);
    for (size_t len = 0; len < 600; len++) {
        size_t at = len % 17;
        assert_int_equal(crc32c(0, data + at, len), crc_plain(0, data + at, len));
    }
}

static void a_crc_goes_on_where_it_stopped(void **state)
{
    (void)state;
    assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
}

static void a_block_in_the_wrong_place_does_not_match(void **state)
{
    static const uint8_t block[4096] = {1, 2, 3};
    uint8_t whole[20 + 4096] = {0};
    uint32_t crc = crc32c_block(7, 8, 9, block, sizeof(block));

    (void)state;
    assert_int_not_equal(crc, crc32c_block(6, 8, 9, block, sizeof(block)));
    assert_int_not_equal(crc, crc32c_block(7, 7, 9, block, sizeof(block)));
    assert_int_not_equal(crc, crc32c_block(7, 8, 8, block, sizeof(block)));

    whole[0] = 7;
    whole[8] = 8;
    whole[16] = 9;
    memcpy(whole + 20, block, sizeof(block));
    assert_int_equal(crc, crc32c(0, whole, sizeof(whole)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_examples_hold),
        cmocka_unit_test(every_length_and_alignment_agrees_with_the_definition),
        cmocka_unit_test(a_crc_goes_on_where_it_stopped),
        cmocka_unit_test(a_block_in_the_wrong_place_does_not_match),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
