/*
 * The NBD gateway in the simulator: a network that cuts the stream where it
 * likes, a client that says byte for byte what the test wants, a backend whose answers the test
 * gives.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "gw/nbd.h"
#include "gw/nbd_proto.h"
#include "io/sim.h"

enum { SIZE = 48 << 20, PEERS = 4, HEARD_MAX = 40 << 20, PENDING_MAX = 4096 };

/* The client's end of a connection. */
struct peer {
    struct rig *rig;
    struct loop_op connect, send, recv;
    struct loop_conn *conn;
    uint8_t *said; /* to be sent; the first said_start bytes have left or are leaving */
    size_t said_start, said_end;
    struct iovec iov;
    uint8_t *heard;
    size_t heard_start, heard_end; /* heard_start: what the test has taken */
    bool is_sending, is_closed, is_deaf;
};

struct rig {
    struct nbd_backend backend; /* first */
    struct sim *sim;
    struct loop *server_loop, *client_loop;
    struct nbd_server *server;
    struct loop_addr addr;
    uint8_t *disk;
    int open_result;
    uint32_t opens, closes;
    struct client_op *pending[PENDING_MAX];
    uint32_t pending_count;
    bool is_automatic; /* answer at once, last come first served */
    struct task task;
    struct peer peers[PEERS];
    struct loop_msg stopped_msg;
    bool is_stopped;
};

/* ---- The backend ---- */

static int rig_open(struct nbd_backend *b, const char *name, struct client_image **image,
                    uint64_t *size)
{
    struct rig *r = (struct rig *)b;

    if (r->open_result != 0)
        return r->open_result;
    if (strcmp(name, "disk") != 0)
        return -ENOENT;
    r->opens++;
    *image = (struct client_image *)r->disk;
    *size = SIZE;
    return 0;
}

static void rig_close(struct nbd_backend *b, struct client_image *image)
{
    (void)image;
    ((struct rig *)b)->closes++;
}

static bool rig_next(struct nbd_backend *b, uint64_t *cursor, char name[META_NAME_MAX])
{
    (void)b;
    if (*cursor == 100)
        return false;
    memset(name, 'n', 100);
    name[100] = 0;
    name[99] = (char)('0' + *cursor % 10);
    ++*cursor;
    return true;
}

static void rig_submit(struct nbd_backend *b, struct client_op *op)
{
    struct rig *r = (struct rig *)b;

    check(r->pending_count < PENDING_MAX);
    check(op->kind == CLIENT_FLUSH || op->offset + op->len <= SIZE);
    check(op->buf == NULL || (uintptr_t)op->buf % 4096 == 0);
    r->pending[r->pending_count++] = op;
    if (r->is_automatic)
        loop_wake(r->server_loop, &r->task);
}

static void rig_answer(struct rig *r, uint32_t i, int result)
{
    check(i < r->pending_count);
    struct client_op *op = r->pending[i];

    r->pending[i] = r->pending[--r->pending_count];
    op->result = result;
    if (result == 0 && op->kind == CLIENT_READ)
        memcpy(op->buf, r->disk + op->offset, op->len);
    if (result == 0 && op->kind == CLIENT_WRITE)
        memcpy(r->disk + op->offset, op->buf, op->len);
    if (result == 0 && op->kind == CLIENT_ZERO)
        memset(r->disk + op->offset, 0, op->len);
    op->done(op);
}

static void rig_step(struct task *task)
{
    struct rig *r = container_of(task, struct rig, task);

    if (r->pending_count == 0)
        return;
    rig_answer(r, (uint32_t)prng_below(sim_prng(r->sim), r->pending_count), 0);
    loop_wake(r->server_loop, &r->task);
}

/* ---- The client's end ---- */

static void peer_receive(struct peer *p)
{
    if (!p->is_deaf && !p->is_closed)
        loop_recv(p->rig->client_loop, &p->recv, p->conn, p->heard + p->heard_end,
                  HEARD_MAX - p->heard_end);
}

static void peer_on_received(struct loop_op *op)
{
    struct peer *p = container_of(op, struct peer, recv);

    if (op->result <= 0) {
        p->is_closed = true;
        return;
    }
    p->heard_end += (size_t)op->result;
    check(p->heard_end < HEARD_MAX);
    peer_receive(p);
}

static void peer_send(struct peer *p)
{
    if (p->is_sending || p->said_start == p->said_end || p->conn == NULL || p->is_closed)
        return;
    p->is_sending = true;
    p->iov = (struct iovec){p->said + p->said_start, p->said_end - p->said_start};
    loop_send(p->rig->client_loop, &p->send, p->conn, &p->iov, 1);
}

static void peer_on_sent(struct loop_op *op)
{
    struct peer *p = container_of(op, struct peer, send);

    p->is_sending = false;
    if (op->result < 0) {
        p->is_closed = true;
        return;
    }
    p->said_start += p->iov.iov_len;
    peer_send(p);
}

static void peer_on_connected(struct loop_op *op)
{
    struct peer *p = container_of(op, struct peer, connect);

    check(op->result == 0);
    p->conn = op->conn;
    peer_receive(p);
    peer_send(p);
}

static void run(struct rig *r, uint64_t ms)
{
    sim_run_until(r->sim, sim_now(r->sim) + ms * NS_PER_MS);
}

static struct peer *peer_connect(struct rig *r, uint32_t i)
{
    struct peer *p = &r->peers[i];

    p->rig = r;
    p->said = malloc(HEARD_MAX);
    p->heard = malloc(HEARD_MAX);
    check(p->said != NULL && p->heard != NULL);
    loop_op_init(&p->connect, peer_on_connected);
    loop_op_init(&p->send, peer_on_sent);
    loop_op_init(&p->recv, peer_on_received);
    loop_connect(r->client_loop, &p->connect, &r->addr);
    run(r, 50);
    return p;
}

static void say(struct peer *p, const void *data, size_t len)
{
    memcpy(p->said + p->said_end, data, len);
    p->said_end += len;
    peer_send(p);
}

static void say_be(struct peer *p, uint64_t value, uint32_t size)
{
    uint64_t be = htobe64(value);
    say(p, (uint8_t *)&be + 8 - size, size);
}

static void say_go(struct peer *p, const char *name)
{
    uint32_t len = (uint32_t)strlen(name);

    say(p, "IHAVEOPT", 8);
    say_be(p, 7, 4);
    say_be(p, 6 + len, 4);
    say_be(p, len, 4);
    say(p, name, len);
    say_be(p, 0, 2);
}

static void say_command(struct peer *p, enum nbd_command_type type, uint64_t cookie,
                        uint64_t offset, uint32_t len)
{
    say_be(p, 0x25609513, 4);
    say_be(p, 0, 2);
    say_be(p, type, 2);
    say_be(p, cookie, 8);
    say_be(p, offset, 8);
    say_be(p, len, 4);
}

static size_t heard(const struct peer *p)
{
    return p->heard_end - p->heard_start;
}

/* Take a reply; its cookie. */
static uint64_t hear_reply(struct peer *p, enum nbd_error error)
{
    const uint8_t *bytes = p->heard + p->heard_start;
    uint64_t cookie;

    assert_true(heard(p) >= NBD_REPLY_SIZE);
    assert_memory_equal(bytes, "\x67\x44\x66\x98\0\0\0", 7);
    assert_int_equal(bytes[7], error);
    memcpy(&cookie, bytes + 8, 8);
    p->heard_start += NBD_REPLY_SIZE;
    return be64toh(cookie);
}

/* In transmission; nothing heard that was not taken. */
static struct peer *peer_open(struct rig *r, uint32_t i)
{
    struct peer *p = peer_connect(r, i);

    say_be(p, 3, 4);
    say_go(p, "disk");
    run(r, 100);
    assert_int_equal(heard(p), 18 + 32 + 20);
    p->heard_start = p->heard_end;
    return p;
}

/* ---- The rig ---- */

static void rig_init(struct rig *r, uint64_t seed, uint64_t memory)
{
    struct sim_config config = {.seed = seed};

    memset(r, 0, sizeof(*r));
    r->backend = (struct nbd_backend){rig_open, rig_close, rig_next, rig_submit};
    r->sim = sim_create(&config);
    struct sim_host *server = sim_host_create(r->sim, 1), *client = sim_host_create(r->sim, 2);
    r->server_loop = sim_loop_create(server);
    r->client_loop = sim_loop_create(client);
    r->disk = calloc(1, SIZE);
    check(r->disk != NULL);
    task_init(&r->task, rig_step);

    struct nbd_server_config nbd = {.loop = r->server_loop,
                                    .backend = &r->backend,
                                    .connections_max = PEERS,
                                    .memory_max = memory};
    sim_host_addr(server, 10809, &nbd.listen);
    check(nbd_server_create(&nbd, &r->server, &r->addr) == 0);
}

static void rig_deinit(struct rig *r)
{
    loop_halt(r->server_loop);
    loop_halt(r->client_loop);
    nbd_server_close(r->server);
    loop_destroy(r->server_loop);
    loop_destroy(r->client_loop);
    sim_destroy(r->sim);
    for (uint32_t i = 0; i < PEERS; i++) {
        free(r->peers[i].said);
        free(r->peers[i].heard);
    }
    free(r->disk);
}

static struct nbd_status rig_status(struct rig *r)
{
    struct nbd_status st;

    nbd_server_status(r->server, &st);
    return st;
}

/* ---- Tests ---- */

static void silent_client_is_dropped_after_ten_seconds(void **state)
{
    (void)state;
    struct rig r;

    rig_init(&r, 1, 0);
    struct peer *p = peer_connect(&r, 0);
    say_be(p, 3, 4);
    run(&r, 9000);
    assert_false(p->is_closed);
    run(&r, 2000);
    assert_true(p->is_closed);
    assert_int_equal(rig_status(&r).connections, 0);
    rig_deinit(&r);
}

static void idle_client_is_kept_after_the_handshake(void **state)
{
    (void)state;
    struct rig r;

    rig_init(&r, 1, 0);
    struct peer *p = peer_open(&r, 0);
    run(&r, 300 * 1000);
    assert_false(p->is_closed);
    rig_deinit(&r);
}

static void negotiation_waits_for_the_cluster(void **state)
{
    (void)state;
    struct rig r;

    rig_init(&r, 1, 0);
    r.open_result = -EAGAIN;
    struct peer *p = peer_connect(&r, 0);
    say_be(p, 3, 4);
    say_go(p, "disk");
    run(&r, 5000);
    assert_int_equal(heard(p), 18);
    r.open_result = 0;
    run(&r, 100);
    assert_int_equal(heard(p), 18 + 32 + 20);
    rig_deinit(&r);
}

static void image_that_is_newer_than_our_map_is_found(void **state)
{
    (void)state;
    struct rig r;

    rig_init(&r, 1, 0);
    r.open_result = -ENOENT;
    struct peer *p = peer_connect(&r, 0);
    say_be(p, 3, 4);
    say_go(p, "disk");
    run(&r, 100);
    r.open_result = 0;
    run(&r, 100);
    assert_int_equal(heard(p), 18 + 32 + 20);
    rig_deinit(&r);
}

static void long_list_comes_in_several_sends(void **state)
{
    (void)state;
    struct rig r;

    rig_init(&r, 1, 0);
    struct peer *p = peer_connect(&r, 0);
    say_be(p, 3, 4);
    say(p, "IHAVEOPT\0\0\0\3\0\0\0\0", 16);
    run(&r, 500);
    assert_int_equal(heard(p), 18 + 100 * (20 + 4 + 100) + 20);
    rig_deinit(&r);
}

static void depth_is_bounded(void **state)
{
    (void)state;
    struct rig r;

    rig_init(&r, 1, 0);
    struct peer *p = peer_open(&r, 0);
    for (uint64_t i = 0; i < 100; i++)
        say_command(p, NBD_READ, i, i * 4096, 4096);
    run(&r, 200);
    assert_int_equal(r.pending_count, 64);
    rig_answer(&r, 0, 0);
    run(&r, 100);
    assert_int_equal(r.pending_count, 64);
    while (r.pending_count > 0) {
        rig_answer(&r, 0, 0);
        run(&r, 5);
    }
    run(&r, 100);
    assert_int_equal(heard(p), 100 * (NBD_REPLY_SIZE + 4096));
    assert_int_equal(rig_status(&r).memory_bytes, 0);
    rig_deinit(&r);
}

static void errors_have_their_codes(void **state)
{
    (void)state;
    static const struct {
        int result;
        enum nbd_error error;
    } cases[] = {{-ENOENT, NBD_EIO}, {-ENOSPC, NBD_ENOSPC}, {-EINVAL, NBD_EINVAL}, {-EIO, NBD_EIO}};
    struct rig r;

    rig_init(&r, 1, 0);
    struct peer *p = peer_open(&r, 0);
    for (uint64_t i = 0; i < COUNT_OF(cases); i++) {
        say_command(p, NBD_READ, 2 * i, 0, 100);
        run(&r, 50);
        rig_answer(&r, 0, cases[i].result);
        say_command(p, NBD_WRITE, 2 * i + 1, 0, 300000);
        say(p, r.disk, 300000);
        run(&r, 100);
        assert_int_equal(r.pending_count, 3);
        rig_answer(&r, 1, cases[i].result);
        rig_answer(&r, 0, 0);
        rig_answer(&r, 0, 0);
        run(&r, 50);
        assert_int_equal(hear_reply(p, cases[i].error), 2 * i);
        assert_int_equal(hear_reply(p, cases[i].error), 2 * i + 1);
    }
    assert_int_equal(heard(p), 0);
    rig_deinit(&r);
}

static void data_of_a_refused_write_is_dropped(void **state)
{
    (void)state;
    struct rig r;

    rig_init(&r, 1, 0);
    r.is_automatic = true;
    struct peer *p = peer_open(&r, 0);
    say_command(p, NBD_WRITE, 1, SIZE - 4096, 2 << 20);
    say(p, r.disk, 2 << 20);
    say_command(p, NBD_WRITE, 2, SIZE - 4096, 4096);
    memset(p->said + p->said_end, 0x5a, 4096);
    p->said_end += 4096;
    peer_send(p);
    say_command(p, NBD_READ, 3, SIZE, 1);
    say_command(p, NBD_READ, 4, SIZE - 1, 1);
    run(&r, 500);
    assert_int_equal(hear_reply(p, NBD_ENOSPC), 1);
    /* the others in any order: take them by size */
    assert_int_equal(heard(p), 3 * NBD_REPLY_SIZE + 1);
    assert_int_equal(r.disk[SIZE - 1], 0x5a);
    rig_deinit(&r);
}

static void fenced_or_closing_client_drops_the_connection(void **state)
{
    (void)state;
    static const int results[] = {-EPERM, -ECANCELED};

    for (size_t i = 0; i < COUNT_OF(results); i++) {
        struct rig r;

        rig_init(&r, 1, 0);
        struct peer *p = peer_open(&r, 0);
        say_command(p, NBD_WRITE, 1, 0, 4096);
        say(p, r.disk, 4096);
        run(&r, 100);
        rig_answer(&r, 0, results[i]);
        run(&r, 100);
        assert_true(p->is_closed);
        assert_int_equal(heard(p), 0);
        assert_int_equal(r.opens, r.closes);
        rig_deinit(&r);
    }
}

static void late_error_of_a_long_read_drops_the_connection(void **state)
{
    (void)state;
    struct rig r;

    rig_init(&r, 1, 0);
    struct peer *p = peer_open(&r, 0);
    say_command(p, NBD_READ, 1, 0, 2 << 20);
    run(&r, 100);
    assert_int_equal(r.pending_count, 8);
    while (r.pending_count > 0)
        rig_answer(&r, 0, 0);
    run(&r, 1000);
    assert_int_equal(r.pending_count, 8);
    while (r.pending_count > 0)
        rig_answer(&r, 0, -ENOENT);
    run(&r, 1000);
    assert_true(p->is_closed);
    assert_int_equal(rig_status(&r).memory_bytes, 0);
    rig_deinit(&r);
}

static void client_that_vanishes_gives_everything_back(void **state)
{
    (void)state;
    struct rig r;

    rig_init(&r, 1, 0);
    struct peer *p = peer_open(&r, 0);
    say_command(p, NBD_TRIM, 1, 0, SIZE);
    say_command(p, NBD_READ, 2, 0, 4 << 20);
    say_command(p, NBD_WRITE, 3, 0, 4 << 20);
    say(p, r.disk, 3 << 20);
    run(&r, 300);
    uint32_t pending = r.pending_count;
    assert_true(pending > 8);
    loop_conn_close(p->conn);
    p->is_closed = true;
    run(&r, 300);
    assert_int_equal(rig_status(&r).connections, 1); /* until the backend has answered */
    assert_int_equal(r.closes, 0);
    for (uint32_t i = 0; i < 100 && r.pending_count > 0; i++) {
        rig_answer(&r, 0, 0);
        run(&r, 20);
    }
    assert_int_equal(r.pending_count, 0); /* and little of what was left was begun */
    assert_int_equal(rig_status(&r).connections, 0);
    assert_int_equal(rig_status(&r).memory_bytes, 0);
    assert_int_equal(r.closes, 1);
    rig_deinit(&r);
}

static void on_stopped(struct loop_msg *msg)
{
    container_of(msg, struct rig, stopped_msg)->is_stopped = true;
}

static void stop_answers_what_is_in_flight_then_drops(void **state)
{
    (void)state;
    struct rig r;

    rig_init(&r, 1, 0);
    struct peer *p = peer_open(&r, 0), *half = peer_open(&r, 1), *shy = peer_connect(&r, 2);
    say_command(p, NBD_WRITE, 1, 0, 4096);
    say(p, r.disk, 4096);
    say_command(half, NBD_WRITE, 2, 8192, 8192);
    say(half, r.disk, 5000);
    run(&r, 100);
    r.stopped_msg.run = on_stopped;
    nbd_server_stop(r.server, r.server_loop, &r.stopped_msg);
    run(&r, 100);
    assert_true(shy->is_closed && half->is_closed);
    assert_int_equal(heard(half), 0);
    assert_false(p->is_closed || r.is_stopped);
    say_command(p, NBD_READ, 3, 0, 4096); /* not taken any more */
    run(&r, 100);
    assert_int_equal(r.pending_count, 1);
    rig_answer(&r, 0, 0);
    run(&r, 100);
    assert_int_equal(hear_reply(p, NBD_OK), 1);
    assert_true(p->is_closed && r.is_stopped);
    assert_int_equal(heard(p), 0);
    assert_int_equal(r.opens, r.closes);
    rig_deinit(&r);
}

static void disconnect_answers_what_came_before(void **state)
{
    (void)state;
    struct rig r;

    rig_init(&r, 1, 0);
    struct peer *p = peer_open(&r, 0);
    say_command(p, NBD_FLUSH, 1, 0, 0);
    say_command(p, NBD_WRITE_ZEROES, 2, 0, SIZE);
    say_command(p, NBD_DISC, 3, 0, 0);
    run(&r, 100);
    assert_false(p->is_closed);
    r.is_automatic = true;
    loop_wake(r.server_loop, &r.task);
    run(&r, 500);
    assert_int_equal(heard(p), 2 * NBD_REPLY_SIZE);
    assert_true(p->is_closed);
    rig_deinit(&r);
}

static void broken_protocol_and_giant_write_end_the_connection(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        struct rig r;

        rig_init(&r, 1, 0);
        struct peer *p = peer_open(&r, 0);
        if (i == 0)
            say(p, "GET / HTTP/1.1\r\nHost: storage\r\n\r\n", 33);
        else
            say_command(p, NBD_WRITE, 1, 0, NBD_LEN_MAX + 1);
        run(&r, 200);
        assert_true(p->is_closed);
        rig_deinit(&r);
    }
}

/* Two of them do not take what they asked for; the others must not suffer for ever. */
static void memory_is_bounded_and_nobody_locks_up(void **state)
{
    (void)state;
    struct rig r;

    rig_init(&r, 1, 4 << 20);
    r.is_automatic = true;
    for (uint32_t i = 0; i < PEERS; i++) {
        struct peer *p = peer_open(&r, i);
        for (uint64_t j = 0; j < 8; j++) {
            say_command(p, NBD_READ, j, j << 20, 3 << 20);
            say_command(p, NBD_WRITE, 100 + j, 24 << 20, 600000);
            say(p, r.disk, 600000);
        }
    }
    for (uint32_t i = 0; i < 2000; i++) {
        run(&r, 5);
        struct nbd_status st = rig_status(&r);
        assert_true(st.memory_bytes <= st.memory_bytes_max);
        assert_true(st.memory_bytes_max <= 4 << 20);
    }
    for (uint32_t i = 0; i < PEERS; i++)
        assert_int_equal(heard(&r.peers[i]), 8 * ((3 << 20) + 2 * NBD_REPLY_SIZE));
    assert_int_equal(rig_status(&r).memory_bytes, 0);
    rig_deinit(&r);
}

/* One request after the other, all kinds, any place and length, checked against a copy. */
static void random_requests_do_what_they_say(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct rig r;
        uint8_t *model = calloc(1, SIZE);

        check(model != NULL);
        rig_init(&r, seed, 2 << 20);
        r.is_automatic = true;
        struct peer *p = peer_open(&r, 0);
        struct prng prng;
        prng_init(&prng, seed);
        for (uint64_t i = 0; i < 40; i++) {
            uint32_t len = (uint32_t)prng_below(&prng, prng_chance(&prng, 1, 2) ? 9000 : 2500000);
            uint64_t offset = prng_below(&prng, (4 << 20) - len);
            uint64_t kind = prng_below(&prng, 3);
            say_command(p, kind == 0 ? NBD_READ : kind == 1 ? NBD_WRITE : NBD_TRIM, i, offset, len);
            if (kind == 1) {
                memset(model + offset, (int)(i + 1), len);
                say(p, model + offset, len);
            } else if (kind == 2) {
                memset(model + offset, 0, len);
            }
            for (uint32_t turns = 0; turns < 5000; turns++) {
                run(&r, 5);
                if (heard(p) == NBD_REPLY_SIZE + (kind == 0 ? len : 0))
                    break;
            }
            assert_int_equal(hear_reply(p, NBD_OK), i);
            if (kind == 0) {
                assert_memory_equal(p->heard + p->heard_start, model + offset, len);
                p->heard_start += len;
            }
        }
        assert_memory_equal(r.disk, model, SIZE);
        rig_deinit(&r);
        free(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(silent_client_is_dropped_after_ten_seconds),
        cmocka_unit_test(idle_client_is_kept_after_the_handshake),
        cmocka_unit_test(negotiation_waits_for_the_cluster),
        cmocka_unit_test(image_that_is_newer_than_our_map_is_found),
        cmocka_unit_test(long_list_comes_in_several_sends),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(errors_have_their_codes),
        cmocka_unit_test(data_of_a_refused_write_is_dropped),
        cmocka_unit_test(fenced_or_closing_client_drops_the_connection),
        cmocka_unit_test(late_error_of_a_long_read_drops_the_connection),
        cmocka_unit_test(client_that_vanishes_gives_everything_back),
        cmocka_unit_test(stop_answers_what_is_in_flight_then_drops),
        cmocka_unit_test(disconnect_answers_what_came_before),
        cmocka_unit_test(broken_protocol_and_giant_write_end_the_connection),
        cmocka_unit_test(memory_is_bounded_and_nobody_locks_up),
        cmocka_unit_test(random_requests_do_what_they_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
