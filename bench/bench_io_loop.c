/*
 * What the event loop costs: bench_io_loop [FOLDER] [SECONDS per measurement] [uring|uv|both].
 *
 * Tasks, messages within a thread and between threads, 4 KiB direct reads and writes at depth 32
 * from buffers that are registered with the loop and from such that are not (over io_uring beside
 * the same without a loop; the variants in turn, in ROUNDS rounds, of which the median counts), and
 * round trips over loopback TCP; over io_uring, then over libuv (both: the default). CPU is user
 * and system time by getrusage(): of reads and writes the process's, since others may do them for
 * the loop, else the thread's own. The last line is JSON.
 */

#include <inttypes.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/pool.h"
#include "base/prng.h"
#include "io/loop.h"

enum { BLOCK = 4096, DEPTH = 32, FILE_BLOCKS = 65536, ROUNDS = 5 };

struct cost {
    uint64_t ops;
    uint64_t wall_ns;
    uint64_t cpu_ns, user_ns;
    int who; /* of getrusage() */
};

static uint64_t seconds = 2;
static uint64_t measure_ns; /* of one measurement */
static enum loop_kind kind;
static struct loop *loop;

static uint64_t timeval_ns(struct timeval tv)
{
    return (uint64_t)tv.tv_sec * NS_PER_S + (uint64_t)tv.tv_usec * 1000;
}

/* So far. */
static struct cost cost_now(int who)
{
    struct rusage u;

    check(getrusage(who, &u) == 0);
    uint64_t user = timeval_ns(u.ru_utime);
    return (struct cost){.wall_ns = loop_now(loop),
                         .cpu_ns = user + timeval_ns(u.ru_stime),
                         .user_ns = user,
                         .who = who};
}

static void cost_begin(struct cost *c, int who)
{
    *c = cost_now(who);
}

static void cost_end(struct cost *c)
{
    struct cost end = cost_now(c->who);

    c->wall_ns = end.wall_ns - c->wall_ns;
    c->cpu_ns = end.cpu_ns - c->cpu_ns;
    c->user_ns = end.user_ns - c->user_ns;
}

static uint64_t per_second(const struct cost *c)
{
    return (uint64_t)((double)c->ops * 1e9 / (double)c->wall_ns);
}

static uint64_t cpu_per_op(const struct cost *c)
{
    return c->ops == 0 ? 0 : c->cpu_ns / c->ops;
}

static void cost_print(const char *what, const struct cost *c)
{
    printf("%-28s %10" PRIu64 " /s %8" PRIu64 " ns CPU each (%" PRIu64 " user)\n", what,
           per_second(c), cpu_per_op(c), c->user_ns / c->ops);
}

/* ---- A measurement runs until this timer ---- */

static bool is_over;

static void on_over(struct loop_timer *t)
{
    (void)t;
    is_over = true;
    loop_stop(loop);
}

static void measure(struct cost *c, int who)
{
    struct loop_timer timer;

    is_over = false;
    loop_timer_init(&timer, on_over);
    loop_timer_start(loop, &timer, loop_now(loop) + measure_ns);
    cost_begin(c, who);
    while (!is_over) /* a stop may be left over from what came before */
        loop_run(loop);
    cost_end(c);
}

/* ---- Tasks and messages ---- */

static uint64_t count;

static void on_task(struct task *task)
{
    count++;
    if (!is_over)
        loop_wake(loop, task);
}

static struct cost bench_tasks(void)
{
    struct task t[8];
    struct cost c;

    count = 0;
    for (uint32_t i = 0; i < COUNT_OF(t); i++) {
        task_init(&t[i], on_task);
        loop_wake(loop, &t[i]);
    }
    measure(&c, RUSAGE_THREAD);
    c.ops = count;
    for (uint32_t i = 0; i < COUNT_OF(t); i++)
        task_cancel(&t[i]);
    return c;
}

static void *thread_run(void *arg)
{
    loop_run(arg);
    return NULL;
}

/* Messages go round between two threads: with few of them both sleep between, with many neither. */
struct ball {
    struct loop_msg msg; /* first: run() finds the rest */
    struct loop *other;
    bool is_here;
};

static uint32_t balls_home;

static void on_ball(struct loop_msg *msg)
{
    struct ball *b = (struct ball *)msg;

    b->is_here = !b->is_here;
    if (!b->is_here) { /* on the other thread */
        loop_post(loop, msg);
        return;
    }
    count++;
    if (!is_over) {
        loop_post(b->other, msg);
    } else {
        balls_home++;
        loop_stop(loop);
    }
}

static struct cost bench_posts(uint32_t balls)
{
    struct loop *other;
    struct ball *b = mem_zalloc(balls * sizeof(*b));
    pthread_t thread;
    struct cost c;

    check(loop_create(&other, kind, 16) == 0);
    check(pthread_create(&thread, NULL, thread_run, other) == 0);
    count = 0;
    balls_home = 0;
    for (uint32_t i = 0; i < balls; i++) {
        b[i] = (struct ball){.msg.run = on_ball, .other = other, .is_here = true};
        loop_post(other, &b[i].msg);
    }
    measure(&c, RUSAGE_THREAD);
    c.ops = 2 * count;
    while (balls_home < balls)
        loop_run(loop);
    loop_stop(other);
    pthread_join(thread, NULL);
    loop_destroy(other);
    free(b);
    return c;
}

/* ---- 4 KiB at depth 32 ---- */

struct block_op {
    struct loop_op op; /* first: done() finds the rest */
    void *buf;
};

static struct loop_file *file;
static struct prng prng;
static bool is_write;
static uint32_t in_flight;

static void block_start(struct block_op *b)
{
    uint64_t offset = prng_below(&prng, FILE_BLOCKS) * BLOCK;

    in_flight++;
    if (is_write)
        loop_write(loop, &b->op, file, b->buf, BLOCK, offset);
    else
        loop_read(loop, &b->op, file, b->buf, BLOCK, offset);
}

static void on_block(struct loop_op *op)
{
    check(op->result == BLOCK);
    in_flight--;
    count++;
    if (!is_over)
        block_start((struct block_op *)op);
    else if (in_flight == 0)
        loop_stop(loop);
}

static struct cost bench_blocks(bool write, bool is_registered)
{
    struct block_op ops[DEPTH];
    struct cost c = {0};
    char *pool = mem_alloc_aligned((size_t)DEPTH * BLOCK, BLOCK);

    if (is_registered && loop_buffers_register(loop, pool, (size_t)DEPTH * BLOCK) != 0) {
        free(pool);
        return c;
    }
    is_write = write;
    is_over = false;
    count = 0;
    for (uint32_t i = 0; i < DEPTH; i++) {
        ops[i].buf = pool + (size_t)i * BLOCK;
        memset(ops[i].buf, (int)i, BLOCK);
        loop_op_init(&ops[i].op, on_block);
        block_start(&ops[i]);
    }
    measure(&c, RUSAGE_SELF);
    c.ops = count;
    while (in_flight > 0)
        loop_run(loop);
    if (is_registered)
        check(loop_buffers_unregister(loop, pool) == 0);
    free(pool);
    return c;
}

static void bare_prepare(struct io_uring *ring, int fd, bool write, void *buf)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    uint64_t offset = prng_below(&prng, FILE_BLOCKS) * BLOCK;

    if (write)
        io_uring_prep_write(sqe, fd, buf, BLOCK, offset);
    else
        io_uring_prep_read(sqe, fd, buf, BLOCK, offset);
    io_uring_sqe_set_data(sqe, buf);
}

/* The least that anyone can do with io_uring: what the loop adds is the difference. */
static struct cost bench_bare(const char *path, bool write)
{
    struct io_uring ring;
    struct io_uring_cqe *cqe;
    struct cost c;
    void *bufs[DEPTH];
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    unsigned flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;

    check(fd >= 0);
    if (io_uring_queue_init(64, &ring, flags) != 0)
        check(io_uring_queue_init(64, &ring, 0) == 0);
    cost_begin(&c, RUSAGE_SELF);
    uint64_t end = c.wall_ns + measure_ns;
    for (uint32_t i = 0; i < DEPTH; i++) {
        bufs[i] = mem_alloc_aligned(BLOCK, BLOCK);
        memset(bufs[i], (int)i, BLOCK);
        bare_prepare(&ring, fd, write, bufs[i]);
    }
    for (uint32_t left = DEPTH; left > 0;) {
        bool more = loop_now(loop) < end;
        unsigned head, seen = 0;
        io_uring_submit_and_wait(&ring, 1);
        io_uring_for_each_cqe(&ring, head, cqe)
        {
            check(cqe->res == BLOCK);
            seen++;
            if (more)
                bare_prepare(&ring, fd, write, io_uring_cqe_get_data(cqe));
            else
                left--;
        }
        io_uring_cq_advance(&ring, seen);
        c.ops += seen;
    }
    cost_end(&c);
    io_uring_queue_exit(&ring);
    close(fd);
    for (uint32_t i = 0; i < DEPTH; i++)
        free(bufs[i]);
    return c;
}

static void file_fill(const char *path)
{
    size_t len = 1 << 20;
    void *buf = mem_alloc_aligned(len, BLOCK);
    unsigned flags = LOOP_FILE_WRITE | LOOP_FILE_CREATE | LOOP_FILE_DIRECT;

    memset(buf, 1, len);
    check(loop_file_open(loop, path, flags, &file) == 0);
    for (uint64_t at = 0; at < (uint64_t)FILE_BLOCKS * BLOCK; at += len)
        check(loop_write_now(file, buf, len, at) == (int64_t)len);
    check(loop_flush_now(file) == 0);
    free(buf);
}

/* ---- Round trips over loopback TCP, both ends on this loop ---- */

enum { MESSAGE = 64 };

struct end {
    struct loop_op recv, send;
    struct loop_conn *conn;
    struct iovec iov;
    uint8_t in[MESSAGE], out[MESSAGE];
};

static struct end ends[2];

static void end_recv(struct end *e)
{
    loop_recv(loop, &e->recv, e->conn, e->in, MESSAGE);
}

static void on_sent(struct loop_op *op)
{
    check(op->result == MESSAGE || is_over);
}

static void on_received(struct loop_op *op)
{
    struct end *e = container_of(op, struct end, recv);

    if (is_over)
        return;
    check(op->result == MESSAGE);
    count += e == &ends[0];
    end_recv(e);
    loop_send(loop, &e->send, e->conn, &e->iov, 1);
}

static void on_joined(struct loop_op *op)
{
    check(op->result == 0);
    ends[op == &ends[1].recv].conn = op->conn;
    if (ends[0].conn != NULL && ends[1].conn != NULL)
        loop_stop(loop);
}

static struct cost bench_round_trips(void)
{
    struct loop_listener *listener;
    struct loop_addr addr, bound;
    struct cost c;

    check(loop_addr_parse("127.0.0.1:0", &addr));
    check(loop_listen(loop, &addr, &listener, &bound) == 0);
    memset(ends, 0, sizeof(ends));
    loop_op_init(&ends[0].recv, on_joined);
    loop_op_init(&ends[1].recv, on_joined);
    loop_accept(loop, &ends[0].recv, listener);
    loop_connect(loop, &ends[1].recv, &bound);
    loop_run(loop);

    is_over = false;
    count = 0;
    for (uint32_t i = 0; i < 2; i++) {
        loop_op_init(&ends[i].recv, on_received);
        loop_op_init(&ends[i].send, on_sent);
        ends[i].iov = (struct iovec){ends[i].out, MESSAGE};
        end_recv(&ends[i]);
    }
    loop_send(loop, &ends[0].send, ends[0].conn, &ends[0].iov, 1);
    measure(&c, RUSAGE_THREAD);
    c.ops = count;
    return c;
}

/* ---- All of it, over one kind of loop ---- */

enum result {
    TASKS,
    POSTS_MANY,
    POSTS_ONE,
    READS,
    READS_PLAIN,
    READS_BARE,
    WRITES,
    WRITES_PLAIN,
    WRITES_BARE,
    ROUND_TRIPS,
    RESULTS
};

static const struct {
    const char *text, *name;
} result_names[RESULTS] = {
    [TASKS] = {"tasks", "task"},
    [POSTS_MANY] = {"messages, 256 under way", "post"},
    [POSTS_ONE] = {"messages, 1 under way", "post_one"},
    [READS] = {"4 KiB reads, depth 32", "read"},
    [READS_PLAIN] = {"  buffers not registered", "read_plain"},
    [READS_BARE] = {"  without a loop", "read_bare"},
    [WRITES] = {"4 KiB writes, depth 32", "write"},
    [WRITES_PLAIN] = {"  buffers not registered", "write_plain"},
    [WRITES_BARE] = {"  without a loop", "write_bare"},
    [ROUND_TRIPS] = {"TCP round trips of 64 bytes", "round_trip"},
};

static int cost_compare(const void *a, const void *b)
{
    uint64_t x = cpu_per_op(a), y = cpu_per_op(b);

    return x < y ? -1 : x > y;
}

static struct cost bench_variant(const char *path, enum result which)
{
    bool write = which >= WRITES;

    if (which != READS_BARE && which != WRITES_BARE)
        return bench_blocks(write, which == READS || which == WRITES);
    return kind == LOOP_URING ? bench_bare(path, write) : (struct cost){0};
}

static void bench_files(const char *path, struct cost results[RESULTS])
{
    static struct cost rounds[RESULTS][ROUNDS];

    measure_ns = seconds * NS_PER_S / ROUNDS;
    for (uint32_t r = 0; r < ROUNDS; r++) {
        for (enum result which = READS; which <= WRITES_BARE; which++)
            rounds[which][r] = bench_variant(path, which);
    }
    for (enum result which = READS; which <= WRITES_BARE; which++) {
        qsort(rounds[which], ROUNDS, sizeof(rounds[which][0]), cost_compare);
        results[which] = rounds[which][ROUNDS / 2];
    }
    measure_ns = seconds * NS_PER_S;
}

static void bench_all(const char *path, struct cost results[RESULTS])
{
    check(loop_create(&loop, kind, 256) == 0);
    results[TASKS] = bench_tasks();
    results[POSTS_ONE] = bench_posts(1);
    results[POSTS_MANY] = bench_posts(256);
    file_fill(path);
    bench_files(path, results);
    unlink(path);
    results[ROUND_TRIPS] = bench_round_trips();
    loop_destroy(loop);
    for (uint32_t i = 0; i < RESULTS; i++) {
        if (results[i].ops > 0)
            cost_print(result_names[i].text, &results[i]);
    }
}

static void json_print(const char *name, const struct cost results[RESULTS])
{
    printf(", \"%s\": {", name);
    const char *comma = "";
    for (uint32_t i = 0; i < RESULTS; i++) {
        if (results[i].ops == 0)
            continue;
        printf("%s\"%s_per_s\": %" PRIu64 ", \"%s_cpu_ns\": %" PRIu64, comma, result_names[i].name,
               per_second(&results[i]), result_names[i].name, cpu_per_op(&results[i]));
        comma = ", ";
    }
    printf("}");
}

int main(int argc, char **argv)
{
    static const char *const names[] = {[LOOP_URING] = "uring", [LOOP_UV] = "uv"};
    static struct cost results[COUNT_OF(names)][RESULTS];
    char path[512];

    snprintf(path, sizeof(path), "%s/bench_io_loop.%d", argc > 1 ? argv[1] : ".", (int)getpid());
    if (argc > 2)
        seconds = (uint64_t)atoi(argv[2]);
    measure_ns = seconds * NS_PER_S;
    prng_init(&prng, 1);
    for (kind = LOOP_URING; kind <= LOOP_UV; kind++) {
        if (argc > 3 && strcmp(argv[3], "both") != 0 && strcmp(argv[3], names[kind]) != 0)
            continue;
        printf("over %s\n", names[kind]);
        bench_all(path, results[kind]);
    }

    printf("{\"bench\": \"io_loop\"");
    for (kind = LOOP_URING; kind <= LOOP_UV; kind++) {
        if (results[kind][TASKS].ops > 0)
            json_print(names[kind], results[kind]);
    }
    printf("}\n");
    return 0;
}
