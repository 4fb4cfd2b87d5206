/* Frames' headers: what goes in comes out, and nothing else gets in. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "base/prng.h"
#include "net/arena.h"
#include "net/frame.h"
#include "net/rpc.h"

static const struct frame example = {
    .type = FRAME_REQUEST,
    .version = NET_VERSION,
    .kind = 0x1234,
    .epoch = 0x11223344,
    .id = 0x0102030405060708,
    .pg = 0x1112131415161718,
    .revision = 0x2122232425262728,
    .from_incarnation = 5,
    .to_incarnation = 6,
    .body_len = 3,
    .data_len = 4096,
    .body_crc = 0xdeadbeef,
};

static int decode(const struct frame *f, struct frame *out)
{
    uint8_t header[FRAME_HEADER];

    frame_encode(f, header);
    return frame_decode(header, out);
}

/* Change one field, make the crc good again, and decode. */
static int decode_with(size_t at, uint64_t value, size_t size)
{
    uint8_t header[FRAME_HEADER];
    struct frame out;

    frame_encode(&example, header);
    for (size_t i = 0; i < size; i++)
        header[at + i] = (uint8_t)(value >> (8 * i));
    put_u32(header + 76, crc32c(0, header, 76));
    return frame_decode(header, &out);
}

static void a_header_comes_back_as_it_was(void **state)
{
    struct frame out;

    (void)state;
    assert_int_equal(decode(&example, &out), 0);
    assert_int_equal(out.type, example.type);
    assert_int_equal(out.kind, example.kind);
    assert_int_equal(out.epoch, example.epoch);
    assert_int_equal(out.id, example.id);
    assert_int_equal(out.pg, example.pg);
    assert_int_equal(out.revision, example.revision);
    assert_int_equal(out.from_incarnation, 5);
    assert_int_equal(out.to_incarnation, 6);
    assert_int_equal(out.body_len, 3);
    assert_int_equal(out.data_len, 4096);
    assert_int_equal(out.body_crc, 0xdeadbeef);

    struct frame reply = example;
    reply.type = FRAME_REPLY;
    reply.status = -EAGAIN;
    assert_int_equal(decode(&reply, &out), 0);
    assert_int_equal(out.status, -EAGAIN);
}

static void the_layout_is_what_the_header_file_says(void **state)
{
    uint8_t header[FRAME_HEADER];

    (void)state;
    frame_encode(&example, header);
    assert_memory_equal(header, "SKFR", 4);
    assert_int_equal(get_u16(header + 4), NET_VERSION);
    assert_int_equal(get_u16(header + 6), 0x1234);
    assert_int_equal(get_u32(header + 8), FRAME_REQUEST);
    assert_int_equal(get_u64(header + 16), example.id);
    assert_int_equal(get_u64(header + 24), example.pg);
    assert_int_equal(get_u64(header + 32), example.revision);
    assert_int_equal(get_u32(header + 52), 3);
    assert_int_equal(get_u32(header + 56), 4096);
    assert_int_equal(get_u32(header + 76), crc32c(0, header, 76));
}

static void any_flipped_bit_is_noticed(void **state)
{
    uint8_t header[FRAME_HEADER];
    struct frame out;

    (void)state;
    for (size_t bit = 0; bit < 8 * FRAME_HEADER; bit++) {
        frame_encode(&example, header);
        header[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_int_equal(frame_decode(header, &out), -EBADMSG);
    }
}

static void what_is_over_a_limit_or_of_no_meaning_is_refused(void **state)
{
    (void)state;
    assert_int_equal(decode_with(52, NET_BODY_MAX, 4), 0);
    assert_int_equal(decode_with(52, NET_BODY_MAX + 1, 4), -EMSGSIZE);
    assert_int_equal(decode_with(56, NET_DATA_MAX, 4), 0);
    assert_int_equal(decode_with(56, NET_DATA_MAX + 1, 4), -EMSGSIZE);
    assert_int_equal(decode_with(56, UINT32_MAX, 4), -EMSGSIZE);
    assert_int_equal(decode_with(4, NET_VERSION + 1, 2), -EPROTONOSUPPORT);
    assert_int_equal(decode_with(8, 0, 4), -EPROTO);
    assert_int_equal(decode_with(8, FRAME_PING + 1, 4), -EPROTO);
    assert_int_equal(decode_with(8, FRAME_PING, 4), -EPROTO); /* a ping has no id, body, data */
    assert_int_equal(decode_with(16, 0, 8), -EPROTO);
    assert_int_equal(decode_with(48, 1, 4), -EPROTO);
    assert_int_equal(decode_with(48, (uint32_t)-5, 4), -EPROTO); /* a request has no status */
    assert_int_equal(decode_with(60, 1, 8), -EPROTO);
    assert_int_equal(decode_with(68, 1, 4), -EPROTO);
}

static void a_damaged_body_is_noticed(void **state)
{
    uint8_t body[] = "123456789";
    struct frame f = {.body_len = 9, .body_crc = 0xe3069283};

    (void)state;
    assert_int_equal(frame_check_body(&f, body), 0);
    body[4] ^= 1;
    assert_int_equal(frame_check_body(&f, body), -EBADMSG);
    f.body_len = 0;
    assert_int_equal(frame_check_body(&f, NULL), -EBADMSG);
    f.body_crc = 0;
    assert_int_equal(frame_check_body(&f, NULL), 0);
}

/* Against a model that keeps a byte for each page. */
static void runs_of_pages_never_overlap_and_all_come_back(void **state)
{
    enum { PAGES = 200, RUNS = 64 };
    struct arena a;
    struct prng prng;
    struct {
        uint8_t *run;
        uint32_t pages;
    } runs[RUNS] = {{NULL, 0}};
    uint8_t taken[PAGES] = {0};

    (void)state;
    prng_init(&prng, 7);
    arena_init(&a, PAGES);
    for (int i = 0; i < 20000; i++) {
        size_t k = (size_t)prng_below(&prng, RUNS);
        if (runs[k].run != NULL) {
            memset(taken + (runs[k].run - a.memory) / ARENA_PAGE, 0, runs[k].pages);
            arena_put(&a, runs[k].run, runs[k].pages);
            runs[k].run = NULL;
            continue;
        }
        runs[k].pages = 1 + (uint32_t)prng_below(&prng, prng_chance(&prng, 1, 4) ? 100 : 8);
        runs[k].run = arena_get(&a, runs[k].pages);
        size_t longest = 0;
        for (size_t p = 0, len = 0; p < PAGES; p++) {
            len = taken[p] ? 0 : len + 1;
            longest = len > longest ? len : longest;
        }
        assert_int_equal(runs[k].run != NULL, longest >= runs[k].pages);
        for (size_t p = 0; runs[k].run != NULL && p < runs[k].pages; p++) {
            size_t page = (size_t)(runs[k].run - a.memory) / ARENA_PAGE + p;
            assert_int_equal(taken[page], 0);
            taken[page] = 1;
        }
    }
    for (size_t k = 0; k < RUNS; k++) {
        if (runs[k].run != NULL)
            arena_put(&a, runs[k].run, runs[k].pages);
    }
    assert_int_equal(a.used, 0);
    assert_non_null(arena_get(&a, PAGES));
    assert_null(arena_get(&a, 1));
    arena_deinit(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_header_comes_back_as_it_was),
        cmocka_unit_test(the_layout_is_what_the_header_file_says),
        cmocka_unit_test(any_flipped_bit_is_noticed),
        cmocka_unit_test(what_is_over_a_limit_or_of_no_meaning_is_refused),
        cmocka_unit_test(a_damaged_body_is_noticed),
        cmocka_unit_test(runs_of_pages_never_overlap_and_all_come_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
