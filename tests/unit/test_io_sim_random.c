/*
 * Random lives of three hosts in the simulator: writes, flushes, connections, crashes, power loss,
 * partitions, pauses, in any order. A small model follows along and says what may be found.
 *
 *   Each sector holds the number of the write that made it. After a crash it is not older than the
 *   last write that was done; after power loss, not older than the last that a flush covered or
 * that was made to be durable, on the host whose cache writes through not older than the last that
 * was done; never newer than the last that was started. What is received is a prefix of what was
 * sent.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#include "base/bytes.h"
#include "io/sim.h"

enum { HOSTS = 3, PAGES = 12, PAGE = 4096, SECTOR = 512, SECTORS = PAGE / SECTOR, CONNS = 6 };
enum { WRITES_THROUGH = 3 }; /* this host's cache */
enum { SEEDS = 60, STEPS = 1500, CHUNK_MAX = 20000 };

struct write_call {
    struct loop_op op; /* first: done() finds the rest */
    struct machine *m;
    uint32_t page;
    uint64_t stamp;
    bool busy, is_durable;
    uint8_t buf[PAGE];
};

struct flush_call {
    struct loop_op op; /* first: done() finds the rest */
    struct machine *m;
    bool busy;
    uint64_t covers[PAGES][SECTORS];
};

/* One end of a connection. Both ends number the bytes of a direction from 0. */
struct end {
    struct machine *m;
    struct loop_conn *conn;
    struct loop_op send, recv;
    bool sending, receiving, closing;
    uint64_t sent, received;
    struct iovec iov;
    uint8_t out[CHUNK_MAX], in[CHUNK_MAX];
};

struct connect_call {
    struct loop_op op; /* first: done() finds the rest */
    struct machine *m;
    bool busy;
};

/* What dies with the process. */
struct process {
    struct loop *loop;
    struct loop_file *file;
    struct loop_listener *listener;
    struct write_call writes[PAGES];
    struct flush_call flush;
    struct connect_call connect, accept;
    struct end ends[CONNS];
};

struct machine {
    struct world *w;
    struct sim_host *host;
    uint32_t number;
    struct process *p;
    uint64_t stamp_last;
    uint64_t started[PAGES][SECTORS], done[PAGES][SECTORS], durable[PAGES][SECTORS];
};

struct world {
    struct sim *sim;
    struct prng *r;
    struct machine m[HOSTS];
    uint64_t bytes_received, sectors_checked;
};

/* ---- Disk ---- */

static void on_write(struct loop_op *op)
{
    struct write_call *c = (struct write_call *)op;

    assert_int_equal(op->result, PAGE);
    c->busy = false;
    for (uint32_t i = 0; i < SECTORS; i++) {
        c->m->done[c->page][i] = c->stamp;
        if (c->is_durable || c->m->number == WRITES_THROUGH)
            c->m->durable[c->page][i] = c->stamp;
    }
}

static void start_write(struct machine *m)
{
    uint32_t page = (uint32_t)prng_below(m->w->r, PAGES);
    struct write_call *c = &m->p->writes[page];

    if (c->busy)
        return;
    c->busy = true;
    c->m = m;
    c->page = page;
    c->stamp = ++m->stamp_last;
    for (uint32_t i = 0; i < SECTORS; i++) {
        put_u64(c->buf + i * SECTOR, c->stamp);
        m->started[page][i] = c->stamp;
    }
    loop_op_init(&c->op, on_write);
    c->is_durable = prng_chance(m->w->r, 1, 4);
    if (c->is_durable)
        loop_write_durable(m->p->loop, &c->op, m->p->file, c->buf, PAGE, page * PAGE);
    else
        loop_write(m->p->loop, &c->op, m->p->file, c->buf, PAGE, page * PAGE);
}

static void on_flush(struct loop_op *op)
{
    struct flush_call *c = (struct flush_call *)op;

    assert_int_equal(op->result, 0);
    c->busy = false;
    for (uint32_t page = 0; page < PAGES; page++) {
        for (uint32_t i = 0; i < SECTORS; i++) {
            if (c->m->durable[page][i] < c->covers[page][i])
                c->m->durable[page][i] = c->covers[page][i];
        }
    }
}

static void start_flush(struct machine *m)
{
    struct flush_call *c = &m->p->flush;

    if (c->busy)
        return;
    c->busy = true;
    c->m = m;
    memcpy(c->covers, m->done, sizeof(c->covers));
    loop_op_init(&c->op, on_flush);
    loop_flush(m->p->loop, &c->op, m->p->file);
}

/* What is there now is what the model goes on from. */
static void check_disk(struct machine *m, bool power_loss)
{
    uint8_t buf[PAGE];

    for (uint32_t page = 0; page < PAGES; page++) {
        assert_int_equal(sim_disk_peek(m->host, "data", page * PAGE, buf, PAGE), 0);
        for (uint32_t i = 0; i < SECTORS; i++) {
            uint64_t found = get_u64(buf + i * SECTOR);
            assert_true(found >= (power_loss ? m->durable : m->done)[page][i]);
            assert_true(found <= m->started[page][i]);
            m->started[page][i] = found;
            m->done[page][i] = found;
            if (power_loss)
                m->durable[page][i] = found;
            m->w->sectors_checked++;
        }
    }
}

/* ---- Connections ---- */

static struct end *free_end(struct process *p)
{
    for (uint32_t i = 0; i < CONNS; i++) {
        struct end *e = &p->ends[i];
        if (e->conn == NULL && !e->sending && !e->receiving)
            return e;
    }
    return NULL;
}

static void take_conn(struct machine *m, struct loop_conn *conn)
{
    struct end *e = free_end(m->p);

    if (e == NULL) {
        loop_conn_close(conn);
        return;
    }
    *e = (struct end){.m = m, .conn = conn};
}

static void on_connected(struct loop_op *op)
{
    struct connect_call *c = (struct connect_call *)op;

    c->busy = false;
    if (op->result == 0)
        take_conn(c->m, op->conn);
    else
        assert_null(op->conn);
}

static void start_connect(struct machine *m)
{
    struct connect_call *c = &m->p->connect;
    struct loop_addr addr;

    if (c->busy)
        return;
    c->busy = true;
    c->m = m;
    sim_host_addr(m->w->m[prng_below(m->w->r, HOSTS)].host, 7400, &addr);
    loop_op_init(&c->op, on_connected);
    loop_connect(m->p->loop, &c->op, &addr);
}

static void start_accept(struct machine *m)
{
    struct connect_call *c = &m->p->accept;

    if (c->busy)
        return;
    c->busy = true;
    c->m = m;
    loop_op_init(&c->op, on_connected);
    loop_accept(m->p->loop, &c->op, m->p->listener);
}

static uint8_t stream_byte(uint64_t at)
{
    return (uint8_t)(at * 167 + (at >> 8));
}

static void close_end(struct end *e)
{
    loop_conn_close(e->conn);
    e->conn = NULL;
}

static void on_sent(struct loop_op *op)
{
    struct end *e = container_of(op, struct end, send);

    e->sending = false;
    if (e->conn == NULL)
        return;
    if (op->result < 0) {
        assert_true(op->result == -EPIPE || op->result == -ECONNRESET);
        close_end(e);
        return;
    }
    assert_int_equal(op->result, e->iov.iov_len);
    e->sent += e->iov.iov_len;
}

static void on_received(struct loop_op *op)
{
    struct end *e = container_of(op, struct end, recv);

    e->receiving = false;
    if (e->conn == NULL)
        return;
    if (op->result <= 0) {
        assert_true(op->result == 0 || op->result == -ECONNRESET);
        close_end(e);
        return;
    }
    for (int64_t i = 0; i < op->result; i++)
        assert_int_equal(e->in[i], stream_byte(e->received + (uint64_t)i));
    e->received += (uint64_t)op->result;
    e->m->w->bytes_received += (uint64_t)op->result;
}

static void use_end(struct machine *m)
{
    struct prng *r = m->w->r;
    struct end *e = &m->p->ends[prng_below(r, CONNS)];
    uint64_t len = 1 + prng_below(r, CHUNK_MAX);

    if (e->conn == NULL)
        return;
    if (prng_chance(r, 1, 40)) {
        close_end(e);
    } else if (prng_chance(r, 1, 2) && !e->sending) {
        for (uint64_t i = 0; i < len; i++)
            e->out[i] = stream_byte(e->sent + i);
        e->iov = (struct iovec){e->out, len};
        e->sending = true;
        loop_op_init(&e->send, on_sent);
        loop_send(m->p->loop, &e->send, e->conn, &e->iov, 1);
    } else if (!e->receiving) {
        e->receiving = true;
        loop_op_init(&e->recv, on_received);
        loop_recv(m->p->loop, &e->recv, e->conn, e->in, len);
    }
}

/* ---- Lives ---- */

static void process_start(struct machine *m)
{
    struct process *p = calloc(1, sizeof(*p));
    struct loop_addr addr;

    m->p = p;
    p->loop = sim_loop_create(m->host);
    assert_int_equal(loop_file_open(p->loop, "data",
                                    LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_LOCK, &p->file),
                     0);
    if (loop_file_size(p->file) == 0) {
        assert_int_equal(loop_file_resize(p->file, PAGES * PAGE, false), 0);
        assert_int_equal(loop_flush_now(p->file), 0);
        assert_int_equal(loop_dir_sync(p->loop, ""), 0);
    }
    sim_host_addr(m->host, 7400, &addr);
    assert_int_equal(loop_listen(p->loop, &addr, &p->listener, NULL), 0);
}

/* The memory goes first: a dead loop must not touch it. */
static void process_end(struct machine *m)
{
    struct loop *l = m->p->loop;

    free(m->p);
    m->p = NULL;
    loop_destroy(l);
}

static void crash(struct machine *m, bool power_loss)
{
    sim_host_crash(m->host, power_loss);
    process_end(m);
    check_disk(m, power_loss);
    process_start(m);
}

static void disturb(struct world *w)
{
    struct machine *m = &w->m[prng_below(w->r, HOSTS)];
    uint32_t other = w->m[prng_below(w->r, HOSTS)].number;

    switch (prng_below(w->r, 8)) {
    case 0:
        crash(m, false);
        break;
    case 1:
        crash(m, true);
        break;
    case 2:
        loop_halt(m->p->loop);
        process_end(m);
        check_disk(m, false);
        process_start(m);
        break;
    case 3:
        sim_host_pause(m->host, prng_below(w->r, 10 * NS_PER_MS));
        break;
    case 4:
    case 5:
        sim_net_cut(w->sim, m->number, other, prng_chance(w->r, 1, 2));
        break;
    case 6:
        sim_net_heal_all(w->sim);
        break;
    default:
        sim_net_set_slow(w->sim, (uint32_t)prng_below(w->r, 3), 10, 20 * NS_PER_MS);
        break;
    }
}

static void act(struct machine *m)
{
    switch (prng_below(m->w->r, 8)) {
    case 0:
    case 1:
        start_write(m);
        break;
    case 2:
        start_flush(m);
        break;
    case 3:
        start_connect(m);
        break;
    case 4:
        start_accept(m);
        break;
    default:
        use_end(m);
        break;
    }
}

static uint64_t live(uint64_t seed, uint64_t *bytes, uint64_t *sectors)
{
    struct world w = {.sim = sim_create(&(struct sim_config){.seed = seed})};

    w.r = sim_prng(w.sim);
    for (uint32_t i = 0; i < HOSTS; i++) {
        w.m[i].w = &w;
        w.m[i].number = i + 1;
        w.m[i].host = sim_host_create(w.sim, i + 1);
        if (i + 1 == WRITES_THROUGH)
            sim_disk_set_info(w.m[i].host, &(struct loop_file_info){.io_align = 512});
        process_start(&w.m[i]);
    }
    for (uint32_t i = 0; i < STEPS; i++) {
        for (uint64_t left = prng_below(w.r, 6); left > 0; left--)
            act(&w.m[prng_below(w.r, HOSTS)]);
        if (prng_chance(w.r, 1, 40))
            disturb(&w);
        sim_run_until(w.sim, sim_now(w.sim) + prng_below(w.r, 2 * NS_PER_MS));
    }
    for (uint32_t i = 0; i < HOSTS; i++) {
        sim_host_crash(w.m[i].host, true);
        check_disk(&w.m[i], true);
        process_end(&w.m[i]);
    }
    uint64_t hash = sim_trace_hash(w.sim);
    sim_destroy(w.sim);
    *bytes += w.bytes_received;
    *sectors += w.sectors_checked;
    return hash;
}

static void random_lives_keep_every_promise_and_repeat_exactly(void **state)
{
    uint64_t bytes = 0, sectors = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        print_message("seed %llu\n", (unsigned long long)seed);
        uint64_t hash = live(seed, &bytes, &sectors);
        if (seed % 10 == 0)
            assert_int_equal(live(seed, &bytes, &sectors), hash);
    }
    assert_true(bytes > SEEDS * 100000ull);
    assert_true(sectors > SEEDS * 1000ull);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_lives_keep_every_promise_and_repeat_exactly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
