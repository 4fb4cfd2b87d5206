/*
 * What every back end of io/loop.h must do, as tests. A back end's test program sets up a
 * struct contract_env for each of them and lists CONTRACT_TESTS(setup, teardown).
 */

#ifndef TESTS_UNIT_IO_CONTRACT_H
#define TESTS_UNIT_IO_CONTRACT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#include "base/prng.h"
#include "io/loop.h"

struct contract_env {
    struct loop *loop;
    struct loop *other;    /* a second loop of the same process */
    const char *dir;       /* an empty folder */
    struct loop_addr addr; /* to listen on, with port 0 */
    uint64_t disk_bytes;   /* what the disk holds; 0: too much to fill it in a test */
    /* Let both loops run until the condition holds; false: it did not within the limit. */
    bool (*run)(struct contract_env *env, bool (*cond)(void *arg), void *arg, uint64_t limit_ns);
};

enum { CONTRACT_BLOCK = 4096 };

/* ---- Tools ---- */

struct contract_op {
    struct loop_op op; /* first: done() finds the rest */
    uint32_t done_count;
};

static void contract_on_done(struct loop_op *op)
{
    ((struct contract_op *)op)->done_count++;
}

static void contract_op_init(struct contract_op *o)
{
    o->done_count = 0;
    loop_op_init(&o->op, contract_on_done);
}

static bool contract_is_done(void *arg)
{
    return ((struct contract_op *)arg)->done_count > 0;
}

static bool contract_is_set(void *arg)
{
    return *(bool *)arg;
}

static bool contract_never(void *arg)
{
    (void)arg;
    return false;
}

static void contract_wait_true(struct contract_env *env, bool (*cond)(void *arg), void *arg)
{
    assert_true(env->run(env, cond, arg, 20 * NS_PER_S));
}

/* The op comes back exactly once, and had not before the wait. */
static int64_t contract_wait(struct contract_env *env, struct contract_op *o)
{
    contract_wait_true(env, contract_is_done, o);
    assert_int_equal(o->done_count, 1);
    return o->op.result;
}

static void contract_rest(struct contract_env *env, uint64_t ns)
{
    env->run(env, contract_never, NULL, ns);
}

static void contract_path(const struct contract_env *env, const char *name, char path[256])
{
    snprintf(path, 256, "%s/%s", env->dir, name);
}

static struct loop_file *contract_file(struct contract_env *env, const char *name, unsigned flags)
{
    char path[256];
    struct loop_file *f;

    contract_path(env, name, path);
    assert_int_equal(loop_file_open(env->loop, path, flags, &f), 0);
    return f;
}

static int64_t contract_write(struct contract_env *env, struct loop_file *f, const void *buf,
                              size_t len, uint64_t offset)
{
    struct contract_op o;

    contract_op_init(&o);
    loop_write(env->loop, &o.op, f, buf, len, offset);
    assert_int_equal(o.done_count, 0);
    return contract_wait(env, &o);
}

static int64_t contract_read(struct contract_env *env, struct loop_file *f, void *buf, size_t len,
                             uint64_t offset)
{
    struct contract_op o;

    contract_op_init(&o);
    loop_read(env->loop, &o.op, f, buf, len, offset);
    assert_int_equal(o.done_count, 0);
    return contract_wait(env, &o);
}

static void contract_fill(uint8_t *buf, size_t len, uint64_t seed)
{
    struct prng p;

    prng_init(&p, seed);
    for (size_t i = 0; i < len; i++)
        buf[i] = (uint8_t)prng_next(&p);
}

struct contract_pair {
    struct loop_listener *listener;
    struct loop_addr bound;
    struct loop_conn *client;
    struct loop_conn *server;
};

static void contract_listen(struct contract_env *env, struct contract_pair *p)
{
    assert_int_equal(loop_listen(env->loop, &env->addr, &p->listener, &p->bound), 0);
    assert_int_not_equal(p->bound.port, 0);
}

static void contract_join(struct contract_env *env, struct contract_pair *p)
{
    struct contract_op accepted, connected;

    contract_op_init(&accepted);
    contract_op_init(&connected);
    loop_accept(env->loop, &accepted.op, p->listener);
    loop_connect(env->loop, &connected.op, &p->bound);
    assert_int_equal(accepted.done_count + connected.done_count, 0);
    assert_int_equal(contract_wait(env, &connected), 0);
    assert_int_equal(contract_wait(env, &accepted), 0);
    assert_non_null(connected.op.conn);
    assert_non_null(accepted.op.conn);
    p->client = connected.op.conn;
    p->server = accepted.op.conn;
}

static void contract_pair_open(struct contract_env *env, struct contract_pair *p)
{
    contract_listen(env, p);
    contract_join(env, p);
}

static void contract_pair_close(struct contract_pair *p)
{
    loop_conn_close(p->client);
    loop_conn_close(p->server);
    loop_listener_close(p->listener);
}

/* ---- Tasks, timers, messages ---- */

struct contract_task {
    struct task task;
    struct loop *loop;
    uint32_t runs;
    bool again;
};

static void contract_task_step(struct task *task)
{
    struct contract_task *t = container_of(task, struct contract_task, task);

    t->runs++;
    if (t->again)
        loop_wake(t->loop, task);
}

static bool contract_has_run(void *arg)
{
    return ((struct contract_task *)arg)->runs > 0;
}

static void a_task_woken_twice_runs_once_and_not_at_once(void **state)
{
    struct contract_env *env = *state;
    struct contract_task t = {.loop = env->loop};

    task_init(&t.task, contract_task_step);
    loop_wake(env->loop, &t.task);
    loop_wake(env->loop, &t.task);
    assert_int_equal(t.runs, 0);
    contract_wait_true(env, contract_has_run, &t);
    contract_rest(env, NS_PER_MS);
    assert_int_equal(t.runs, 1);
}

struct contract_timer {
    struct loop_timer timer; /* first: fire() finds the rest */
    struct loop *loop;
    uint64_t fired_ns;
    uint32_t fires;
    uint32_t order;
    uint32_t *order_last;
    bool again; /* start it again, in the past */
};

static void contract_on_fire(struct loop_timer *timer)
{
    struct contract_timer *t = (struct contract_timer *)timer;

    t->fires++;
    t->fired_ns = loop_now(t->loop);
    if (t->order_last != NULL)
        t->order = ++*t->order_last;
    if (t->again)
        loop_timer_start(t->loop, timer, 0);
}

static bool contract_has_fired(void *arg)
{
    return ((struct contract_timer *)arg)->fires > 0;
}

static void contract_timer_init(struct contract_env *env, struct contract_timer *t)
{
    *t = (struct contract_timer){.loop = env->loop};
    loop_timer_init(&t->timer, contract_on_fire);
}

static void timers_fire_in_order_of_time_then_of_start_and_never_early(void **state)
{
    struct contract_env *env = *state;
    static const uint64_t at_ms[] = {9, 3, 6, 3, 0, 9};
    static const uint32_t order[] = {5, 2, 4, 3, 1, 6};
    struct contract_timer t[COUNT_OF(at_ms)];
    uint32_t last = 0;
    uint64_t start = loop_now(env->loop);

    for (uint32_t i = 0; i < COUNT_OF(t); i++) {
        contract_timer_init(env, &t[i]);
        t[i].order_last = &last;
        loop_timer_start(env->loop, &t[i].timer, start + at_ms[i] * NS_PER_MS);
        assert_true(loop_timer_is_running(&t[i].timer));
    }
    assert_int_equal(last, 0);
    contract_wait_true(env, contract_has_fired, &t[COUNT_OF(t) - 1]);
    for (uint32_t i = 0; i < COUNT_OF(t); i++) {
        assert_int_equal(t[i].fires, 1);
        assert_int_equal(t[i].order, order[i]);
        assert_true(t[i].fired_ns >= start + at_ms[i] * NS_PER_MS);
        assert_false(loop_timer_is_running(&t[i].timer));
    }
}

static void a_stopped_timer_stays_silent_and_a_moved_one_fires_once(void **state)
{
    struct contract_env *env = *state;
    struct contract_timer stopped, moved;
    uint64_t start = loop_now(env->loop);

    contract_timer_init(env, &stopped);
    contract_timer_init(env, &moved);
    loop_timer_stop(env->loop, &stopped.timer);
    loop_timer_start(env->loop, &stopped.timer, start + NS_PER_MS);
    loop_timer_start(env->loop, &moved.timer, start + NS_PER_MS);
    loop_timer_start(env->loop, &moved.timer, start + 4 * NS_PER_MS);
    loop_timer_stop(env->loop, &stopped.timer);
    contract_wait_true(env, contract_has_fired, &moved);
    contract_rest(env, 2 * NS_PER_MS);
    assert_int_equal(stopped.fires, 0);
    assert_int_equal(moved.fires, 1);
    assert_true(moved.fired_ns >= start + 4 * NS_PER_MS);
}

/* In virtual time a timer in the past would be an endless loop by itself; so it stops here. */
static void tasks_that_never_rest_do_not_starve_ops_and_timers(void **state)
{
    struct contract_env *env = *state;
    struct contract_task t[3];
    struct contract_timer timer;
    struct loop_file *f = contract_file(env, "starved", LOOP_FILE_WRITE | LOOP_FILE_CREATE);

    for (uint32_t i = 0; i < COUNT_OF(t); i++) {
        t[i] = (struct contract_task){.loop = env->loop, .again = true};
        task_init(&t[i].task, contract_task_step);
        loop_wake(env->loop, &t[i].task);
    }
    contract_timer_init(env, &timer);
    loop_timer_start(env->loop, &timer.timer, loop_now(env->loop) + NS_PER_MS);
    assert_int_equal(contract_write(env, f, "x", 1, 0), 1);
    contract_wait_true(env, contract_has_fired, &timer);
    for (uint32_t i = 0; i < COUNT_OF(t); i++) {
        assert_true(t[i].runs > 0);
        task_cancel(&t[i].task);
    }
    loop_file_close(f);
}

struct contract_msg {
    struct loop_msg msg; /* first: run() finds the rest */
    uint32_t number;
    uint32_t *last;
    bool in_order;
};

static void contract_on_msg(struct loop_msg *msg)
{
    struct contract_msg *m = (struct contract_msg *)msg;

    m->in_order = m->number == *m->last + 1;
    *m->last = m->number;
}

enum { CONTRACT_MSGS = 1000 };

static bool contract_all_msgs(void *arg)
{
    return *(uint32_t *)arg == CONTRACT_MSGS;
}

static void messages_of_one_sender_arrive_in_order_and_not_at_once(void **state)
{
    struct contract_env *env = *state;
    static struct contract_msg m[CONTRACT_MSGS];
    uint32_t last = 0;

    for (uint32_t i = 0; i < CONTRACT_MSGS; i++) {
        m[i] = (struct contract_msg){.msg.run = contract_on_msg, .number = i + 1, .last = &last};
        loop_post(env->loop, &m[i].msg);
    }
    assert_int_equal(last, 0);
    contract_wait_true(env, contract_all_msgs, &last);
    for (uint32_t i = 0; i < CONTRACT_MSGS; i++)
        assert_true(m[i].in_order);
}

struct contract_ping {
    struct loop_msg msg; /* first: run() finds the rest */
    struct contract_env *env;
    uint32_t hops;
    bool arrived;
};

static void contract_on_ping(struct loop_msg *msg)
{
    struct contract_ping *p = (struct contract_ping *)msg;

    if (p->hops == 0) {
        p->arrived = true;
        return;
    }
    p->hops--;
    loop_post(p->hops % 2 == 0 ? p->env->loop : p->env->other, msg);
}

static void a_message_may_be_posted_on_from_its_run(void **state)
{
    struct contract_env *env = *state;
    struct contract_ping p = {.msg.run = contract_on_ping, .env = env, .hops = 20};

    loop_post(env->loop, &p.msg);
    contract_wait_true(env, contract_is_set, &p.arrived);
}

static void clocks_go_forward_and_random_numbers_differ(void **state)
{
    struct contract_env *env = *state;
    uint64_t before = loop_now(env->loop);
    uint64_t x[4];

    contract_rest(env, NS_PER_MS);
    assert_true(loop_now(env->loop) > before);
    assert_true(loop_wall_ms(env->loop) > 0);
    for (uint32_t i = 0; i < COUNT_OF(x); i++)
        x[i] = loop_random_u64(env->loop);
    for (uint32_t i = 1; i < COUNT_OF(x); i++)
        assert_true(x[i] != x[0]);
}

/* ---- Files ---- */

static void what_was_written_is_read_whatever_the_pieces(void **state)
{
    struct contract_env *env = *state;
    struct loop_file *f = contract_file(env, "f", LOOP_FILE_WRITE | LOOP_FILE_CREATE);
    static uint8_t out[10000], in[10000];
    struct iovec write_iov[] = {{out, 1}, {out + 1, 4095}, {out + 4096, 5904}};
    struct iovec read_iov[] = {{in, 5000}, {in + 5000, 1}, {in + 5001, 4999}};
    struct contract_op o;

    contract_fill(out, sizeof(out), 1);
    contract_op_init(&o);
    loop_writev(env->loop, &o.op, f, write_iov, 3, 777);
    assert_int_equal(o.done_count, 0);
    assert_int_equal(contract_wait(env, &o), sizeof(out));
    assert_int_equal(loop_file_size(f), 777 + sizeof(out));

    contract_op_init(&o);
    loop_readv(env->loop, &o.op, f, read_iov, 3, 777);
    assert_int_equal(contract_wait(env, &o), sizeof(in));
    assert_memory_equal(in, out, sizeof(in));

    memset(in, 1, sizeof(in));
    assert_int_equal(contract_read(env, f, in, 777, 0), 777);
    for (uint32_t i = 0; i < 777; i++)
        assert_int_equal(in[i], 0);
    loop_file_close(f);
}

static void a_read_past_the_end_returns_fewer_bytes(void **state)
{
    struct contract_env *env = *state;
    struct loop_file *f = contract_file(env, "f", LOOP_FILE_WRITE | LOOP_FILE_CREATE);
    uint8_t buf[100];
    struct iovec iov[] = {{buf, 7}, {buf + 7, 93}};
    struct contract_op o;

    assert_int_equal(contract_read(env, f, buf, sizeof(buf), 0), 0);
    assert_int_equal(contract_write(env, f, "0123456789", 10, 0), 10);
    assert_int_equal(contract_read(env, f, buf, sizeof(buf), 4), 6);
    assert_memory_equal(buf, "456789", 6);
    assert_int_equal(contract_read(env, f, buf, sizeof(buf), 10), 0);
    assert_int_equal(contract_read(env, f, buf, sizeof(buf), 5000), 0);
    contract_op_init(&o);
    loop_readv(env->loop, &o.op, f, iov, 2, 0);
    assert_int_equal(contract_wait(env, &o), 10);
    assert_memory_equal(buf, "0123456789", 10);
    loop_file_close(f);
}

static void direct_files_take_whole_blocks_and_end_where_they_end(void **state)
{
    struct contract_env *env = *state;
    unsigned flags = LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_DIRECT;
    struct loop_file *f = contract_file(env, "f", flags);
    static _Alignas(CONTRACT_BLOCK) uint8_t out[3 * CONTRACT_BLOCK], in[4 * CONTRACT_BLOCK];

    contract_fill(out, sizeof(out), 2);
    assert_int_equal(contract_write(env, f, out, sizeof(out), CONTRACT_BLOCK), sizeof(out));
    assert_int_equal(contract_read(env, f, in, sizeof(in), CONTRACT_BLOCK), sizeof(out));
    assert_memory_equal(in, out, sizeof(out));

    assert_int_equal(loop_file_resize(f, 2 * CONTRACT_BLOCK + 100, false), 0);
    assert_int_equal(contract_read(env, f, in, sizeof(in), CONTRACT_BLOCK), CONTRACT_BLOCK + 100);
    assert_memory_equal(in, out, CONTRACT_BLOCK + 100);
    loop_file_close(f);
}

static void a_flush_succeeds_and_the_blocking_calls_see_the_same_file(void **state)
{
    struct contract_env *env = *state;
    struct loop_file *f = contract_file(env, "f", LOOP_FILE_WRITE | LOOP_FILE_CREATE);
    struct contract_op o;
    char buf[16];

    assert_int_equal(contract_write(env, f, "hello", 5, 0), 5);
    contract_op_init(&o);
    loop_flush(env->loop, &o.op, f);
    assert_int_equal(o.done_count, 0);
    assert_int_equal(contract_wait(env, &o), 0);

    assert_int_equal(loop_read_now(f, buf, sizeof(buf), 0), 5);
    assert_memory_equal(buf, "hello", 5);
    assert_int_equal(loop_write_now(f, "J", 1, 0), 1);
    assert_int_equal(loop_flush_now(f), 0);
    assert_int_equal(contract_read(env, f, buf, sizeof(buf), 0), 5);
    assert_memory_equal(buf, "Jello", 5);
    loop_file_close(f);
}

/* ---- What is under a file; durable writes; discard ---- */

static void a_file_is_volatile_and_says_when_it_has_less_room_than_its_size(void **state)
{
    struct contract_env *env = *state;
    unsigned flags = LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_DIRECT;
    struct loop_file *f = contract_file(env, "f", flags);
    struct loop_file_info info;

    assert_int_equal(loop_file_resize(f, 1 << 20, false), 0);
    loop_file_info(f, &info);
    assert_false(info.is_device);
    assert_true(info.is_volatile);
    assert_false(info.has_fua);
    assert_true(info.can_discard);
    assert_true(info.is_sparse);
    assert_true(info.io_align > 0 && CONTRACT_BLOCK % info.io_align == 0);
    assert_true(info.discard_align > 0);

    assert_int_equal(loop_file_resize(f, 1 << 20, true), 0);
    loop_file_info(f, &info);
    assert_false(info.is_sparse);
    loop_file_close(f);
}

static void a_durable_write_is_a_write(void **state)
{
    struct contract_env *env = *state;
    unsigned flags = LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_DIRECT;
    struct loop_file *f = contract_file(env, "f", flags);
    static _Alignas(CONTRACT_BLOCK) uint8_t out[2 * CONTRACT_BLOCK], in[2 * CONTRACT_BLOCK];
    struct contract_op o;

    contract_fill(out, sizeof(out), 3);
    contract_op_init(&o);
    loop_write_durable(env->loop, &o.op, f, out, sizeof(out), CONTRACT_BLOCK);
    assert_int_equal(o.done_count, 0);
    assert_int_equal(contract_wait(env, &o), sizeof(out));
    assert_int_equal(loop_file_size(f), 3 * CONTRACT_BLOCK);
    assert_int_equal(contract_read(env, f, in, sizeof(in), CONTRACT_BLOCK), sizeof(in));
    assert_memory_equal(in, out, sizeof(in));
    loop_file_close(f);

    f = contract_file(env, "f", 0);
    contract_op_init(&o);
    loop_write_durable(env->loop, &o.op, f, "x", 1, 0);
    assert_int_equal(contract_wait(env, &o), -EBADF);
    loop_file_close(f);
}

static int64_t contract_discard(struct contract_env *env, struct loop_file *f, uint64_t offset,
                                uint64_t len)
{
    struct contract_op o;

    contract_op_init(&o);
    loop_discard(env->loop, &o.op, f, offset, len);
    assert_int_equal(o.done_count, 0);
    return contract_wait(env, &o);
}

/* Of the range itself nothing is said: what lies around it stays, and so does the size. */
static void a_discard_touches_nothing_around_it(void **state)
{
    struct contract_env *env = *state;
    struct loop_file *f = contract_file(env, "f", LOOP_FILE_WRITE | LOOP_FILE_CREATE);
    static uint8_t out[8 * CONTRACT_BLOCK], in[8 * CONTRACT_BLOCK];

    contract_fill(out, sizeof(out), 4);
    assert_int_equal(contract_write(env, f, out, sizeof(out), 0), sizeof(out));
    int64_t r = contract_discard(env, f, 2 * CONTRACT_BLOCK, 3 * CONTRACT_BLOCK);
    if (r == -EOPNOTSUPP) {
        loop_file_close(f);
        skip();
    }
    assert_int_equal(r, 0);
    assert_int_equal(loop_file_size(f), sizeof(out));
    assert_int_equal(contract_read(env, f, in, sizeof(in), 0), sizeof(in));
    assert_memory_equal(in, out, 2 * CONTRACT_BLOCK);
    assert_memory_equal(in + 5 * CONTRACT_BLOCK, out + 5 * CONTRACT_BLOCK, 3 * CONTRACT_BLOCK);

    assert_int_equal(contract_write(env, f, out, sizeof(out), 0), sizeof(out));
    assert_int_equal(contract_read(env, f, in, sizeof(in), 0), sizeof(in));
    assert_memory_equal(in, out, sizeof(in));
    loop_file_close(f);

    f = contract_file(env, "f", 0);
    assert_int_equal(contract_discard(env, f, 0, CONTRACT_BLOCK), -EBADF);
    loop_file_close(f);
}

/* More of each than the loop has room for, mixed: every op comes back, with its own result. */
static void durable_writes_and_discards_wait_their_turn(void **state)
{
    enum { OPS = 200 };
    struct contract_env *env = *state;
    struct loop_file *f = contract_file(env, "f", LOOP_FILE_WRITE | LOOP_FILE_CREATE);
    static struct contract_op ops[OPS];
    static uint8_t out[CONTRACT_BLOCK];

    for (uint32_t i = 0; i < OPS; i++) {
        contract_op_init(&ops[i]);
        if (i % 2 == 0)
            loop_write_durable(env->loop, &ops[i].op, f, out, sizeof(out),
                               (uint64_t)i * sizeof(out));
        else
            loop_discard(env->loop, &ops[i].op, f, (uint64_t)i * sizeof(out), sizeof(out));
    }
    for (uint32_t i = 0; i < OPS; i++) {
        int64_t r = contract_wait(env, &ops[i]);
        if (i % 2 == 0)
            assert_int_equal(r, sizeof(out));
        else
            assert_true(r == 0 || r == -EOPNOTSUPP);
    }
    loop_file_close(f);
}

/* ---- Registered buffers ---- */

/* What register answers changes nothing: the same bytes come, from inside, across the edge and
 * outside. */
static void registered_buffers_carry_the_same_bytes(void **state)
{
    enum { POOL = 8 * CONTRACT_BLOCK };
    struct contract_env *env = *state;
    unsigned flags = LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_DIRECT;
    struct loop_file *f = contract_file(env, "f", flags);
    static _Alignas(CONTRACT_BLOCK) uint8_t memory[POOL + 4 * CONTRACT_BLOCK];
    static _Alignas(CONTRACT_BLOCK) uint8_t in[4 * CONTRACT_BLOCK];

    int r = loop_buffers_register(env->loop, memory + CONTRACT_BLOCK, POOL);
    for (uint32_t at = 0; at + sizeof(in) <= sizeof(memory); at += CONTRACT_BLOCK) {
        struct contract_op o;
        contract_fill(memory + at, sizeof(in), 5 + at);
        contract_op_init(&o);
        loop_write_durable(env->loop, &o.op, f, memory + at, sizeof(in), at);
        assert_int_equal(contract_wait(env, &o), sizeof(in));
        assert_int_equal(contract_read(env, f, in, sizeof(in), at), sizeof(in));
        assert_memory_equal(in, memory + at, sizeof(in));
        memset(memory + at, 0, sizeof(in));
        assert_int_equal(contract_read(env, f, memory + at, sizeof(in), at), sizeof(in));
        assert_memory_equal(in, memory + at, sizeof(in));
    }
    assert_int_equal(loop_buffers_unregister(env->loop, memory + CONTRACT_BLOCK),
                     r == 0 ? 0 : -ENOENT);
    assert_int_equal(contract_write(env, f, memory, sizeof(in), 0), sizeof(in));
    loop_file_close(f);
}

static void opening_says_what_is_wrong(void **state)
{
    struct contract_env *env = *state;
    struct loop_file *f;
    char path[256];
    unsigned create = LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_EXCLUSIVE;
    struct contract_op o;

    contract_path(env, "f", path);
    assert_int_equal(loop_file_open(env->loop, path, LOOP_FILE_WRITE, &f), -ENOENT);
    loop_file_close(contract_file(env, "f", create));
    assert_int_equal(loop_file_open(env->loop, path, create, &f), -EEXIST);
    contract_path(env, "missing/f", path);
    assert_int_equal(loop_file_open(env->loop, path, create, &f), -ENOENT);

    f = contract_file(env, "f", 0);
    contract_op_init(&o);
    loop_write(env->loop, &o.op, f, "x", 1, 0);
    assert_int_equal(contract_wait(env, &o), -EBADF);
    loop_file_close(f);
}

static void a_locked_file_opens_once(void **state)
{
    struct contract_env *env = *state;
    unsigned flags = LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_LOCK;
    struct loop_file *f = contract_file(env, "f", flags), *second;
    char path[256];

    contract_path(env, "f", path);
    assert_int_equal(loop_file_open(env->loop, path, flags, &second), -EWOULDBLOCK);
    loop_file_close(f);
    assert_int_equal(loop_file_open(env->loop, path, flags, &second), 0);
    loop_file_close(second);
}

static void a_file_grows_with_zeros_and_shrinks(void **state)
{
    struct contract_env *env = *state;
    struct loop_file *f = contract_file(env, "f", LOOP_FILE_WRITE | LOOP_FILE_CREATE);
    uint8_t buf[16];

    assert_int_equal(contract_write(env, f, "0123456789", 10, 0), 10);
    assert_int_equal(loop_file_resize(f, 5, false), 0);
    assert_int_equal(loop_file_size(f), 5);
    assert_int_equal(loop_file_resize(f, 1 << 20, true), 0);
    assert_int_equal(loop_file_size(f), 1 << 20);
    assert_int_equal(contract_read(env, f, buf, 16, 0), 16);
    assert_memory_equal(buf, "01234\0\0\0\0\0\0\0\0\0\0\0", 16);
    char path[256];
    contract_path(env, "", path);
    assert_true(loop_disk_free(env->loop, path) > 0);
    loop_file_close(f);
}

static void a_reservation_the_disk_cannot_hold_changes_nothing(void **state)
{
    struct contract_env *env = *state;
    struct loop_file *f;

    if (env->disk_bytes == 0)
        skip();
    f = contract_file(env, "f", LOOP_FILE_WRITE | LOOP_FILE_CREATE);
    assert_int_equal(loop_file_resize(f, 8192, true), 0);
    assert_int_equal(loop_file_resize(f, env->disk_bytes + 8192, true), -ENOSPC);
    assert_int_equal(loop_file_size(f), 8192);
    loop_file_close(f);
}

struct contract_names {
    uint32_t count;
    char names[8][32];
};

static void contract_on_name(void *arg, const char *name)
{
    struct contract_names *n = arg;

    assert_true(n->count < 8);
    snprintf(n->names[n->count++], 32, "%s", name);
}

static bool contract_lists(struct contract_env *env, const char *path, const char *name)
{
    struct contract_names n = {0};

    assert_int_equal(loop_dir_list(env->loop, path, contract_on_name, &n), 0);
    for (uint32_t i = 0; i < n.count; i++) {
        if (strcmp(n.names[i], name) == 0)
            return true;
    }
    return false;
}

static void names_are_made_listed_renamed_and_removed(void **state)
{
    struct contract_env *env = *state;
    char dir[256], a[256], b[256];
    struct loop_file *f;

    contract_path(env, "d", dir);
    assert_int_equal(loop_dir_create(env->loop, dir), 0);
    assert_int_equal(loop_dir_create(env->loop, dir), 0);
    contract_path(env, "d/a", a);
    contract_path(env, "d/b", b);
    f = contract_file(env, "d/a", LOOP_FILE_WRITE | LOOP_FILE_CREATE);
    assert_int_equal(contract_write(env, f, "a", 1, 0), 1);
    loop_file_close(f);
    loop_file_close(contract_file(env, "d/b", LOOP_FILE_WRITE | LOOP_FILE_CREATE));
    assert_true(contract_lists(env, dir, "a"));
    assert_true(contract_lists(env, dir, "b"));
    assert_true(contract_lists(env, env->dir, "d"));

    assert_int_equal(loop_rename(env->loop, a, b), 0); /* takes the place of the other */
    assert_int_equal(loop_dir_sync(env->loop, dir), 0);
    assert_false(contract_lists(env, dir, "a"));
    f = contract_file(env, "d/b", 0);
    assert_int_equal(loop_file_size(f), 1);
    loop_file_close(f);

    assert_int_equal(loop_unlink(env->loop, b), 0);
    assert_int_equal(loop_unlink(env->loop, b), -ENOENT);
    assert_int_equal(loop_rename(env->loop, a, b), -ENOENT);
    assert_false(contract_lists(env, dir, "b"));
}

enum { CONTRACT_MANY = 3000 };

static uint32_t contract_done_total(const struct contract_op *ops, uint32_t count)
{
    uint32_t total = 0;

    for (uint32_t i = 0; i < count; i++)
        total += ops[i].done_count;
    return total;
}

static bool contract_many_done(void *arg)
{
    return contract_done_total(arg, CONTRACT_MANY) >= CONTRACT_MANY;
}

static void more_ops_than_the_queue_holds_all_come_back_once(void **state)
{
    struct contract_env *env = *state;
    struct loop_file *f = contract_file(env, "f", LOOP_FILE_WRITE | LOOP_FILE_CREATE);
    struct contract_op *ops = calloc(CONTRACT_MANY, sizeof(*ops));
    uint32_t *values = calloc(CONTRACT_MANY, sizeof(*values));

    for (uint32_t i = 0; i < CONTRACT_MANY; i++) {
        values[i] = i * 7;
        contract_op_init(&ops[i]);
        loop_write(env->loop, &ops[i].op, f, &values[i], 4, i * 4);
    }
    assert_int_equal(contract_done_total(ops, CONTRACT_MANY), 0);
    contract_wait_true(env, contract_many_done, ops);
    memset(values, 0, CONTRACT_MANY * sizeof(*values));
    for (uint32_t i = 0; i < CONTRACT_MANY; i++) {
        assert_int_equal(ops[i].done_count, 1);
        assert_int_equal(ops[i].op.result, 4);
        contract_op_init(&ops[i]);
        loop_read(env->loop, &ops[i].op, f, &values[i], 4, i * 4);
    }
    contract_wait_true(env, contract_many_done, ops);
    contract_rest(env, NS_PER_MS);
    for (uint32_t i = 0; i < CONTRACT_MANY; i++) {
        assert_int_equal(ops[i].done_count, 1);
        assert_int_equal(values[i], i * 7);
    }
    loop_file_close(f);
    free(values);
    free(ops);
}

/* ---- Connections ---- */

static void connecting_where_nobody_listens_is_refused(void **state)
{
    struct contract_env *env = *state;
    struct contract_pair p;
    struct contract_op o;

    contract_listen(env, &p);
    loop_listener_close(p.listener);
    contract_op_init(&o);
    loop_connect(env->loop, &o.op, &p.bound);
    assert_int_equal(o.done_count, 0);
    assert_int_equal(contract_wait(env, &o), -ECONNREFUSED);
    assert_null(o.op.conn);
}

static void a_port_is_taken_while_it_is_listened_on_and_free_after(void **state)
{
    struct contract_env *env = *state;
    struct contract_pair p;
    struct loop_listener *second;
    struct contract_op accept;

    contract_listen(env, &p);
    assert_int_equal(loop_listen(env->loop, &p.bound, &second, NULL), -EADDRINUSE);
    contract_op_init(&accept);
    loop_accept(env->loop, &accept.op, p.listener);
    contract_rest(env, NS_PER_MS);
    loop_listener_close(p.listener);
    assert_int_equal(accept.done_count, 0);
    assert_int_equal(loop_listen(env->loop, &p.bound, &second, NULL), 0);
    assert_int_equal(contract_wait(env, &accept), -ECANCELED);
    assert_null(accept.op.conn);
    loop_listener_close(second);
}

static void each_side_knows_its_peer(void **state)
{
    struct contract_env *env = *state;
    struct contract_pair p;
    struct loop_addr peer;

    contract_pair_open(env, &p);
    loop_conn_peer(p.client, &peer);
    assert_true(loop_addr_equal(&peer, &p.bound));
    loop_conn_peer(p.server, &peer);
    assert_memory_equal(peer.ip, env->addr.ip, sizeof(peer.ip));
    assert_int_not_equal(peer.port, 0);
    contract_pair_close(&p);
}

static void a_receive_gets_what_there_is_and_then_the_end(void **state)
{
    struct contract_env *env = *state;
    struct contract_pair p;
    struct contract_op recv, send;
    struct iovec iov = {(void *)(uintptr_t) "ping", 4};
    char buf[64] = {0};
    size_t got = 0;

    contract_pair_open(env, &p);
    contract_op_init(&recv);
    loop_recv(env->loop, &recv.op, p.server, buf, sizeof(buf));
    contract_rest(env, NS_PER_MS);
    assert_int_equal(recv.done_count, 0);
    contract_op_init(&send);
    loop_send(env->loop, &send.op, p.client, &iov, 1);
    assert_int_equal(send.done_count, 0);
    assert_int_equal(contract_wait(env, &send), 4);
    for (;;) {
        int64_t n = contract_wait(env, &recv);
        assert_true(n > 0);
        got += (size_t)n;
        if (got == 4)
            break;
        contract_op_init(&recv);
        loop_recv(env->loop, &recv.op, p.server, buf + got, sizeof(buf) - got);
    }
    assert_memory_equal(buf, "ping", 4);

    contract_op_init(&recv);
    loop_recv(env->loop, &recv.op, p.server, buf, sizeof(buf));
    loop_conn_close(p.client);
    assert_int_equal(contract_wait(env, &recv), 0);
    loop_conn_close(p.server);
    loop_listener_close(p.listener);
}

enum { CONTRACT_BIG = 8 << 20, CONTRACT_BIG_IOV = 700 };

/* Pieces of odd sizes; the last takes the rest. */
static void contract_cut(struct iovec *iov, int count, uint8_t *buf, size_t len)
{
    size_t at = 0;

    for (int i = 0; i < count; i++) {
        size_t piece = i == count - 1 ? len - at : (size_t)(i * 37 % 9001);
        iov[i] = (struct iovec){buf + at, piece};
        at += piece;
    }
}

static void a_big_send_arrives_whole_through_small_receives(void **state)
{
    struct contract_env *env = *state;
    struct contract_pair p;
    struct contract_op send, recv;
    static struct iovec iov[CONTRACT_BIG_IOV];
    uint8_t *out = malloc(CONTRACT_BIG), *in = malloc(CONTRACT_BIG);
    size_t got = 0;

    contract_fill(out, CONTRACT_BIG, 3);
    contract_cut(iov, CONTRACT_BIG_IOV, out, CONTRACT_BIG);
    contract_pair_open(env, &p);
    contract_op_init(&send);
    loop_send(env->loop, &send.op, p.server, iov, CONTRACT_BIG_IOV);
    assert_int_equal(send.done_count, 0);
    for (uint32_t turn = 1; got < CONTRACT_BIG; turn++) {
        size_t want = turn % 5 == 0 ? 7 : 20011 * (turn % 7 + 1);
        if (want > CONTRACT_BIG - got)
            want = CONTRACT_BIG - got;
        contract_op_init(&recv);
        loop_recv(env->loop, &recv.op, p.client, in + got, want);
        int64_t n = contract_wait(env, &recv);
        assert_true(n > 0 && n <= (int64_t)want);
        got += (size_t)n;
    }
    assert_int_equal(contract_wait(env, &send), CONTRACT_BIG);
    assert_memory_equal(in, out, CONTRACT_BIG);
    contract_pair_close(&p);
    free(in);
    free(out);
}

static void closing_ends_ops_in_flight_and_the_peer_learns_of_it(void **state)
{
    struct contract_env *env = *state;
    struct contract_pair p;
    struct contract_op recv, send, peer;
    uint8_t *big = calloc(1, 64 << 20), buf[8];
    struct iovec iov = {big, 64 << 20};

    contract_pair_open(env, &p);
    contract_op_init(&recv);
    contract_op_init(&send);
    loop_recv(env->loop, &recv.op, p.server, buf, sizeof(buf));
    loop_send(env->loop, &send.op, p.server, &iov, 1);
    contract_rest(env, 2 * NS_PER_MS);
    assert_int_equal(send.done_count, 0); /* nobody reads */
    loop_conn_close(p.server);
    assert_int_equal(recv.done_count + send.done_count, 0);
    assert_int_equal(contract_wait(env, &recv), -ECANCELED);
    assert_int_equal(contract_wait(env, &send), -ECANCELED);
    do { /* what was under way, then the end */
        contract_op_init(&peer);
        loop_recv(env->loop, &peer.op, p.client, big, 64 << 20);
        contract_wait(env, &peer);
    } while (peer.op.result > 0);
    assert_true(peer.op.result == 0 || peer.op.result == -ECONNRESET);
    loop_conn_close(p.client);
    loop_listener_close(p.listener);
    free(big);
}

static void closing_with_ops_that_were_only_just_started_ends_them_too(void **state)
{
    struct contract_env *env = *state;
    struct contract_pair p;
    struct contract_op recv;
    uint8_t buf[8];

    contract_pair_open(env, &p);
    contract_op_init(&recv);
    loop_recv(env->loop, &recv.op, p.client, buf, sizeof(buf));
    loop_conn_close(p.client);
    assert_int_equal(contract_wait(env, &recv), -ECANCELED);
    loop_conn_close(p.server);
    loop_listener_close(p.listener);
}

static void a_send_to_a_peer_that_is_gone_fails(void **state)
{
    struct contract_env *env = *state;
    struct contract_pair p;
    struct contract_op send;
    struct iovec iov = {(void *)(uintptr_t) "x", 1};
    int64_t result = 1;

    contract_pair_open(env, &p);
    loop_conn_close(p.server);
    for (uint32_t i = 0; i < 100 && result > 0; i++) { /* the first ones may be under way */
        contract_op_init(&send);
        loop_send(env->loop, &send.op, p.client, &iov, 1);
        result = contract_wait(env, &send);
        contract_rest(env, NS_PER_MS);
    }
    assert_true(result == -EPIPE || result == -ECONNRESET);
    loop_conn_close(p.client);
    loop_listener_close(p.listener);
}

enum { CONTRACT_IDLE = 48 };

static void connections_that_wait_do_not_hold_up_files(void **state)
{
    struct contract_env *env = *state;
    static struct contract_pair p[CONTRACT_IDLE];
    static struct contract_op recv[CONTRACT_IDLE];
    static uint8_t buf[CONTRACT_IDLE];
    struct loop_file *f = contract_file(env, "f", LOOP_FILE_WRITE | LOOP_FILE_CREATE);

    contract_listen(env, &p[0]);
    for (uint32_t i = 0; i < CONTRACT_IDLE; i++) {
        p[i].listener = p[0].listener;
        p[i].bound = p[0].bound;
        contract_join(env, &p[i]);
        contract_op_init(&recv[i]);
        loop_recv(env->loop, &recv[i].op, p[i].server, &buf[i], 1);
    }
    assert_int_equal(contract_write(env, f, "x", 1, 0), 1);
    assert_int_equal(contract_done_total(recv, CONTRACT_IDLE), 0);
    for (uint32_t i = 0; i < CONTRACT_IDLE; i++)
        loop_conn_close(p[i].client);
    for (uint32_t i = 0; i < CONTRACT_IDLE; i++) {
        assert_int_equal(contract_wait(env, &recv[i]), 0);
        loop_conn_close(p[i].server);
    }
    loop_listener_close(p[0].listener);
    loop_file_close(f);
}

/* One byte from here to there. */
static void contract_pass(struct contract_env *env, struct loop_conn *from, struct loop_conn *to,
                          char byte)
{
    struct contract_op send, recv;
    struct iovec iov = {&byte, 1};
    char got = 0;

    contract_op_init(&recv);
    loop_recv(env->loop, &recv.op, to, &got, 1);
    contract_rest(env, NS_PER_MS);
    contract_op_init(&send);
    loop_send(env->loop, &send.op, from, &iov, 1);
    assert_int_equal(contract_wait(env, &send), 1);
    assert_int_equal(contract_wait(env, &recv), 1);
    assert_int_equal(got, byte);
}

struct contract_move {
    struct loop_msg msg; /* first: run() finds the rest */
    struct contract_env *env;
    struct contract_pair *pair;
    struct contract_op recv;
    uint8_t buf[8];
};

static void contract_on_moved(struct loop_msg *msg)
{
    struct contract_move *m = (struct contract_move *)msg;

    contract_op_init(&m->recv);
    loop_recv(m->env->other, &m->recv.op, m->pair->server, m->buf, sizeof(m->buf));
}

static void a_moved_connection_works_on_its_new_loop(void **state)
{
    struct contract_env *env = *state;
    struct contract_pair p;
    struct contract_move m = {.msg.run = contract_on_moved, .env = env, .pair = &p};
    struct contract_op send;
    struct iovec iov = {(void *)(uintptr_t) "z", 1};

    contract_pair_open(env, &p);
    contract_pass(env, p.client, p.server, 'a'); /* so that its first loop knows it well */
    contract_pass(env, p.server, p.client, 'b');
    loop_conn_move(p.server, env->other);
    loop_post(env->other, &m.msg);
    contract_op_init(&send);
    loop_send(env->loop, &send.op, p.client, &iov, 1);
    assert_int_equal(contract_wait(env, &m.recv), 1);
    assert_int_equal(m.buf[0], 'z');
    contract_pair_close(&p);
}

/* ---- Traffic at random, closed at random ---- */

enum { SOUP_PAIRS = 12, SOUP_ROUNDS = 400, SOUP_BYTES = 150000 };

/* One direction of a stream: byte i of it is soup_byte(i). */
struct soup_end {
    struct loop_conn *conn; /* NULL: closed */
    struct loop_op recv, send;
    bool is_receiving, is_sending, has_ended;
    uint64_t received, sent;
    struct iovec iov[3];
    uint8_t *in, *out;
    uint64_t *started, *returned;
};

static uint8_t soup_byte(uint64_t i)
{
    return (uint8_t)(mix64(i >> 3) >> (8 * (i & 7)));
}

static void soup_on_recv(struct loop_op *op)
{
    struct soup_end *e = container_of(op, struct soup_end, recv);

    assert_true(e->is_receiving);
    e->is_receiving = false;
    ++*e->returned;
    if (op->result <= 0) {
        e->has_ended = true;
        return;
    }
    for (int64_t i = 0; i < op->result; i++)
        assert_int_equal(e->in[i], soup_byte(e->received + (uint64_t)i));
    e->received += (uint64_t)op->result;
}

static void soup_on_send(struct loop_op *op)
{
    struct soup_end *e = container_of(op, struct soup_end, send);
    uint64_t len = e->iov[0].iov_len + e->iov[1].iov_len + e->iov[2].iov_len;

    assert_true(e->is_sending);
    e->is_sending = false;
    ++*e->returned;
    if (op->result < 0) {
        e->has_ended = true;
        return;
    }
    assert_int_equal(op->result, len);
    e->sent += len;
}

static void soup_send(struct contract_env *env, struct prng *p, struct soup_end *e)
{
    uint64_t len = 1 + prng_below(p, prng_chance(p, 1, 4) ? SOUP_BYTES : 500);
    uint64_t a = prng_below(p, len + 1), b = prng_below(p, len - a + 1);

    for (uint64_t i = 0; i < len; i++)
        e->out[i] = soup_byte(e->sent + i);
    e->iov[0] = (struct iovec){e->out, a};
    e->iov[1] = (struct iovec){e->out + a, b};
    e->iov[2] = (struct iovec){e->out + a + b, len - a - b};
    e->is_sending = true;
    ++*e->started;
    loop_op_init(&e->send, soup_on_send);
    loop_send(env->loop, &e->send, e->conn, e->iov, 3);
}

static void soup_recv(struct contract_env *env, struct prng *p, struct soup_end *e)
{
    e->is_receiving = true;
    ++*e->started;
    loop_op_init(&e->recv, soup_on_recv);
    loop_recv(env->loop, &e->recv, e->conn, e->in, 1 + prng_below(p, SOUP_BYTES));
}

static void soup_step(struct contract_env *env, struct prng *p, struct soup_end *e)
{
    if (e->conn == NULL)
        return;
    if (!e->is_receiving && !e->has_ended && prng_chance(p, 2, 3))
        soup_recv(env, p, e);
    if (!e->is_sending && !e->has_ended && prng_chance(p, 2, 3))
        soup_send(env, p, e);
    if (e->has_ended || prng_chance(p, 1, 60)) {
        loop_conn_close(e->conn);
        e->conn = NULL;
    }
}

static void soup_init(struct contract_env *env, struct contract_pair *p, struct soup_end ends[2],
                      uint64_t counts[2])
{
    contract_join(env, p);
    ends[0] = (struct soup_end){.conn = p->client, .in = ends[0].in, .out = ends[0].out};
    ends[1] = (struct soup_end){.conn = p->server, .in = ends[1].in, .out = ends[1].out};
    for (uint32_t i = 0; i < 2; i++) {
        ends[i].started = &counts[0];
        ends[i].returned = &counts[1];
    }
}

static bool soup_is_free(const struct soup_end *e)
{
    return e->conn == NULL && !e->is_receiving && !e->is_sending;
}

static bool soup_all_returned(void *arg)
{
    const uint64_t *counts = arg;
    return counts[0] == counts[1];
}

static void whatever_is_sent_and_closed_every_op_returns_once_and_no_byte_is_wrong(void **state)
{
    struct contract_env *env = *state;
    static struct soup_end ends[2 * SOUP_PAIRS];
    struct contract_pair pair;
    struct prng p;
    uint64_t counts[2] = {0};
    uint8_t *memory = malloc((size_t)4 * SOUP_PAIRS * SOUP_BYTES);

    prng_init(&p, 20);
    contract_listen(env, &pair);
    for (uint32_t i = 0; i < 2 * SOUP_PAIRS; i++) {
        ends[i] = (struct soup_end){.in = memory + (size_t)2 * i * SOUP_BYTES,
                                    .out = memory + (size_t)(2 * i + 1) * SOUP_BYTES};
    }
    for (uint32_t round = 0; round < SOUP_ROUNDS; round++) {
        for (uint32_t i = 0; i < 2 * SOUP_PAIRS; i += 2) {
            if (soup_is_free(&ends[i]) && soup_is_free(&ends[i + 1]))
                soup_init(env, &pair, &ends[i], counts);
            soup_step(env, &p, &ends[i]);
            soup_step(env, &p, &ends[i + 1]);
        }
        contract_rest(env, prng_below(&p, 300000));
    }
    for (uint32_t i = 0; i < 2 * SOUP_PAIRS; i++) {
        if (ends[i].conn != NULL)
            loop_conn_close(ends[i].conn);
    }
    contract_wait_true(env, soup_all_returned, counts);
    contract_rest(env, NS_PER_MS);
    assert_true(soup_all_returned(counts) && counts[0] > SOUP_ROUNDS);
    loop_listener_close(pair.listener);
    free(memory);
}

/* ---- The end ---- */

/* Everything in flight lies in one block that is freed, and must not be touched, after the halt. */
struct contract_last {
    struct contract_pair pair;
    struct contract_op accept, recv, send, read, flush;
    struct contract_timer timer;
    struct contract_task task;
    struct iovec iov;
    uint8_t buf[4096];
    uint8_t big[32 << 20];
};

static void a_halted_loop_calls_nobody_and_lets_nothing_through(void **state)
{
    struct contract_env *env = *state;
    struct loop *l = env->loop;
    struct loop_file *f = contract_file(env, "f", LOOP_FILE_WRITE | LOOP_FILE_CREATE), *again;
    struct contract_last *x = calloc(1, sizeof(*x));
    char path[256];

    contract_pair_open(env, &x->pair);
    contract_op_init(&x->accept);
    contract_op_init(&x->recv);
    contract_op_init(&x->send);
    contract_op_init(&x->read);
    contract_op_init(&x->flush);
    x->iov = (struct iovec){x->big, sizeof(x->big)};
    loop_accept(l, &x->accept.op, x->pair.listener);
    loop_recv(l, &x->recv.op, x->pair.server, x->buf, sizeof(x->buf));
    loop_send(l, &x->send.op, x->pair.server, &x->iov, 1);
    contract_timer_init(env, &x->timer);
    loop_timer_start(l, &x->timer.timer, loop_now(l) + 3600 * NS_PER_S);
    contract_rest(env, NS_PER_MS);
    x->task.loop = l;
    task_init(&x->task.task, contract_task_step);
    loop_wake(l, &x->task.task);
    loop_read(l, &x->read.op, f, x->buf, sizeof(x->buf), 0);
    loop_flush(l, &x->flush.op, f);

    loop_halt(l);
    assert_int_equal(x->accept.done_count + x->recv.done_count + x->send.done_count +
                         x->read.done_count + x->flush.done_count + x->task.runs + x->timer.fires,
                     0);
    assert_false(loop_timer_is_running(&x->timer.timer));
    loop_wake(l, &x->task.task);
    loop_timer_start(l, &x->timer.timer, 0);
    loop_read(l, &x->read.op, f, x->buf, sizeof(x->buf), 0);
    loop_discard(l, &x->flush.op, f, 0, CONTRACT_BLOCK);
    assert_int_equal(loop_buffers_register(l, x->buf, sizeof(x->buf)), -ECANCELED);
    contract_path(env, "f", path);
    assert_int_equal(loop_file_open(l, path, 0, &again), -ECANCELED);
    loop_conn_close(x->pair.client);
    loop_conn_close(x->pair.server);
    loop_listener_close(x->pair.listener);
    loop_file_close(f);
    free(x);
}

#define CONTRACT_TEST(name, setup, teardown) cmocka_unit_test_setup_teardown(name, setup, teardown)

#define CONTRACT_TESTS(s, t)                                                                     \
    CONTRACT_TEST(a_task_woken_twice_runs_once_and_not_at_once, s, t),                           \
        CONTRACT_TEST(timers_fire_in_order_of_time_then_of_start_and_never_early, s, t),         \
        CONTRACT_TEST(a_stopped_timer_stays_silent_and_a_moved_one_fires_once, s, t),            \
        CONTRACT_TEST(tasks_that_never_rest_do_not_starve_ops_and_timers, s, t),                 \
        CONTRACT_TEST(messages_of_one_sender_arrive_in_order_and_not_at_once, s, t),             \
        CONTRACT_TEST(a_message_may_be_posted_on_from_its_run, s, t),                            \
        CONTRACT_TEST(clocks_go_forward_and_random_numbers_differ, s, t),                        \
        CONTRACT_TEST(what_was_written_is_read_whatever_the_pieces, s, t),                       \
        CONTRACT_TEST(a_read_past_the_end_returns_fewer_bytes, s, t),                            \
        CONTRACT_TEST(direct_files_take_whole_blocks_and_end_where_they_end, s, t),              \
        CONTRACT_TEST(a_flush_succeeds_and_the_blocking_calls_see_the_same_file, s, t),          \
        CONTRACT_TEST(a_file_is_volatile_and_says_when_it_has_less_room_than_its_size, s, t),    \
        CONTRACT_TEST(a_durable_write_is_a_write, s, t),                                         \
        CONTRACT_TEST(a_discard_touches_nothing_around_it, s, t),                                \
        CONTRACT_TEST(durable_writes_and_discards_wait_their_turn, s, t),                        \
        CONTRACT_TEST(registered_buffers_carry_the_same_bytes, s, t),                            \
        CONTRACT_TEST(opening_says_what_is_wrong, s, t),                                         \
        CONTRACT_TEST(a_locked_file_opens_once, s, t),                                           \
        CONTRACT_TEST(a_file_grows_with_zeros_and_shrinks, s, t),                                \
        CONTRACT_TEST(a_reservation_the_disk_cannot_hold_changes_nothing, s, t),                 \
        CONTRACT_TEST(names_are_made_listed_renamed_and_removed, s, t),                          \
        CONTRACT_TEST(more_ops_than_the_queue_holds_all_come_back_once, s, t),                   \
        CONTRACT_TEST(connecting_where_nobody_listens_is_refused, s, t),                         \
        CONTRACT_TEST(a_port_is_taken_while_it_is_listened_on_and_free_after, s, t),             \
        CONTRACT_TEST(each_side_knows_its_peer, s, t),                                           \
        CONTRACT_TEST(a_receive_gets_what_there_is_and_then_the_end, s, t),                      \
        CONTRACT_TEST(a_big_send_arrives_whole_through_small_receives, s, t),                    \
        CONTRACT_TEST(closing_ends_ops_in_flight_and_the_peer_learns_of_it, s, t),               \
        CONTRACT_TEST(closing_with_ops_that_were_only_just_started_ends_them_too, s, t),         \
        CONTRACT_TEST(a_send_to_a_peer_that_is_gone_fails, s, t),                                \
        CONTRACT_TEST(connections_that_wait_do_not_hold_up_files, s, t),                         \
        CONTRACT_TEST(a_moved_connection_works_on_its_new_loop, s, t),                           \
        CONTRACT_TEST(whatever_is_sent_and_closed_every_op_returns_once_and_no_byte_is_wrong, s, \
                      t),                                                                        \
        CONTRACT_TEST(a_halted_loop_calls_nobody_and_lets_nothing_through, s, t)

#endif /* TESTS_UNIT_IO_CONTRACT_H */
