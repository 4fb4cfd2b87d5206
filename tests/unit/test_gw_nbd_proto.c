/*
 * The NBD protocol's bytes, fed by hand: what a client says, whole, byte by byte and cut short, and
 * what it hears.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <endian.h>
#include <string.h>

#include "base/check.h"
#include "gw/nbd_proto.h"

enum { OPT_EXPORT_NAME = 1, OPT_ABORT = 2, OPT_LIST = 3, OPT_INFO = 6, OPT_GO = 7, OPT_OTHER = 8 };

struct bytes {
    uint8_t data[64 << 10];
    uint32_t len;
};

static void add(struct bytes *b, const void *data, uint32_t len)
{
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

static void add_be16(struct bytes *b, uint16_t v)
{
    v = htobe16(v);
    add(b, &v, sizeof(v));
}

static void add_be32(struct bytes *b, uint32_t v)
{
    v = htobe32(v);
    add(b, &v, sizeof(v));
}

static void add_option(struct bytes *b, uint32_t option, uint32_t len)
{
    add(b, "IHAVEOPT", 8);
    add_be32(b, option);
    add_be32(b, len);
}

static void add_go(struct bytes *b, uint32_t option, const char *name, uint32_t wants_count)
{
    uint32_t len = (uint32_t)strlen(name);

    add_option(b, option, 4 + len + 2 + 2 * wants_count);
    add_be32(b, len);
    add(b, name, len);
    add_be16(b, (uint16_t)wants_count);
    for (uint32_t i = 0; i < wants_count; i++)
        add_be16(b, i == 0 ? 3 : 1);
}

static uint32_t be32_at(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

/* What a server says of its images: "disk" of 1 MiB is all there is. */
static void serve(struct nbd_negotiation *n)
{
    if (n->ask == NBD_ASK_EXPORT) {
        if (strcmp(n->name, "disk") == 0)
            nbd_negotiation_found(n, 1 << 20);
        else
            nbd_negotiation_not_found(n);
    } else if (n->ask == NBD_ASK_LIST) {
        assert_true(nbd_negotiation_list_name(n, "disk"));
        assert_true(nbd_negotiation_list_end(n));
    }
}

/* Feed `in` in steps of `step` bytes; what is said goes to `out`. Returns bytes not used. */
static uint32_t talk(struct nbd_negotiation *n, const struct bytes *in, uint32_t step,
                     struct bytes *out)
{
    uint32_t start = 0, end = 0;

    nbd_negotiation_init(n);
    out->len = 0;
    for (;;) {
        add(out, n->out, n->out_len);
        n->out_len = 0;
        if (n->ask == NBD_ASK_EXPORT || n->ask == NBD_ASK_LIST) {
            serve(n);
            continue;
        }
        if (n->ask != NBD_ASK_MORE)
            return in->len - start;
        size_t used = nbd_negotiation_feed(n, in->data + start, end - start);
        assert_true(used <= end - start);
        start += (uint32_t)used;
        if (used > 0 || n->ask != NBD_ASK_MORE || n->out_len > 0)
            continue;
        if (end == in->len)
            return in->len - start;
        end = in->len - end < step ? in->len : end + step;
    }
}

static const uint8_t *answer_at(const struct bytes *out, uint32_t *pos, uint32_t option,
                                uint32_t type, uint32_t *len)
{
    const uint8_t *p = out->data + *pos;

    assert_true(out->len - *pos >= 20);
    assert_memory_equal(p, "\0\x03\xe8\x89\x04\x55\x65\xa9", 8);
    assert_int_equal(be32_at(p + 8), option);
    assert_int_equal(be32_at(p + 12), type);
    *len = be32_at(p + 16);
    assert_true(out->len - *pos - 20 >= *len);
    *pos += 20 + *len;
    return p + 20;
}

static void greeting_then_go_gives_size_and_flags(void **state)
{
    (void)state;
    struct bytes in = {.len = 0}, out;
    struct nbd_negotiation n;
    uint32_t pos = NBD_GREETING_SIZE, len;

    add_be32(&in, 3);
    add_go(&in, OPT_GO, "disk", 2);
    assert_int_equal(talk(&n, &in, 64, &out), 0);
    assert_int_equal(n.ask, NBD_ASK_TRANSMIT);
    assert_memory_equal(out.data, "NBDMAGICIHAVEOPT\0\x03", NBD_GREETING_SIZE);

    const uint8_t *p = answer_at(&out, &pos, OPT_GO, 3, &len);
    assert_int_equal(len, 12);
    assert_memory_equal(p, "\0\0\0\0\0\0\0\x10\0\0", 10);
    assert_int_equal(p[10] << 8 | p[11], 0x96d);
    p = answer_at(&out, &pos, OPT_GO, 3, &len);
    assert_memory_equal(p,
                        "\0\x01"
                        "disk",
                        6);
    p = answer_at(&out, &pos, OPT_GO, 3, &len);
    assert_memory_equal(p, "\0\x03\0\0\0\x01\0\0\x10\0\x02\0\0\0", 14);
    answer_at(&out, &pos, OPT_GO, 1, &len);
    assert_int_equal(pos, out.len);
}

static void info_leaves_the_negotiation_open(void **state)
{
    (void)state;
    struct bytes in = {.len = 0}, out;
    struct nbd_negotiation n;

    add_be32(&in, 3);
    add_go(&in, OPT_INFO, "disk", 0);
    talk(&n, &in, 64, &out);
    assert_int_equal(n.ask, NBD_ASK_MORE);
}

static void export_name_honours_no_zeroes(void **state)
{
    (void)state;
    for (uint32_t flags = 1; flags <= 3; flags += 2) {
        struct bytes in = {.len = 0}, out;
        struct nbd_negotiation n;

        add_be32(&in, flags);
        add_option(&in, OPT_EXPORT_NAME, 4);
        add(&in, "disk", 4);
        add(&in, "tail", 4);
        assert_int_equal(talk(&n, &in, 64, &out), 4); /* belongs to the requests */
        assert_int_equal(n.ask, NBD_ASK_TRANSMIT);
        assert_int_equal(out.len, NBD_GREETING_SIZE + 10 + (flags == 1 ? 124 : 0));
    }
}

static void unknown_export_name_ends_the_connection(void **state)
{
    (void)state;
    struct bytes in = {.len = 0}, out;
    struct nbd_negotiation n;

    add_be32(&in, 3);
    add_option(&in, OPT_EXPORT_NAME, 4);
    add(&in, "disc", 4);
    talk(&n, &in, 64, &out);
    assert_int_equal(n.ask, NBD_ASK_CLOSE);
    assert_int_equal(out.len, NBD_GREETING_SIZE);
}

static void empty_and_unknown_names_are_refused_with_a_sentence(void **state)
{
    (void)state;
    static const char *const names[] = {"", "disc"};

    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct bytes in = {.len = 0}, out;
        struct nbd_negotiation n;
        uint32_t pos = NBD_GREETING_SIZE, len;

        add_be32(&in, 3);
        add_go(&in, OPT_GO, names[i], 1);
        talk(&n, &in, 64, &out);
        assert_int_equal(n.ask, NBD_ASK_MORE);
        answer_at(&out, &pos, OPT_GO, 0x80000006u, &len);
        assert_true(len > 10);
    }
}

static void list_names_every_image_and_has_no_payload(void **state)
{
    (void)state;
    struct bytes in = {.len = 0}, out;
    struct nbd_negotiation n;
    uint32_t pos = NBD_GREETING_SIZE, len;

    add_be32(&in, 3);
    add_option(&in, OPT_LIST, 0);
    add_option(&in, OPT_LIST, 3);
    add(&in, "abc", 3);
    talk(&n, &in, 7, &out);
    const uint8_t *p = answer_at(&out, &pos, OPT_LIST, 2, &len);
    assert_int_equal(len, 8);
    assert_memory_equal(p,
                        "\0\0\0\x04"
                        "disk",
                        8);
    answer_at(&out, &pos, OPT_LIST, 1, &len);
    answer_at(&out, &pos, OPT_LIST, 0x80000003u, &len);
    assert_int_equal(n.ask, NBD_ASK_MORE);
}

static void unknown_option_is_refused_and_its_payload_dropped(void **state)
{
    (void)state;
    struct bytes in = {.len = 0}, out;
    struct nbd_negotiation n;
    uint32_t pos = NBD_GREETING_SIZE, len;

    add_be32(&in, 3);
    add_option(&in, OPT_OTHER, 10000);
    in.len += 10000;
    add_option(&in, OPT_GO, NBD_PAYLOAD_MAX + 1);
    in.len += NBD_PAYLOAD_MAX + 1;
    add_option(&in, OPT_ABORT, 0);
    memset(in.data + 20, 0, 10000);
    assert_int_equal(talk(&n, &in, 1000, &out), 0);
    answer_at(&out, &pos, OPT_OTHER, 0x80000001u, &len);
    answer_at(&out, &pos, OPT_GO, 0x80000009u, &len);
    answer_at(&out, &pos, OPT_ABORT, 1, &len);
    assert_int_equal(n.ask, NBD_ASK_CLOSE);
}

static void endless_payload_ends_the_connection(void **state)
{
    (void)state;
    struct bytes in = {.len = 0}, out;
    struct nbd_negotiation n;

    add_be32(&in, 3);
    add_option(&in, OPT_OTHER, NBD_PAYLOAD_DROP_MAX + 1);
    talk(&n, &in, 64, &out);
    assert_int_equal(n.ask, NBD_ASK_CLOSE);
}

static void lengths_inside_an_option_are_checked(void **state)
{
    (void)state;
    for (uint32_t name_len = 0; name_len < 40; name_len++) {
        struct bytes in = {.len = 0}, out;
        struct nbd_negotiation n;
        uint32_t pos = NBD_GREETING_SIZE, len;

        if (name_len == 4)
            continue; /* the one that fits */
        add_be32(&in, 3);
        add_option(&in, OPT_INFO, 10);
        add_be32(&in, name_len);
        add(&in, "disk\0\0", 6);
        talk(&n, &in, 64, &out);
        /* either the lengths contradict each other, or the name is another one */
        const uint8_t *p = out.data + pos;
        assert_true(be32_at(p + 12) == 0x80000003u || be32_at(p + 12) == 0x80000006u);
        answer_at(&out, &pos, OPT_INFO, be32_at(p + 12), &len);
    }
}

static void pieces_of_any_size_are_the_same_negotiation(void **state)
{
    (void)state;
    struct bytes in = {.len = 0}, whole, cut;
    struct nbd_negotiation n;

    add_be32(&in, 3);
    add_option(&in, OPT_OTHER, 5);
    add(&in, "12345", 5);
    add_option(&in, OPT_LIST, 0);
    add_go(&in, OPT_INFO, "disc", 2);
    add_go(&in, OPT_GO, "disk", 2);
    talk(&n, &in, in.len, &whole);
    assert_int_equal(n.ask, NBD_ASK_TRANSMIT);
    for (uint32_t step = 1; step < in.len; step++) {
        assert_int_equal(talk(&n, &in, step, &cut), 0);
        assert_int_equal(n.ask, NBD_ASK_TRANSMIT);
        assert_int_equal(cut.len, whole.len);
        assert_memory_equal(cut.data, whole.data, whole.len);
    }
}

static void truncated_negotiation_waits_for_more(void **state)
{
    (void)state;
    struct bytes in = {.len = 0}, out;
    struct nbd_negotiation n;

    add_be32(&in, 3);
    add_go(&in, OPT_GO, "disk", 2);
    for (uint32_t len = in.len; len-- > 0;) {
        in.len = len;
        talk(&n, &in, 5, &out);
        assert_int_equal(n.ask, NBD_ASK_MORE);
        assert_int_equal(out.len, NBD_GREETING_SIZE);
    }
}

static void strange_client_flags_and_magic_end_the_connection(void **state)
{
    (void)state;
    struct bytes in = {.len = 0}, out;
    struct nbd_negotiation n;

    add_be32(&in, 7);
    talk(&n, &in, 4, &out);
    assert_int_equal(n.ask, NBD_ASK_CLOSE);

    in.len = 0;
    add_be32(&in, 3);
    add(&in, "IHAVEOPS\0\0\0\x03\0\0\0\0", 16);
    talk(&n, &in, 20, &out);
    assert_int_equal(n.ask, NBD_ASK_CLOSE);
}

static void request_beyond_the_end_has_the_code_of_its_kind(void **state)
{
    (void)state;
    static const struct {
        struct nbd_command cmd;
        enum nbd_error error;
    } cases[] = {
        {{.type = NBD_READ, .offset = 0, .len = 100}, NBD_OK},
        {{.type = NBD_READ, .offset = 1, .len = 100}, NBD_EINVAL},
        {{.type = NBD_READ, .offset = UINT64_MAX, .len = 2}, NBD_EINVAL},
        {{.type = NBD_WRITE, .offset = 100, .len = 1}, NBD_ENOSPC},
        {{.type = NBD_WRITE, .offset = 100, .len = 0}, NBD_OK},
        {{.type = NBD_WRITE, .offset = 101, .len = 0}, NBD_ENOSPC},
        {{.type = NBD_TRIM, .offset = 0, .len = UINT32_MAX}, NBD_EINVAL},
        {{.type = NBD_WRITE_ZEROES, .offset = 0, .len = 101}, NBD_ENOSPC},
        {{.type = NBD_WRITE_ZEROES, .flags = 1 | 2 | 16, .len = 1}, NBD_OK},
        {{.type = NBD_READ, .flags = 1, .len = 1}, NBD_OK},
        {{.type = NBD_READ, .flags = 2, .len = 1}, NBD_EINVAL},
        {{.type = NBD_FLUSH, .flags = 1}, NBD_OK},
        {{.type = 5, .len = 1}, NBD_EINVAL},
        {{.type = 999}, NBD_EINVAL},
    };

    for (size_t i = 0; i < COUNT_OF(cases); i++)
        assert_int_equal(nbd_command_check(&cases[i].cmd, 100), cases[i].error);
}

static void request_and_reply_are_the_specified_bytes(void **state)
{
    (void)state;
    struct nbd_command cmd;
    uint8_t reply[NBD_REPLY_SIZE];
    uint8_t request[NBD_REQUEST_SIZE] = "\x25\x60\x95\x13\0\x01\0\x01"
                                        "cookie!!"
                                        "\0\0\0\0\0\0\x10\0\0\0\x02";

    assert_true(nbd_command_parse(request, &cmd));
    assert_int_equal(cmd.type, NBD_WRITE);
    assert_int_equal(cmd.flags, 1);
    assert_int_equal(cmd.offset, 4096);
    assert_int_equal(cmd.len, 512);
    nbd_reply_put(reply, cmd.cookie, NBD_ENOSPC);
    assert_memory_equal(reply,
                        "\x67\x44\x66\x98\0\0\0\x1c"
                        "cookie!!",
                        sizeof(reply));
    request[0] ^= 1;
    assert_false(nbd_command_parse(request, &cmd));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greeting_then_go_gives_size_and_flags),
        cmocka_unit_test(info_leaves_the_negotiation_open),
        cmocka_unit_test(export_name_honours_no_zeroes),
        cmocka_unit_test(unknown_export_name_ends_the_connection),
        cmocka_unit_test(empty_and_unknown_names_are_refused_with_a_sentence),
        cmocka_unit_test(list_names_every_image_and_has_no_payload),
        cmocka_unit_test(unknown_option_is_refused_and_its_payload_dropped),
        cmocka_unit_test(endless_payload_ends_the_connection),
        cmocka_unit_test(lengths_inside_an_option_are_checked),
        cmocka_unit_test(pieces_of_any_size_are_the_same_negotiation),
        cmocka_unit_test(truncated_negotiation_waits_for_more),
        cmocka_unit_test(strange_client_flags_and_magic_end_the_connection),
        cmocka_unit_test(request_beyond_the_end_has_the_code_of_its_kind),
        cmocka_unit_test(request_and_reply_are_the_specified_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
