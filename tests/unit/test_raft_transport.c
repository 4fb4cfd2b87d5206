/* Fragments: put together in order, given up otherwise. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#include "io/sim.h"
#include "raft/message.h"
#include "raft/transport.h"

enum { ENTRIES = 3, ENTRY = 200000 };

struct world {
    struct sim *sim;
    struct loop *loop;
    struct raft_transport t;
    uint32_t received;
    uint64_t from;
    uint8_t *bytes;
    size_t len;
};

static void on_message(void *arg, struct raft_message *m)
{
    struct world *w = arg;

    w->received++;
    w->from = m->server_id;
    assert_int_equal(m->append_entries.n_entries, ENTRIES);
    for (unsigned i = 0; i < ENTRIES; i++) {
        const uint8_t *p = m->append_entries.entries[i].buf.base;
        assert_int_equal(m->append_entries.entries[i].buf.len, ENTRY);
        assert_int_equal(p[0], i + 1);
        assert_int_equal(p[ENTRY - 1], i + 1);
    }
    raft_message_free(m);
}

static void world_init(struct world *w)
{
    static uint8_t data[ENTRIES][ENTRY];
    struct raft_entry e[ENTRIES];
    struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES};

    memset(w, 0, sizeof(*w));
    w->sim = sim_create(&(struct sim_config){.seed = 1});
    w->loop = sim_loop_create(sim_host_create(w->sim, 1));
    raft_transport_init(&w->t, w->loop, NULL);
    w->t.received = on_message;
    w->t.arg = w;
    for (unsigned i = 0; i < ENTRIES; i++) {
        memset(data[i], (int)i + 1, ENTRY);
        e[i] = (struct raft_entry){.term = 1, .type = RAFT_COMMAND, .buf = {data[i], ENTRY}};
    }
    m.append_entries = (struct raft_append_entries){.term = 1, .entries = e, .n_entries = ENTRIES};
    w->len = raft_message_size(&m);
    w->bytes = malloc(w->len);
    raft_message_encode(&m, w->bytes);
}

static void world_deinit(struct world *w)
{
    raft_transport_deinit(&w->t);
    free(w->bytes);
    loop_destroy(w->loop);
    sim_destroy(w->sim);
}

static int fragment(struct world *w, uint64_t from, uint64_t number, size_t offset)
{
    static uint8_t body[RAFT_FRAGMENT_HEADER + RAFT_FRAGMENT_MAX];
    size_t len = w->len - offset < RAFT_FRAGMENT_MAX ? w->len - offset : RAFT_FRAGMENT_MAX;

    put_u64(body, number);
    put_u32(body + 8, (uint32_t)w->len);
    put_u32(body + 12, (uint32_t)offset);
    memcpy(body + RAFT_FRAGMENT_HEADER, w->bytes + offset, len);
    return raft_transport_receive(&w->t, from, (struct slice){body, RAFT_FRAGMENT_HEADER + len});
}

static uint32_t received(struct world *w)
{
    sim_run_until(w->sim, sim_now(w->sim) + NS_PER_MS);
    return w->received;
}

static void a_message_in_order_arrives_once(void **state)
{
    struct world w;
    (void)state;

    world_init(&w);
    for (size_t at = 0; at < w.len; at += RAFT_FRAGMENT_MAX)
        assert_int_equal(fragment(&w, 7, 99, at), 0);
    assert_int_equal(received(&w), 1);
    assert_int_equal(w.from, 7);
    assert_int_equal(fragment(&w, 7, 99, 2 * RAFT_FRAGMENT_MAX), 0); /* a late copy */
    assert_int_equal(received(&w), 1);
    world_deinit(&w);
}

static void fragments_of_two_peers_do_not_mix(void **state)
{
    struct world w;
    (void)state;

    world_init(&w);
    for (size_t at = 0; at < w.len; at += RAFT_FRAGMENT_MAX) {
        assert_int_equal(fragment(&w, 7, 99, at), 0);
        assert_int_equal(fragment(&w, 8, 99, at), 0);
    }
    assert_int_equal(received(&w), 2);
    world_deinit(&w);
}

static void more_peers_than_places_come_and_go(void **state)
{
    struct world w;
    (void)state;

    world_init(&w);
    for (uint64_t id = 1; id <= 3 * RAFT_PEERS_MAX; id++) {
        for (size_t at = 0; at < w.len; at += RAFT_FRAGMENT_MAX)
            assert_int_equal(fragment(&w, id, id, at), 0);
        assert_int_equal(received(&w), id);
        assert_int_equal(w.from, id);
    }
    for (uint64_t id = 1; id <= RAFT_PEERS_MAX; id++)
        assert_int_equal(fragment(&w, id, 99, 0), 0);
    assert_int_equal(fragment(&w, 100, 99, 0),
                     -EBUSY); /* all places hold a message in the making */
    world_deinit(&w);
}

static void a_gap_or_another_message_ends_it(void **state)
{
    struct world w;
    (void)state;

    world_init(&w);
    assert_int_equal(fragment(&w, 7, 99, 0), 0);
    assert_int_equal(fragment(&w, 7, 99, 2 * RAFT_FRAGMENT_MAX), 0); /* the second is missing */
    assert_int_equal(fragment(&w, 7, 98, RAFT_FRAGMENT_MAX), 0);     /* of another one */
    assert_int_equal(received(&w), 0);
    for (size_t at = 0; at < w.len; at += RAFT_FRAGMENT_MAX)
        assert_int_equal(fragment(&w, 7, 100, at), 0);
    assert_int_equal(received(&w), 1);
    world_deinit(&w);
}

static void lengths_that_do_not_fit_are_refused(void **state)
{
    uint8_t body[RAFT_FRAGMENT_HEADER + 100] = {0};
    struct world w;
    (void)state;

    world_init(&w);
    for (size_t len = 0; len <= RAFT_FRAGMENT_HEADER; len++)
        assert_int_equal(raft_transport_receive(&w.t, 7, (struct slice){body, len}), -EBADMSG);
    put_u32(body + 8, 99); /* shorter than what came */
    assert_int_equal(raft_transport_receive(&w.t, 7, (struct slice){body, sizeof(body)}), -EBADMSG);
    put_u32(body + 8, 5000); /* a first piece that is not full */
    assert_int_equal(raft_transport_receive(&w.t, 7, (struct slice){body, sizeof(body)}), -EBADMSG);
    put_u32(body + 8, UINT32_MAX); /* more than any message */
    put_u32(body + 12, UINT32_MAX - 50);
    assert_int_equal(raft_transport_receive(&w.t, 7, (struct slice){body, sizeof(body)}), -EBADMSG);
    world_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_in_order_arrives_once),
        cmocka_unit_test(fragments_of_two_peers_do_not_mix),
        cmocka_unit_test(more_peers_than_places_come_and_go),
        cmocka_unit_test(a_gap_or_another_message_ends_it),
        cmocka_unit_test(lengths_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
