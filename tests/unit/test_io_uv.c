/* Threads, unix sockets and odd files over libuv; and its thread pool. */

#include "tests/unit/io_real.h"

#include "io/uv_impl.h"

#include <semaphore.h>

enum { POOL_THREADS = 12, POOL_SHARE = 3, POOL_OPS = 500 };

static struct loop_file *pool_file(struct loop *l)
{
    struct loop_file *f;

    assert_int_equal(loop_file_open(l, "./test_io_uv.f", LOOP_FILE_WRITE | LOOP_FILE_CREATE, &f),
                     0);
    assert_int_equal(loop_unlink(l, "./test_io_uv.f"), 0);
    return f;
}

struct pool_op {
    struct loop_op op; /* first: done() finds the rest */
    struct loop *loop;
    uint32_t *left;
    uint8_t buf[16];
};

static void on_pool_op(struct loop_op *op)
{
    struct pool_op *o = (struct pool_op *)op;

    if (op->result == 0 && --*o->left == 0)
        loop_stop(o->loop);
}

static void a_loop_takes_its_share_of_the_pool_and_no_more(void **state)
{
    struct loop *l;
    struct pool_op *ops = calloc(POOL_OPS, sizeof(*ops));
    uint32_t left = POOL_OPS;

    (void)state;
    assert_int_equal(loop_create(&l, LOOP_UV, 256), 0);
    struct loop_file *f = pool_file(l);
    for (uint32_t i = 0; i < POOL_OPS; i++) {
        ops[i].loop = l;
        ops[i].left = &left;
        loop_op_init(&ops[i].op, on_pool_op);
        loop_read(l, &ops[i].op, f, ops[i].buf, sizeof(ops[i].buf), 0);
        assert_true(luv_loop(l)->works_busy <= POOL_SHARE);
    }
    assert_int_equal(luv_loop(l)->works_busy, POOL_SHARE);
    loop_run(l);
    assert_int_equal(left, 0);
    assert_int_equal(luv_loop(l)->works_busy, 0);
    loop_destroy(l);
    free(ops);
}

/* ---- What nobody waits for ---- */

static void rest(struct loop *l)
{
    struct ending stop = {.loop = l};

    loop_timer_init(&stop.timer, on_ending);
    loop_timer_start(l, &stop.timer, loop_now(l) + NS_PER_MS);
    loop_run(l);
}

/* Else the loop would not sleep while there is something to read, or a connection to accept. */
static void what_nobody_waits_for_is_not_polled(void **state)
{
    static const char path[] = "./test_io_uv.sock";
    struct loop *l;
    struct loop_listener *listener;
    struct flagged accept = {0}, recv = {0};
    char byte;

    (void)state;
    assert_int_equal(loop_create(&l, LOOP_UV, 8), 0);
    assert_int_equal(loop_listen_unix(l, path, &listener), 0);
    int first = unix_connect(path), second = unix_connect(path);
    loop_op_init(&accept.op, on_done_stop);
    loop_accept(l, &accept.op, listener);
    loop_run(l);
    assert_int_equal(accept.op.result, 0);
    rest(l);
    assert_int_equal(os_listener(listener)->watch->events, 0);

    assert_int_equal(write(first, "xy", 2), 2);
    loop_op_init(&recv.op, on_done_stop);
    loop_recv(l, &recv.op, accept.op.conn, &byte, 1);
    loop_run(l);
    assert_int_equal(recv.op.result, 1);
    rest(l);
    assert_int_equal(os_conn(accept.op.conn)->watch->events, 0);
    loop_recv(l, &recv.op, accept.op.conn, &byte, 1);
    loop_run(l);
    assert_int_equal(byte, 'y');
    close(first);
    close(second);
    loop_destroy(l);
}

/* ---- Disks that hang: the pool's threads are held by others ---- */

struct hung {
    uv_loop_t uv;
    uv_work_t works[POOL_THREADS];
    uint32_t count;
    sem_t begun, go_on;
};

static void hung_work(uv_work_t *req)
{
    struct hung *h = req->data;

    sem_post(&h->begun);
    while (sem_wait(&h->go_on) != 0)
        ;
}

static void hung_done(uv_work_t *req, int status)
{
    (void)req;
    assert_int_equal(status, 0);
}

static void hung_start(struct hung *h, uint32_t threads)
{
    h->count = threads;
    sem_init(&h->begun, 0, 0);
    sem_init(&h->go_on, 0, 0);
    assert_int_equal(uv_loop_init(&h->uv), 0);
    for (uint32_t i = 0; i < threads; i++) {
        h->works[i].data = h;
        assert_int_equal(uv_queue_work(&h->uv, &h->works[i], hung_work, hung_done), 0);
    }
    for (uint32_t i = 0; i < threads; i++)
        assert_int_equal(sem_wait(&h->begun), 0);
}

static void hung_end(struct hung *h)
{
    for (uint32_t i = 0; i < h->count; i++)
        sem_post(&h->go_on);
    uv_run(&h->uv, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&h->uv), 0);
}

static void three_hung_disks_leave_room_for_a_fourth_loop(void **state)
{
    struct hung h = {0};
    struct loop *l;
    struct flagged read = {0};
    char buf[8];

    (void)state;
    hung_start(&h, 3 * POOL_SHARE);
    assert_int_equal(loop_create(&l, LOOP_UV, 256), 0);
    loop_op_init(&read.op, on_done_stop);
    loop_read(l, &read.op, pool_file(l), buf, sizeof(buf), 0);
    loop_run(l);
    assert_int_equal(read.count, 1);
    loop_destroy(l);
    hung_end(&h);
}

enum { HELD_UP = 8 };

struct held_up {
    struct loop_op op; /* first: done() finds the rest */
    struct loop *loop;
    uint32_t number, *next;
};

static void on_held_up(struct loop_op *op)
{
    struct held_up *o = (struct held_up *)op;

    assert_int_equal(op->result, 1);
    assert_int_equal(o->number, *o->next);
    if (++*o->next == HELD_UP)
        loop_stop(o->loop);
}

/* And what was held up is done in order when it goes on: with one thread it shows. */
static void a_loop_stops_and_ends_while_the_disks_of_others_hang(void **state)
{
    struct hung h = {0};
    struct loop *l;
    struct ending stop;
    struct held_up writes[HELD_UP];
    uint32_t next = 0;

    (void)state;
    hung_start(&h, POOL_THREADS);
    assert_int_equal(loop_create(&l, LOOP_UV, 256), 0);
    struct loop_file *f = pool_file(l);
    for (uint32_t i = 0; i < HELD_UP; i++) {
        writes[i] = (struct held_up){.loop = l, .number = i, .next = &next};
        loop_op_init(&writes[i].op, on_held_up);
        loop_write(l, &writes[i].op, f, "x", 1, i);
    }
    stop.loop = l;
    loop_timer_init(&stop.timer, on_ending);
    for (uint32_t i = 0; i < 3; i++) {
        loop_timer_start(l, &stop.timer, loop_now(l) + NS_PER_MS);
        loop_run(l);
        assert_int_equal(next, 0);
    }
    sem_post(&h.go_on);
    h.count--;
    loop_run(l);
    assert_int_equal(next, HELD_UP);

    hung_end(&h);
    hung_start(&h, POOL_THREADS);
    loop_write(l, &writes[0].op, f, "x", 1, 0);
    loop_halt(l);
    assert_int_equal(next, HELD_UP);
    loop_destroy(l);
    hung_end(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_nobody_waits_for_is_not_polled),
        cmocka_unit_test(a_loop_takes_its_share_of_the_pool_and_no_more),
        cmocka_unit_test(three_hung_disks_leave_room_for_a_fourth_loop),
        cmocka_unit_test(a_loop_stops_and_ends_while_the_disks_of_others_hang),
    };

    setenv("UV_THREADPOOL_SIZE", "12", 1); /* POOL_THREADS */
    int failed = real_run(LOOP_UV);
    return failed + cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
