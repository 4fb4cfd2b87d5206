/* Join tokens, the identity file, and the counter of starts. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/prng.h"
#include "cli/token.h"

static void example(struct identity *id)
{
    memset(id, 0, sizeof(*id));
    for (uint8_t i = 0; i < 32; i++) {
        id->secret[i] = (uint8_t)(i * 7 + 1);
        id->cluster[i / 2] = i;
        id->join_id[i / 2] = (uint8_t)(255 - i);
    }
    id->node = 3;
    id->founder = true;
    id->replicas = 2;
    strcpy(id->name, "a/node-3");
    assert_true(loop_addr_parse("127.0.0.1:7400", &id->listen));
    id->contacts_count = 2;
    id->contacts[0] = (struct identity_contact){.node = 1, .addr = id->listen};
    id->contacts[1].node = 2;
    assert_true(loop_addr_parse("[2001:db8::1]:65535", &id->contacts[1].addr));
}

static void a_token_gives_back_what_went_in(void **state)
{
    (void)state;
    struct identity id, out;
    char text[TOKEN_TEXT_MAX];
    example(&id);
    token_make(&id, text, sizeof(text));
    assert_true(token_parse(text, &out));
    assert_memory_equal(out.cluster, id.cluster, sizeof(id.cluster));
    assert_memory_equal(out.secret, id.secret, sizeof(id.secret));
    assert_int_equal(out.contacts_count, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(out.contacts[i].node, id.contacts[i].node);
        assert_true(loop_addr_equal(&out.contacts[i].addr, &id.contacts[i].addr));
    }
}

static void a_token_with_any_letter_changed_is_refused(void **state)
{
    (void)state;
    struct identity id, out;
    char text[TOKEN_TEXT_MAX];
    example(&id);
    token_make(&id, text, sizeof(text));
    size_t len = strlen(text);
    for (size_t i = 0; i < len; i++) {
        for (int flip = 1; flip < 127; flip++) {
            char was = text[i];
            text[i] = (char)(was ^ flip);
            assert_false(token_parse(text, &out));
            text[i] = was;
        }
    }
    assert_true(token_parse(text, &out));
}

static void a_token_cut_or_lengthened_is_refused(void **state)
{
    (void)state;
    struct identity id, out;
    char text[TOKEN_TEXT_MAX + 8];
    example(&id);
    token_make(&id, text, sizeof(text));
    size_t len = strlen(text);
    strcat(text, "A");
    assert_false(token_parse(text, &out));
    while (len-- > 0) {
        text[len] = '\0';
        assert_false(token_parse(text, &out));
    }
    assert_false(token_parse("", &out));
    assert_false(token_parse("skerry1.", &out));
    assert_false(token_parse("skerry2.AAAA", &out));
}

static void noise_is_no_token(void **state)
{
    (void)state;
    struct prng prng;
    struct identity out;
    prng_init(&prng, 7);
    for (int round = 0; round < 20000; round++) {
        char text[400] = "skerry1.";
        size_t len = 8 + prng_below(&prng, 300);
        for (size_t i = 8; i < len; i++)
            text[i] = (char)(1 + prng_below(&prng, 126));
        text[len] = '\0';
        assert_false(token_parse(text, &out));
    }
}

/* ---- Files ---- */

static int dir_make(void **state)
{
    char *dir = strdup("/tmp/skerry-test-XXXXXX");
    *state = dir;
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int dir_remove(void **state)
{
    char command[200];
    snprintf(command, sizeof(command), "rm -rf '%s'", (char *)*state);
    int result = system(command);
    free(*state);
    return result;
}

static void an_identity_reads_back_as_written(void **state)
{
    struct identity id, out;
    struct problem p;
    example(&id);
    assert_int_equal(nodedir_write_identity(*state, &id, &p), 0);
    assert_int_equal(nodedir_read_identity(*state, &out, &p), 0);
    assert_memory_equal(out.secret, id.secret, sizeof(id.secret));
    assert_memory_equal(out.join_id, id.join_id, sizeof(id.join_id));
    assert_string_equal(out.name, id.name);
    assert_int_equal(out.node, 3);
    assert_int_equal(out.replicas, 2);
    assert_true(out.founder);
    assert_int_equal(out.contacts_count, 2);
    assert_true(loop_addr_equal(&out.contacts[1].addr, &id.contacts[1].addr));
}

static void an_identity_of_another_version_or_with_a_strange_line_is_refused(void **state)
{
    static const char *const bad[] = {
        "version = 2\nnode = 1\nname = a\n",
        "node = 1\nname = a\ncolour = blue\n",
        "node = x\nname = a\n",
        "node = 1\nname = @\n",
        "node = 1\n",
        "",
        "node = 1\nname = a\nsecret = 00\n",
        "[s]\nnode = 1\nname = a\n",
    };
    struct identity out;
    struct problem p;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        assert_int_equal(nodedir_write_file(*state, "identity", bad[i], &p), 0);
        assert_int_equal(nodedir_read_identity(*state, &out, &p), -1);
        assert_string_equal(p.code, "bad_identity");
    }
}

static void a_directory_that_is_a_node_is_never_made_again(void **state)
{
    struct identity id;
    struct problem p;
    example(&id);
    assert_int_equal(nodedir_create(*state, &p), 0);
    assert_int_equal(nodedir_create(*state, &p), 0); /* no identity yet */
    assert_int_equal(nodedir_write_identity(*state, &id, &p), 0);
    assert_int_equal(nodedir_create(*state, &p), -1);
    assert_int_equal(p.kind, PROBLEM_EXISTS);
}

static void starts_are_counted_and_never_back(void **state)
{
    struct problem p;
    uint32_t n;
    for (uint32_t i = 1; i <= 5; i++) {
        assert_int_equal(nodedir_count_start(*state, &n, &p), 0);
        assert_int_equal(n, i);
    }
    static const char *const bad[] = {"", "x\n", "-1\n", "4294967295\n", "1 2\n"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        assert_int_equal(nodedir_write_file(*state, "incarnation", bad[i], &p), 0);
        assert_int_equal(nodedir_count_start(*state, &n, &p), -1);
        assert_string_equal(p.code, "bad_incarnation");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_gives_back_what_went_in),
        cmocka_unit_test(a_token_with_any_letter_changed_is_refused),
        cmocka_unit_test(a_token_cut_or_lengthened_is_refused),
        cmocka_unit_test(noise_is_no_token),
        cmocka_unit_test_setup_teardown(an_identity_reads_back_as_written, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(
            an_identity_of_another_version_or_with_a_strange_line_is_refused, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(a_directory_that_is_a_node_is_never_made_again, dir_make,
                                        dir_remove),
        cmocka_unit_test_setup_teardown(starts_are_counted_and_never_back, dir_make, dir_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
