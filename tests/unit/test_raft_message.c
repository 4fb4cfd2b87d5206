/* Messages: every kind comes back as it went, and no shorter or longer bytes are taken for one. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#include "base/check.h"
#include "raft/conf.h"
#include "raft/core.h"
#include "raft/log.h"
#include "raft/message.h"

static struct slice encode(const struct raft_message *m)
{
    size_t len = raft_message_size(m);
    uint8_t *bytes = malloc(len);

    assert_true(len > 0);
    raft_message_encode(m, bytes);
    return (struct slice){bytes, len};
}

/* Decoded; every prefix of it is refused. */
static struct raft_message through(const struct raft_message *m)
{
    struct slice bytes = encode(m);
    struct raft_message out;

    for (size_t len = 0; len < bytes.len; len++) {
        uint8_t *cut = malloc(len + 1);
        memcpy(cut, bytes.base, len);
        assert_int_equal(raft_message_decode((struct slice){cut, len}, &out), -EBADMSG);
        free(cut);
    }
    assert_int_equal(raft_message_decode(bytes, &out), 0);
    assert_int_equal(out.type, m->type);
    free((void *)bytes.base);
    return out;
}

static void votes_come_back(void **state)
{
    struct raft_message m = {.type = RAFT_IO_REQUEST_VOTE}, out;
    (void)state;

    m.request_vote = (struct raft_request_vote){.term = 7,
                                                .candidate_id = 3,
                                                .last_log_index = 100,
                                                .last_log_term = 6,
                                                .disrupt_leader = true,
                                                .pre_vote = false};
    out = through(&m);
    assert_int_equal(out.request_vote.term, 7);
    assert_int_equal(out.request_vote.candidate_id, 3);
    assert_int_equal(out.request_vote.last_log_index, 100);
    assert_int_equal(out.request_vote.last_log_term, 6);
    assert_true(out.request_vote.disrupt_leader);
    assert_false(out.request_vote.pre_vote);

    m = (struct raft_message){.type = RAFT_IO_REQUEST_VOTE_RESULT};
    m.request_vote_result = (struct raft_request_vote_result){
        .term = 8, .vote_granted = true, .pre_vote = raft_tribool_false};
    out = through(&m);
    assert_int_equal(out.request_vote_result.term, 8);
    assert_true(out.request_vote_result.vote_granted);
    assert_int_equal(out.request_vote_result.pre_vote, raft_tribool_false);
}

static void results_and_timeouts_come_back(void **state)
{
    struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES_RESULT}, out;
    (void)state;

    m.append_entries_result =
        (struct raft_append_entries_result){.term = 9, .rejected = 4, .last_log_index = 11};
    out = through(&m);
    assert_int_equal(out.append_entries_result.rejected, 4);
    assert_int_equal(out.append_entries_result.last_log_index, 11);

    m = (struct raft_message){.type = RAFT_IO_TIMEOUT_NOW};
    m.timeout_now = (struct raft_timeout_now){.term = 9, .last_log_index = 5, .last_log_term = 8};
    out = through(&m);
    assert_int_equal(out.timeout_now.last_log_index, 5);
    assert_int_equal(out.timeout_now.last_log_term, 8);
}

static struct raft_configuration three_servers(void)
{
    struct raft_configuration conf;

    raft_configuration_init(&conf);
    assert_int_equal(raft_configuration_add(&conf, 1, "1", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_add(&conf, 22, "22", RAFT_STANDBY), 0);
    assert_int_equal(raft_configuration_add(&conf, 333, "333", RAFT_SPARE), 0);
    return conf;
}

static void entries_come_back(void **state)
{
    struct raft_configuration conf = three_servers();
    struct raft_entry e[3] = {{.term = 3, .type = RAFT_COMMAND, .buf = {"0123456789a", 11}},
                              {.term = 4, .type = RAFT_BARRIER, .buf = {NULL, 0}},
                              {.term = 5, .type = RAFT_CHANGE}};
    struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES}, out;
    (void)state;

    assert_int_equal(raft_configuration_encode(&conf, &e[2].buf), 0);
    m.append_entries = (struct raft_append_entries){.term = 5,
                                                    .prev_log_index = 70,
                                                    .prev_log_term = 2,
                                                    .leader_commit = 69,
                                                    .entries = e,
                                                    .n_entries = 3};
    out = through(&m);
    assert_int_equal(out.append_entries.prev_log_index, 70);
    assert_int_equal(out.append_entries.leader_commit, 69);
    assert_int_equal(out.append_entries.n_entries, 3);
    for (unsigned i = 0; i < 3; i++) {
        struct raft_entry *got = &out.append_entries.entries[i];
        assert_int_equal(got->term, e[i].term);
        assert_int_equal(got->type, e[i].type);
        assert_int_equal(got->buf.len, e[i].buf.len);
        if (got->buf.len > 0)
            assert_memory_equal(got->buf.base, e[i].buf.base, got->buf.len);
    }
    raft_message_free(&out);
    m.append_entries.n_entries = 0;
    out = through(&m);
    assert_int_equal(out.append_entries.n_entries, 0);
    raft_message_free(&out);
    raft_free(e[2].buf.base);
    raft_configuration_close(&conf);
}

static void snapshots_come_back(void **state)
{
    struct raft_message m = {.type = RAFT_IO_INSTALL_SNAPSHOT}, out;
    char data[] = "the whole state";
    (void)state;

    m.install_snapshot = (struct raft_install_snapshot){.term = 4,
                                                        .last_index = 50,
                                                        .last_term = 3,
                                                        .conf = three_servers(),
                                                        .conf_index = 20,
                                                        .data = {data, sizeof(data)}};
    out = through(&m);
    assert_int_equal(out.install_snapshot.last_index, 50);
    assert_int_equal(out.install_snapshot.conf_index, 20);
    assert_int_equal(out.install_snapshot.data.len, sizeof(data));
    assert_memory_equal(out.install_snapshot.data.base, data, sizeof(data));
    assert_int_equal(out.install_snapshot.conf.n, 3);
    assert_int_equal(out.install_snapshot.conf.servers[2].id, 333);
    assert_string_equal(out.install_snapshot.conf.servers[1].address, "22");
    assert_int_equal(out.install_snapshot.conf.servers[1].role, RAFT_STANDBY);
    raft_message_free(&out);
    raft_configuration_close(&m.install_snapshot.conf);
}

/* The core would read such an entry without looking at its length. */
static void a_change_entry_that_is_no_configuration_is_refused(void **state)
{
    static const uint8_t bad[][24] = {
        {0},                            /* no format */
        {1, 0},                         /* no server */
        {1, 8, 0, 0, 0, 0, 0, 0, 0, 1}, /* more than may be */
        {1, 1, 0, 0, 0, 0, 0, 0, 0, 0}, /* server 0 */
        {1, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, '5', '5', '5', '5', '5', '5', '5'},
        {1, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, '5', 0, 9}, /* a role there is not */
    };
    (void)state;

    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct raft_entry e = {.term = 1, .type = RAFT_CHANGE, .buf = {(void *)bad[i], 24}};
        struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES}, out;
        m.append_entries = (struct raft_append_entries){.term = 1, .entries = &e, .n_entries = 1};
        struct slice bytes = encode(&m);
        assert_int_equal(raft_message_decode(bytes, &out), -EBADMSG);
        free((void *)bytes.base);
    }
}

static void what_is_too_large_has_no_size(void **state)
{
    struct raft_entry e = {.term = 1, .type = RAFT_COMMAND, .buf = {NULL, RAFT_LOG_DATA_MAX + 1}};
    struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES};
    (void)state;

    m.append_entries = (struct raft_append_entries){.term = 1, .entries = &e, .n_entries = 1};
    assert_int_equal(raft_message_size(&m), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(votes_come_back),
        cmocka_unit_test(results_and_timeouts_come_back),
        cmocka_unit_test(entries_come_back),
        cmocka_unit_test(snapshots_come_back),
        cmocka_unit_test(a_change_entry_that_is_no_configuration_is_refused),
        cmocka_unit_test(what_is_too_large_has_no_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
