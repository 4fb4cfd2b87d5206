/* What the back ends over a real system promise beyond the contract: threads, unix sockets, odd
 * files. Meant to run under ThreadSanitizer too. A test program sets real_kind. */

#ifndef TESTS_UNIT_IO_REAL_H
#define TESTS_UNIT_IO_REAL_H

#include "io/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static enum loop_kind real_kind;

static void *thread_run(void *arg)
{
    loop_run(arg);
    return NULL;
}

static struct loop *loop_start(pthread_t *thread)
{
    struct loop *l;

    assert_int_equal(loop_create(&l, real_kind, 32), 0);
    assert_int_equal(pthread_create(thread, NULL, thread_run, l), 0);
    return l;
}

/* ---- Messages between threads ---- */

enum { BURST = 20000, ROUNDS = 2000 };

struct numbered {
    struct loop_msg msg; /* first: run() finds the rest */
    struct loop *to;
    uint32_t number;
    uint32_t *next;      /* of this sender, at the receiver */
    uint32_t *unordered; /* at the receiver */
    bool is_last;
};

static void on_numbered(struct loop_msg *msg)
{
    struct numbered *n = (struct numbered *)msg;

    if (n->number != (*n->next)++)
        ++*n->unordered;
    if (n->is_last)
        loop_stop(n->to);
}

struct sender {
    struct loop *to;
    struct numbered *msgs;
};

static void *thread_send(void *arg)
{
    struct sender *s = arg;

    for (uint32_t i = 0; i < BURST; i++)
        loop_post(s->to, &s->msgs[i].msg);
    return NULL;
}

static void two_senders_each_arrive_in_order_and_whole(void **state)
{
    struct loop *l;
    struct sender senders[2];
    pthread_t threads[2];
    uint32_t next[2] = {0}, unordered = 0;
    static struct numbered msgs[2][BURST];

    (void)state;
    assert_int_equal(loop_create(&l, real_kind, 32), 0);
    for (uint32_t s = 0; s < 2; s++) {
        for (uint32_t i = 0; i < BURST; i++)
            msgs[s][i] = (struct numbered){.msg.run = on_numbered,
                                           .to = l,
                                           .number = i,
                                           .next = &next[s],
                                           .unordered = &unordered,
                                           .is_last = i == BURST - 1};
        senders[s] = (struct sender){l, msgs[s]};
        assert_int_equal(pthread_create(&threads[s], NULL, thread_send, &senders[s]), 0);
    }
    while (next[0] < BURST || next[1] < BURST)
        loop_run(l); /* each sender's last message ends one run */
    for (uint32_t s = 0; s < 2; s++)
        pthread_join(threads[s], NULL);
    assert_int_equal(unordered, 0);
    loop_destroy(l);
}

struct ball {
    struct loop_msg msg; /* first: run() finds the rest */
    struct loop *loops[2];
    uint32_t hops; /* not atomic: the post that carries it orders everything */
};

static void on_ball(struct loop_msg *msg)
{
    struct ball *b = (struct ball *)msg;

    if (++b->hops < 2 * ROUNDS) {
        loop_post(b->loops[b->hops % 2], msg);
        return;
    }
    loop_stop(b->loops[0]);
    loop_stop(b->loops[1]);
}

/* Both sleep most of the time: a lost wake-up would end this in a hang. */
static void a_message_wakes_a_sleeping_loop_every_time(void **state)
{
    struct ball b = {.msg.run = on_ball};
    pthread_t threads[2];

    (void)state;
    b.loops[0] = loop_start(&threads[0]);
    b.loops[1] = loop_start(&threads[1]);
    loop_post(b.loops[0], &b.msg);
    for (uint32_t i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(b.hops, 2 * ROUNDS);
    for (uint32_t i = 0; i < 2; i++)
        loop_destroy(b.loops[i]);
}

static void a_stop_that_comes_first_is_not_lost(void **state)
{
    struct loop *l;

    (void)state;
    assert_int_equal(loop_create(&l, real_kind, 1), 0);
    loop_stop(l);
    loop_stop(l);
    loop_run(l);
    loop_destroy(l);
}

/* ---- Starting and ending on other threads ---- */

struct flagged {
    struct loop_op op; /* first: done() finds the rest */
    uint32_t count;
};

static void on_done_stop(struct loop_op *op)
{
    ((struct flagged *)op)->count++;
    loop_stop(op->loop);
}

static void an_op_started_before_the_loop_runs_comes_back_on_its_thread(void **state)
{
    struct loop *l;
    struct loop_file *f;
    pthread_t thread;
    struct flagged write = {0};

    (void)state;
    assert_int_equal(loop_create(&l, real_kind, 1), 0);
    assert_int_equal(loop_file_open(l, "./test_io_real.f", LOOP_FILE_WRITE | LOOP_FILE_CREATE, &f),
                     0);
    loop_op_init(&write.op, on_done_stop);
    loop_write(l, &write.op, f, "hello", 5, 0);
    assert_int_equal(pthread_create(&thread, NULL, thread_run, l), 0);
    pthread_join(thread, NULL);
    assert_int_equal(write.count, 1);
    assert_int_equal(write.op.result, 5);
    assert_int_equal(loop_file_size(f), 5);
    assert_int_equal(loop_unlink(l, "./test_io_real.f"), 0);
    loop_destroy(l);
}

struct alarm {
    struct loop_timer timer; /* first: fire() finds the rest */
    struct loop *loop;
};

static void on_alarm(struct loop_timer *t)
{
    loop_stop(((struct alarm *)t)->loop);
}

/* The loop sleeps until the late one; then comes an earlier one, and then none. */
static void a_loop_that_slept_for_a_late_timer_wakes_for_an_earlier_one(void **state)
{
    struct loop *l;
    struct loop_file *f;
    struct flagged flush = {0};
    struct alarm late, early;

    (void)state;
    assert_int_equal(loop_create(&l, real_kind, 8), 0);
    assert_int_equal(loop_file_open(l, "./test_io_real.f", LOOP_FILE_WRITE | LOOP_FILE_CREATE, &f),
                     0);
    assert_int_equal(loop_unlink(l, "./test_io_real.f"), 0);
    late.loop = early.loop = l;
    loop_timer_init(&late.timer, on_alarm);
    loop_timer_init(&early.timer, on_alarm);
    loop_timer_start(l, &late.timer, loop_now(l) + 3600 * NS_PER_S);
    loop_op_init(&flush.op, on_done_stop);
    loop_flush(l, &flush.op, f);
    loop_run(l);
    assert_int_equal(flush.count, 1);

    loop_timer_start(l, &early.timer, loop_now(l) + NS_PER_MS);
    loop_run(l);
    assert_false(loop_timer_is_running(&early.timer));
    assert_true(loop_timer_is_running(&late.timer));

    loop_timer_stop(l, &late.timer);
    loop_op_init(&flush.op, on_done_stop);
    loop_flush(l, &flush.op, f);
    loop_run(l);
    assert_int_equal(flush.count, 2);
    loop_destroy(l);
}

struct ending {
    struct loop_timer timer; /* first: fire() finds the rest */
    struct loop *loop;
    struct flagged accept;
};

static void on_ending(struct loop_timer *t)
{
    loop_stop(((struct ending *)t)->loop);
}

/* The memory of what is in flight is freed after the halt; the sanitizers watch. */
static void a_loop_whose_thread_is_gone_is_ended_by_another(void **state)
{
    struct ending *e = calloc(1, sizeof(*e));
    struct loop_addr addr, bound;
    struct loop_listener *listener;
    pthread_t thread;

    (void)state;
    assert_int_equal(loop_create(&e->loop, real_kind, 8), 0);
    loop_addr_parse("127.0.0.1:0", &addr);
    assert_int_equal(loop_listen(e->loop, &addr, &listener, &bound), 0);
    loop_op_init(&e->accept.op, on_done_stop);
    loop_accept(e->loop, &e->accept.op, listener);
    loop_timer_init(&e->timer, on_ending);
    loop_timer_start(e->loop, &e->timer, loop_now(e->loop) + NS_PER_MS);
    assert_int_equal(pthread_create(&thread, NULL, thread_run, e->loop), 0);
    pthread_join(thread, NULL);
    assert_int_equal(e->accept.count, 0);

    struct loop *l = e->loop;
    loop_halt(l);
    loop_listener_close(listener);
    free(e);
    loop_destroy(l);

    assert_int_equal(loop_create(&l, real_kind, 8), 0);
    assert_int_equal(loop_listen(l, &bound, &listener, NULL), 0); /* the port is free */
    loop_destroy(l);
}

static void an_unstarted_loop_with_ops_is_destroyed_without_a_trace(void **state)
{
    struct loop *l;
    struct loop_addr addr;
    struct flagged connect[40] = {0};

    (void)state;
    assert_int_equal(loop_create(&l, real_kind, 4), 0);
    loop_addr_parse("127.0.0.1:1", &addr);
    for (uint32_t i = 0; i < COUNT_OF(connect); i++) {
        loop_op_init(&connect[i].op, on_done_stop);
        loop_connect(l, &connect[i].op, &addr);
    }
    loop_destroy(l);
    for (uint32_t i = 0; i < COUNT_OF(connect); i++)
        assert_int_equal(connect[i].count, 0);
}

static void on_never(struct loop_msg *msg)
{
    (void)msg;
    fail();
}

/* A message that comes too late is its owner's again; the sanitizers watch. */
static void a_halted_loop_forgets_what_was_posted(void **state)
{
    struct loop *l;
    struct loop_msg *early = calloc(1, sizeof(*early)), *late = calloc(1, sizeof(*late));

    (void)state;
    assert_int_equal(loop_create(&l, real_kind, 4), 0);
    early->run = on_never;
    late->run = on_never;
    loop_post(l, early);
    loop_halt(l);
    loop_post(l, late);
    free(early);
    free(late);
    loop_destroy(l);
}

/* ---- Unix sockets, odd files ---- */

static void unix_socket_leave_dead(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    close(fd);
}

static void a_unix_socket_replaces_a_dead_one_and_not_a_living_one(void **state)
{
    static const char path[] = "./test_io_real.sock";
    char long_path[200];
    struct loop *l;
    struct loop_listener *listener, *second;
    struct stat st;

    (void)state;
    assert_int_equal(loop_create(&l, real_kind, 8), 0);
    unlink(path);
    unix_socket_leave_dead(path);
    assert_int_equal(loop_listen_unix(l, path, &listener), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07, 0);
    assert_int_equal(loop_listen_unix(l, path, &second), -EADDRINUSE);
    loop_listener_close(listener);
    assert_int_equal(stat(path, &st), -1);

    memset(long_path, 'a', sizeof(long_path));
    long_path[sizeof(long_path) - 1] = '\0';
    assert_int_equal(loop_listen_unix(l, long_path, &second), -ENAMETOOLONG);

    FILE *f = fopen(path, "w");
    fclose(f);
    assert_int_equal(loop_listen_unix(l, path, &second), -EEXIST);
    assert_int_equal(unlink(path), 0);
    loop_destroy(l);
}

static int unix_connect(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static void a_unix_socket_carries_bytes_and_its_peer_has_no_address(void **state)
{
    static const char path[] = "./test_io_real.sock";
    static const struct loop_addr nobody;
    struct loop *l;
    struct loop_listener *listener;
    struct loop_addr peer;
    struct flagged accept = {0}, recv = {0}, send = {0};
    char in[8], got[8];
    struct iovec iov = {(void *)(uintptr_t) "pong", 4};

    (void)state;
    assert_int_equal(loop_create(&l, real_kind, 8), 0);
    assert_int_equal(loop_listen_unix(l, path, &listener), 0);
    int fd = unix_connect(path);
    assert_int_equal(write(fd, "ping", 4), 4);
    loop_op_init(&accept.op, on_done_stop);
    loop_accept(l, &accept.op, listener);
    loop_run(l);
    assert_int_equal(accept.op.result, 0);
    loop_conn_peer(accept.op.conn, &peer);
    assert_true(loop_addr_equal(&peer, &nobody));

    loop_op_init(&recv.op, on_done_stop);
    loop_recv(l, &recv.op, accept.op.conn, in, sizeof(in));
    loop_run(l);
    assert_int_equal(recv.op.result, 4);
    assert_memory_equal(in, "ping", 4);
    loop_op_init(&send.op, on_done_stop);
    loop_send(l, &send.op, accept.op.conn, &iov, 1);
    loop_run(l);
    assert_int_equal(send.op.result, 4);
    assert_int_equal(read(fd, got, sizeof(got)), 4);
    assert_memory_equal(got, "pong", 4);
    close(fd);
    loop_destroy(l);
}

static void what_is_neither_file_nor_device_does_not_open_and_does_not_hang(void **state)
{
    static const char path[] = "./test_io_real.fifo";
    struct loop *l;
    struct loop_file *f;

    (void)state;
    assert_int_equal(loop_create(&l, real_kind, 8), 0);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(loop_file_open(l, path, 0, &f), -EINVAL);
    assert_int_equal(loop_file_open(l, path, LOOP_FILE_WRITE, &f), -EINVAL);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(loop_file_open(l, ".", 0, &f), -EISDIR);
    loop_destroy(l);
}

/* ---- Without descriptors ---- */

/* The lowest free one: as many as may be, and there is none left. */
static rlim_t descriptor_next(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    close(fd);
    return (rlim_t)fd;
}

static void descriptors_limit(rlim_t count)
{
    struct rlimit r;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &r), 0);
    r.rlim_cur = count;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &r), 0);
}

static void an_accept_without_a_descriptor_fails_and_a_later_one_gets_the_connection(void **state)
{
    struct loop *l;
    struct loop_listener *listener;
    struct loop_addr addr, bound;
    struct flagged connect = {0}, accept = {0};
    struct rlimit before;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(loop_create(&l, real_kind, 8), 0);
    loop_addr_parse("127.0.0.1:0", &addr);
    assert_int_equal(loop_listen(l, &addr, &listener, &bound), 0);
    loop_op_init(&connect.op, on_done_stop);
    loop_connect(l, &connect.op, &bound);
    loop_run(l);
    assert_int_equal(connect.op.result, 0);

    loop_op_init(&accept.op, on_done_stop);
    descriptors_limit(descriptor_next());
    loop_accept(l, &accept.op, listener);
    loop_run(l);
    descriptors_limit(before.rlim_cur);
    assert_int_equal(accept.count, 1);
    assert_int_equal(accept.op.result, -EMFILE);
    assert_null(accept.op.conn);

    loop_op_init(&accept.op, on_done_stop);
    loop_accept(l, &accept.op, listener);
    loop_run(l);
    assert_int_equal(accept.op.result, 0);
    assert_non_null(accept.op.conn);
    loop_destroy(l);
}

static int real_run(enum loop_kind kind)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_senders_each_arrive_in_order_and_whole),
        cmocka_unit_test(a_message_wakes_a_sleeping_loop_every_time),
        cmocka_unit_test(a_stop_that_comes_first_is_not_lost),
        cmocka_unit_test(an_op_started_before_the_loop_runs_comes_back_on_its_thread),
        cmocka_unit_test(a_loop_that_slept_for_a_late_timer_wakes_for_an_earlier_one),
        cmocka_unit_test(a_loop_whose_thread_is_gone_is_ended_by_another),
        cmocka_unit_test(an_unstarted_loop_with_ops_is_destroyed_without_a_trace),
        cmocka_unit_test(a_halted_loop_forgets_what_was_posted),
        cmocka_unit_test(a_unix_socket_replaces_a_dead_one_and_not_a_living_one),
        cmocka_unit_test(a_unix_socket_carries_bytes_and_its_peer_has_no_address),
        cmocka_unit_test(what_is_neither_file_nor_device_does_not_open_and_does_not_hang),
        cmocka_unit_test(an_accept_without_a_descriptor_fails_and_a_later_one_gets_the_connection),
    };

    real_kind = kind;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif /* TESTS_UNIT_IO_REAL_H */
