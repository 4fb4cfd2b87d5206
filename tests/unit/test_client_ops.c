/*
 * The client against a world that is answered by hand: cutting, routing, retrying, names and the
 * window, fences.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "tests/unit/client_world.h"

static uint8_t disk[WORLD_SIZE];

static void fill_disk(void)
{
    for (size_t i = 0; i < sizeof(disk); i++)
        disk[i] = (uint8_t)mix64(i);
}

static void op_is_cut_at_the_borders_of_objects(void **state)
{
    (void)state;
    struct world w;
    struct client_op op;

    world_init(&w);
    fill_disk();
    world_start(&w, &op, CLIENT_WRITE, WORLD_OBJECT - 5, 2 * WORLD_OBJECT, disk);
    assert_int_equal(w.calls_count, 3);
    static const uint32_t lens[] = {5, WORLD_OBJECT, WORLD_OBJECT - 5};
    uint32_t done = 0;
    for (uint32_t i = 0; i < 3; i++) {
        struct wire_osd_io io = world_io(w.calls[i]);
        world_check_write(w.calls[i]);
        assert_int_equal(io.object, i);
        assert_int_equal(io.offset, i == 0 ? WORLD_OBJECT - 5 : 0);
        assert_int_equal(io.len, lens[i]);
        assert_int_equal(io.seq, i + 1);
        assert_int_equal(io.floor, 1);
        assert_int_equal(io.client, 1);
        assert_ptr_equal(w.calls[i]->data[0].iov_base, disk + done);
        done += lens[i];
        uint32_t pg = world_pg_number(i);
        assert_int_equal(w.calls[i]->pg, (uint64_t)1 << 32 | pg);
        assert_int_equal(w.calls[i]->to, net_endpoint_make(NET_OSD, w.pgs[pg].primary));
        assert_int_equal(w.calls[i]->epoch, 5);
        assert_int_equal(w.calls[i]->to_incarnation, 10);
    }
    world_answer(&w, 1, 0, true);
    world_answer(&w, 1, 0, true);
    assert_int_equal(w.done_count, 0);
    world_answer(&w, 0, 0, true);
    assert_int_equal(w.done_count, 1);
    assert_int_equal(op.result, 0);
    world_deinit(&w);
}

static void read_gives_the_bytes_and_no_name(void **state)
{
    (void)state;
    struct world w;
    struct client_op op;
    static uint8_t buf[3 * WORLD_OBJECT];

    world_init(&w);
    fill_disk();
    world_start(&w, &op, CLIENT_READ, 4097, sizeof(buf) - 9000, buf);
    while (w.calls_count > 0) {
        struct wire_osd_io io = world_io(w.calls[w.calls_count - 1]);
        assert_int_equal(io.client, 0);
        assert_int_equal(io.seq, 0);
        assert_int_equal(io.floor, 0);
        world_answer_read(&w, w.calls_count - 1, disk, 0);
    }
    assert_int_equal(op.result, 0);
    assert_memory_equal(buf, disk + 4097, sizeof(buf) - 9000);
    world_deinit(&w);
}

static void read_that_does_not_match_its_checksums_is_made_again(void **state)
{
    (void)state;
    struct world w;
    struct client_op op;
    struct client_status st;
    static uint8_t buf[WORLD_OBJECT];

    world_init(&w);
    fill_disk();
    for (uint32_t flip = 1; flip < WORLD_OBJECT; flip += 1111) {
        world_start(&w, &op, CLIENT_READ, 0, WORLD_OBJECT, buf);
        world_answer_read(&w, 0, disk, flip);
        assert_int_equal(w.calls_count, 0);
        world_pass(&w, 10);
        world_answer_read(&w, 0, disk, 0);
        assert_int_equal(op.result, 0);
        assert_memory_equal(buf, disk, WORLD_OBJECT);
    }
    client_status(w.client, &st);
    assert_int_equal(st.crc_errors_total, 15);
    world_deinit(&w);
}

static void retry_has_the_same_number_after_any_passing_error(void **state)
{
    (void)state;
    static const struct {
        int status;
        bool answered;
    } errors[] = {{-EAGAIN, true},     {-ESTALE, true}, {-EPIPE, false}, {-ECONNREFUSED, false},
                  {-ETIMEDOUT, false}, {-EBUSY, true},  {-EBUSY, false}, {-EBADMSG, true},
                  {-EIO, true},        {-EPROTO, false}};
    struct world w;
    struct client_op op;

    world_init(&w);
    world_start(&w, &op, CLIENT_WRITE, 0, 4096, disk);
    for (size_t i = 0; i < COUNT_OF(errors); i++) {
        assert_int_equal(world_io(w.calls[0]).seq, 1);
        world_check_write(w.calls[0]);
        world_answer(&w, 0, errors[i].status, errors[i].answered);
        assert_int_equal(w.calls_count, 0);
        world_pass(&w, 201);
        assert_int_equal(w.calls_count, 1);
    }
    world_answer(&w, 0, 0, true);
    assert_int_equal(op.result, 0);
    world_deinit(&w);
}

static void final_errors_end_the_op(void **state)
{
    (void)state;
    static const int errors[] = {-ENOENT, -EINVAL, -ENOSPC, -ENODATA, -ECANCELED};
    struct world w;
    struct client_op op;

    world_init(&w);
    for (size_t i = 0; i < COUNT_OF(errors); i++) {
        world_start(&w, &op, CLIENT_WRITE, 0, 4096, disk);
        world_answer(&w, 0, errors[i], true);
        assert_int_equal(op.result, errors[i]);
    }
    assert_int_equal(w.done_count, COUNT_OF(errors));
    world_deinit(&w);
}

static void backoff_grows_and_stays_below_its_bound(void **state)
{
    (void)state;
    struct world w;
    struct client_op op;

    world_init(&w);
    world_start(&w, &op, CLIENT_WRITE, 0, 4096, disk);
    for (uint32_t try = 0; try < 20; try++) {
        uint64_t start = w.now;
        world_answer(&w, 0, -EAGAIN, true);
        while (w.calls_count == 0)
            world_pass(&w, 1);
        uint64_t ms = (w.now - start) / NS_PER_MS, bound = try < 6 ? 5u <<
        try:
            200;
        assert_true(ms <= (bound < 200 ? bound : 200) + 1);
        assert_true(ms >= (bound < 200 ? bound : 200) / 2);
    }
    world_deinit(&w);
}

static void newer_map_with_another_primary_ends_the_wait(void **state)
{
    (void)state;
    struct world w;
    struct client_op op;

    world_init(&w);
    world_start(&w, &op, CLIENT_WRITE, 0, 4096, disk);
    struct map_pg *pg = &w.pgs[world_pg_number(0)];
    for (uint32_t i = 0; i < 10; i++) { /* long enough that the wait is long */
        world_answer(&w, 0, -EAGAIN, true);
        while (w.calls_count == 0)
            world_pass(&w, 1);
    }
    world_answer(&w, 0, -EPIPE, false);
    world_publish(&w); /* newer, and the same for this PG: goes on waiting */
    assert_int_equal(w.calls_count, 0);
    pg->primary = pg->primary % WORLD_OSDS + 1;
    pg->epoch++;
    pg->active = false;
    world_publish(&w); /* nobody serves yet */
    assert_int_equal(w.calls_count, 0);
    pg->active = true;
    world_publish(&w);
    assert_int_equal(w.calls_count, 1);
    assert_int_equal(w.calls[0]->to, net_endpoint_make(NET_OSD, pg->primary));
    assert_int_equal(w.calls[0]->epoch, 6);
    assert_int_equal(world_io(w.calls[0]).seq, 1);
    world_answer(&w, 0, 0, true);
    assert_int_equal(op.result, 0);
    world_deinit(&w);
}

static void call_to_a_deposed_primary_is_given_up_at_once(void **state)
{
    (void)state;
    struct world w;
    struct client_op op;

    world_init(&w);
    world_start(&w, &op, CLIENT_WRITE, 0, 4096, disk);
    struct map_pg *pg = &w.pgs[world_pg_number(0)];
    pg->epoch++;
    world_publish(&w); /* a shrink: the same primary goes on with it */
    assert_int_equal(w.calls_total, 1);
    pg->primary = pg->primary % WORLD_OSDS + 1;
    pg->epoch++;
    world_publish(&w);
    assert_int_equal(w.calls_total, 2);
    assert_int_equal(w.calls_count, 1);
    assert_int_equal(w.calls[0]->to, net_endpoint_make(NET_OSD, pg->primary));
    assert_int_equal(world_io(w.calls[0]).seq, 1);
    world_answer(&w, 0, 0, true);
    assert_int_equal(op.result, 0);
    world_deinit(&w);
}

static void inactive_pg_is_probed_once_a_second(void **state)
{
    (void)state;
    struct world w;
    struct client_op op;

    world_init(&w);
    w.pgs[world_pg_number(0)].active = false;
    world_publish(&w);
    world_start(&w, &op, CLIENT_READ, 0, 4096, disk);
    world_pass(&w, 990);
    assert_int_equal(w.calls_total, 0);
    world_pass(&w, 20);
    assert_int_equal(w.calls_total, 1);
    world_answer_read(&w, 0, disk, 0); /* it knew more than our map */
    assert_int_equal(op.result, 0);
    world_deinit(&w);
}

static void window_stops_writes_but_not_reads(void **state)
{
    (void)state;
    struct world w;
    struct client_op stuck, op;

    world_init(&w);
    world_start(&w, &stuck, CLIENT_WRITE, 0, 4096, disk);
    for (uint32_t i = 2; i <= WIRE_OSD_WINDOW; i++) {
        world_start(&w, &op, CLIENT_ZERO, WORLD_OBJECT, 4096, NULL);
        assert_int_equal(world_io(w.calls[1]).seq, i);
        assert_int_equal(world_io(w.calls[1]).floor, 1);
        world_answer(&w, 1, 0, true);
    }
    assert_int_equal(w.done_count, WIRE_OSD_WINDOW - 1);
    world_start(&w, &op, CLIENT_WRITE, WORLD_OBJECT, 4096, disk);
    assert_int_equal(w.calls_count, 1);

    struct client_op read;
    static uint8_t buf[4096];
    world_start(&w, &read, CLIENT_READ, 0, 4096, buf);
    assert_int_equal(w.calls_count, 2);
    world_answer_read(&w, 1, disk, 0);
    assert_int_equal(read.result, 0);

    world_answer(&w, 0, 0, true);
    assert_int_equal(stuck.result, 0);
    assert_int_equal(w.calls_count, 1);
    assert_int_equal(world_io(w.calls[0]).seq, WIRE_OSD_WINDOW + 1);
    assert_int_equal(world_io(w.calls[0]).floor, WIRE_OSD_WINDOW + 1);
    world_deinit(&w);
}

static void parts_are_bounded_and_the_rest_queues(void **state)
{
    (void)state;
    struct world w;
    struct client_op ops[3];
    uint32_t answered = 0;

    world_init(&w);
    for (uint32_t i = 0; i < 3; i++)
        world_start(&w, &ops[i], CLIENT_WRITE, 0, WORLD_SIZE, disk);
    assert_int_equal(w.calls_count, WORLD_PARTS - WORLD_PARTS / 4);
    while (w.calls_count > 0) {
        world_answer(&w, w.calls_count - 1, 0, true);
        answered++;
    }
    assert_int_equal(answered, 3 * WORLD_SIZE / WORLD_OBJECT);
    assert_int_equal(w.done_count, 3);
    world_deinit(&w);
}

static void flush_waits_for_earlier_writes_of_its_image_only(void **state)
{
    (void)state;
    struct world w;
    struct client_op early, flush, late, idle;

    world_init(&w);
    world_start(&w, &idle, CLIENT_FLUSH, 0, 0, NULL);
    assert_int_equal(idle.result, 0);
    world_start(&w, &early, CLIENT_WRITE, 0, 4096, disk);
    world_start(&w, &flush, CLIENT_FLUSH, 0, 0, NULL);
    world_start(&w, &late, CLIENT_WRITE, 4096, 4096, disk);
    assert_int_equal(w.done_count, 1);
    world_answer(&w, 0, 0, true);
    assert_int_equal(w.done_count, 3);
    assert_int_equal(flush.result, 0);
    world_deinit(&w);
}

static void bad_ranges_and_nothing_to_do_are_answered_at_once(void **state)
{
    (void)state;
    struct world w;
    struct client_op op;

    world_init(&w);
    world_start(&w, &op, CLIENT_WRITE, WORLD_SIZE - 1, 2, disk);
    assert_int_equal(op.result, -EINVAL);
    world_start(&w, &op, CLIENT_READ, UINT64_MAX, 2, disk);
    assert_int_equal(op.result, -EINVAL);
    world_start(&w, &op, CLIENT_ZERO, 0, CLIENT_IO_MAX + 1, NULL);
    assert_int_equal(op.result, -EINVAL);
    world_start(&w, &op, CLIENT_READ, WORLD_SIZE, 0, NULL);
    assert_int_equal(op.result, 0);
    assert_int_equal(w.calls_total, 0);
    assert_int_equal(w.done_count, 4);
    world_deinit(&w);
}

static void deleted_image_ends_ops_but_a_late_osd_does_not(void **state)
{
    (void)state;
    struct world w;
    struct client_op op;

    world_init(&w);
    world_start(&w, &op, CLIENT_WRITE, 0, 4096, disk);
    struct rpc_call *c = world_take_call(&w, 0);
    c->status = -ENOENT; /* from an OSD that has not heard of the image yet */
    c->answered = true;
    c->reply_revision = w.map.revision - 1;
    c->done(c);
    world_pass(&w, 10);
    assert_int_equal(w.calls_count, 1);
    world_answer(&w, 0, -EAGAIN, true);

    w.map.images_count = 0;
    world_publish(&w);
    assert_int_equal(w.done_count, 1);
    assert_int_equal(op.result, -ENOENT);
    world_start(&w, &op, CLIENT_READ, 0, 4096, disk);
    assert_int_equal(op.result, -ENOENT);
    world_deinit(&w);
}

static void writes_wait_for_the_client_id_and_reads_do_not(void **state)
{
    (void)state;
    struct world w;
    struct client_op write, read;

    world_init_without_id(&w, 1);
    world_start(&w, &write, CLIENT_WRITE, 0, 4096, disk);
    assert_int_equal(w.calls_count, 0);
    world_start(&w, &read, CLIENT_READ, 0, 4096, disk);
    assert_int_equal(w.calls_count, 1);

    struct meta_call *call = w.id_call; /* refused: asks again later */
    w.id_call = NULL;
    call->result.code = -ETIMEDOUT;
    call->done(call);
    world_pass(&w, 501);
    world_give_id(&w);
    assert_int_equal(w.calls_count, 2);
    world_deinit(&w);
}

static void fenced_write_that_was_never_executed_goes_on_under_a_new_id(void **state)
{
    (void)state;
    struct world w;
    struct client_op fresh, other;

    world_init(&w);
    world_start(&w, &other, CLIENT_WRITE, WORLD_OBJECT, 4096, disk);
    world_start(&w, &fresh, CLIENT_WRITE, 0, 4096, disk);
    world_answer(&w, 1, -EPERM, true);
    assert_int_equal(w.done_count, 0);
    assert_null(w.id_call); /* the other one still goes under the old id */
    world_answer(&w, 0, 0, true);
    assert_int_equal(other.result, 0);

    world_give_id(&w);
    assert_int_equal(w.calls_count, 1);
    assert_int_equal(world_io(w.calls[0]).client, 2);
    assert_int_equal(world_io(w.calls[0]).seq, 1);
    world_check_write(w.calls[0]);
    world_answer(&w, 0, 0, true);
    assert_int_equal(fresh.result, 0);
    world_deinit(&w);
}

static void fenced_write_that_may_have_been_executed_ends(void **state)
{
    (void)state;
    struct world w;
    struct client_op op, next;

    world_init(&w);
    world_start(&w, &op, CLIENT_WRITE, 0, 4096, disk);
    world_answer(&w, 0, -EPIPE, false);
    world_pass(&w, 10);
    world_answer(&w, 0, -EPERM, true);
    assert_int_equal(w.done_count, 1);
    assert_int_equal(op.result, -EPERM);
    world_start(&w, &next, CLIENT_WRITE, 0, 4096, disk);
    world_give_id(&w);
    assert_int_equal(world_io(w.calls[0]).client, 2);
    world_deinit(&w);
}

static void fence_in_the_map_ends_writes_that_wait(void **state)
{
    (void)state;
    struct world w;
    struct client_op waiting, sent;

    world_init(&w);
    world_start(&w, &waiting, CLIENT_WRITE, 0, 4096, disk);
    world_answer(&w, 0, -ETIMEDOUT, false);
    world_start(&w, &sent, CLIENT_WRITE, WORLD_OBJECT, 4096, disk);
    w.map.client_last = 1; /* and it is not among the clients */
    world_publish(&w);
    assert_int_equal(waiting.result, -EPERM);
    assert_int_equal(w.done_count, 1);
    assert_null(w.id_call);
    world_answer(&w, 0, -ETIMEDOUT, false);
    assert_int_equal(sent.result, -EPERM);
    world_give_id(&w);
    struct client_status st;
    client_status(w.client, &st);
    assert_int_equal(st.id, 2);
    assert_int_equal(st.fenced_total, 1);
    world_deinit(&w);
}

static void refused_connection_is_reported_for_the_incarnation_we_tried(void **state)
{
    (void)state;
    struct world w;
    struct loop_addr addr;
    net_endpoint osd = net_endpoint_make(NET_OSD, 2);

    world_init(&w);
    assert_int_equal(client_resolve(w.client, osd, &addr), 0);
    assert_int_equal(addr.port, 7401);
    assert_int_equal(client_resolve(w.client, net_endpoint_make(NET_OSD, 9), &addr), -ENOENT);
    uint32_t kicks = w.kicks;
    w.osds[1].incarnation = 11; /* it came back elsewhere while we tried the old address */
    w.nodes[1].addr.port = 9999;
    world_publish(&w);
    assert_int_equal(w.kicks, kicks + 1);
    client_peer_lost(w.client, osd, 0, -EPIPE);
    assert_int_equal(w.reports, 0);
    client_peer_lost(w.client, osd, 11, -ECONNREFUSED);
    assert_int_equal(w.reports, 1);
    assert_int_equal(w.report_osd, 2);
    assert_int_equal(w.report_incarnation, 10);
    world_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(op_is_cut_at_the_borders_of_objects),
        cmocka_unit_test(read_gives_the_bytes_and_no_name),
        cmocka_unit_test(read_that_does_not_match_its_checksums_is_made_again),
        cmocka_unit_test(retry_has_the_same_number_after_any_passing_error),
        cmocka_unit_test(final_errors_end_the_op),
        cmocka_unit_test(backoff_grows_and_stays_below_its_bound),
        cmocka_unit_test(newer_map_with_another_primary_ends_the_wait),
        cmocka_unit_test(call_to_a_deposed_primary_is_given_up_at_once),
        cmocka_unit_test(inactive_pg_is_probed_once_a_second),
        cmocka_unit_test(window_stops_writes_but_not_reads),
        cmocka_unit_test(parts_are_bounded_and_the_rest_queues),
        cmocka_unit_test(flush_waits_for_earlier_writes_of_its_image_only),
        cmocka_unit_test(bad_ranges_and_nothing_to_do_are_answered_at_once),
        cmocka_unit_test(deleted_image_ends_ops_but_a_late_osd_does_not),
        cmocka_unit_test(writes_wait_for_the_client_id_and_reads_do_not),
        cmocka_unit_test(fenced_write_that_was_never_executed_goes_on_under_a_new_id),
        cmocka_unit_test(fenced_write_that_may_have_been_executed_ends),
        cmocka_unit_test(fence_in_the_map_ends_writes_that_wait),
        cmocka_unit_test(refused_connection_is_reported_for_the_incarnation_we_tried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
