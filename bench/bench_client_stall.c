/*
 * How long does a cluster keep its clients waiting, and does it keep what it acknowledged?
 *
 *   bench_client_stall --write  --dir NODE_DIR --image NAME --journal FILE [--seconds N] [--depth
 * N]
 *                      [--blocks N] [--drain N] [--contact ADDR:PORT]...
 *   bench_client_stall --verify --dir NODE_DIR --image NAME --journal FILE [--depth N]
 *
 * A process of its own on our client library. NODE_DIR is any node's directory: its identity
 * has the cluster and its secret, its identity and ports have addresses.
 *
 * --write keeps N writes of 4 KiB in flight, each to a block that has none, and records the longest
 * time in which no write was answered. Every block says which write it is. The journal holds, for
 * each block, the newest write that was started and the newest that was answered.
 * --verify reads every block of the journal: it must hold, to the byte, a write not older than the
 * one that was answered and not newer than the one that was started.
 *
 * The journal: u64 magic, u64 run, u64 blocks, then for each block u64 started, u64 answered.
 * It is a mapped file: it survives the end of this process, not of the machine.
 *
 * One line of JSON at the end. Exit 0: as promised; 1: not; 2: usage.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/pool.h"
#include "base/prng.h"
#include "base/text.h"
#include "client/client.h"

enum {
    BLOCK = 4096,
    DEPTH_MAX = 256,
    CONTACTS_MAX = 16,
    HISTOGRAM_MAX = 64 * 16,
    CONNECT_MS = 60000,
    LOOK_MS = 10,
    LEAVE_MS = 2000,
    VERIFY_SECONDS = 3600,
};

#define JOURNAL_MAGIC 0x314c4c4154534b53ull

struct journal_block {
    uint64_t started, answered;
};

struct journal {
    uint64_t magic, run, blocks;
    struct journal_block block[];
};

enum phase {
    PHASE_CONNECTING, /* waits for a map that has the image */
    PHASE_RUNNING,    /* waits for answers */
    PHASE_DRAINING,   /* waits for the last answers */
    PHASE_LEAVING     /* waits until the cluster has forgotten our id */
};

struct slot {
    struct client_op op;
    struct bench *bench;
    uint64_t block, version;
    uint64_t started_ns;
    bool is_busy, is_done;
    uint8_t *buf;
};

struct bench {
    bool is_write;
    const char *dir, *image_name, *journal_path;
    uint64_t seconds, depth, blocks, drain_seconds;
    struct net_identity identity;
    struct loop_addr contacts[CONTACTS_MAX];
    uint32_t contacts_count;

    struct loop *loop;
    struct net *net;
    struct meta_remote *remote;
    struct client *client;
    struct client_image *image;
    struct task task;
    struct loop_timer timer;
    enum phase phase;
    uint64_t phase_until_ns;
    struct meta_call leave;
    bool has_left;

    struct prng prng;
    struct journal *journal;
    size_t journal_size;
    bool *block_is_busy;
    uint64_t verify_next;
    struct slot slots[DEPTH_MAX];
    uint32_t busy_count;

    uint64_t begin_ns, last_answer_ns;
    uint64_t gap_ns, gap_at_ns, gaps_over_100ms;
    uint64_t answers, errors, bad_blocks;
    uint64_t histogram[HISTOGRAM_MAX];
    int error;
};

/* ---- What a block says ---- */

/* The whole block is a function of (run, block, version); versions begin at 1. */
static void stamp_put(uint8_t *buf, uint64_t run, uint64_t block, uint64_t version)
{
    struct prng prng;

    prng_init(&prng, mix64(run) ^ mix64(block * 0x9e3779b97f4a7c15ull + version));
    for (uint32_t i = 24; i < BLOCK; i += 8)
        put_u64(buf + i, prng_next(&prng));
    put_u64(buf, run);
    put_u64(buf + 8, block);
    put_u64(buf + 16, version);
}

/* A block of which no write was answered may hold what was there before this journal. */
static bool stamp_is_good(const struct bench *b, uint64_t block, const uint8_t *buf)
{
    const struct journal_block *j = &b->journal->block[block];
    uint64_t version = get_u64(buf + 16);
    uint8_t expected[BLOCK];

    if (j->answered == 0 && get_u64(buf) != b->journal->run)
        return true;
    if (version == 0 || version < j->answered || version > j->started)
        return false;
    stamp_put(expected, b->journal->run, block, version);
    return memcmp(expected, buf, BLOCK) == 0;
}

/* ---- Numbers ---- */

/* 8 steps for each power of two. */
static uint32_t histogram_place(uint64_t us)
{
    uint32_t power = us < 16 ? 0 : 60 - (uint32_t)__builtin_clzll(us);

    return power * 16 + (uint32_t)(us >> power);
}

static uint64_t histogram_value(uint32_t place)
{
    uint32_t power = place / 16;

    return (uint64_t)(place - power * 16) << power;
}

static uint64_t histogram_percentile(const struct bench *b, uint64_t per_mille)
{
    uint64_t seen = 0, total = 0;

    for (uint32_t i = 0; i < HISTOGRAM_MAX; i++)
        total += b->histogram[i];
    for (uint32_t i = 0; i < HISTOGRAM_MAX; i++) {
        seen += b->histogram[i];
        if (seen * 1000 >= total * per_mille && seen > 0)
            return histogram_value(i);
    }
    return 0;
}

/* From the last answer, or from the beginning, to now. */
static void note_gap(struct bench *b, uint64_t now)
{
    uint64_t gap = now - b->last_answer_ns;

    if (gap > 100 * NS_PER_MS)
        b->gaps_over_100ms++;
    if (gap > b->gap_ns) {
        b->gap_ns = gap;
        b->gap_at_ns = b->last_answer_ns - b->begin_ns;
    }
    b->last_answer_ns = now;
}

/* Blocks whose content an answer vouches for. */
static uint64_t blocks_answered(const struct bench *b)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < b->blocks; i++)
        count += b->journal->block[i].answered != 0;
    return count;
}

static bool is_ok(const struct bench *b)
{
    return b->error == 0 && b->errors == 0 && b->bad_blocks == 0 && b->busy_count == 0 &&
           (b->is_write || b->verify_next >= b->blocks);
}

static void print_result(struct bench *b)
{
    struct client_status st;
    uint64_t took_ns = loop_now(b->loop) - b->begin_ns;

    client_status(b->client, &st);
    printf("{\"mode\": \"%s\", \"seconds\": %.3f, \"depth\": %llu, \"answers\": %llu, "
           "\"iops\": %.0f, \"errors\": %llu, \"bad_blocks\": %llu, \"unanswered\": %u, "
           "\"gap_max_ms\": %.3f, \"gap_max_at_ms\": %.0f, \"gaps_over_100ms\": %llu, "
           "\"latency_us\": {\"p50\": %llu, \"p90\": %llu, \"p99\": %llu, \"p999\": %llu, "
           "\"max\": %llu}, \"blocks_answered\": %llu, \"retries\": %llu, \"fenced\": %llu, "
           "\"ok\": %s}\n",
           b->is_write ? "write" : "verify", (double)took_ns / 1e9, (unsigned long long)b->depth,
           (unsigned long long)b->answers, (double)b->answers * 1e9 / (double)took_ns,
           (unsigned long long)b->errors, (unsigned long long)b->bad_blocks, b->busy_count,
           (double)b->gap_ns / 1e6, (double)b->gap_at_ns / 1e6,
           (unsigned long long)b->gaps_over_100ms, (unsigned long long)histogram_percentile(b, 500),
           (unsigned long long)histogram_percentile(b, 900),
           (unsigned long long)histogram_percentile(b, 990),
           (unsigned long long)histogram_percentile(b, 999),
           (unsigned long long)histogram_percentile(b, 1000),
           (unsigned long long)blocks_answered(b), (unsigned long long)st.retries_total,
           (unsigned long long)st.fenced_total, is_ok(b) ? "true" : "false");
}

/* ---- The journal ---- */

static bool journal_is_good(const struct bench *b)
{
    return b->journal->magic == JOURNAL_MAGIC &&
           b->journal_size ==
               sizeof(struct journal) + b->journal->blocks * sizeof(struct journal_block);
}

static int journal_map_file(struct bench *b, int fd)
{
    off_t size = lseek(fd, 0, SEEK_END);
    off_t size_new = (off_t)(sizeof(struct journal) + b->blocks * sizeof(struct journal_block));

    if (b->is_write && size != size_new) { /* another one, or none: begin anew */
        if (ftruncate(fd, 0) != 0 || ftruncate(fd, size_new) != 0)
            return -errno;
        size = size_new;
    }
    if (size < (off_t)sizeof(struct journal))
        return -EINVAL;
    b->journal_size = (size_t)size;
    void *p = mmap(NULL, b->journal_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    b->journal = p;
    return 0;
}

/* --write goes on with a journal of as many blocks, so that a later --verify sees all runs. */
static int journal_map(struct bench *b)
{
    int fd = open(b->journal_path, b->is_write ? O_RDWR | O_CREAT : O_RDWR, 0600);

    if (fd < 0)
        return -errno;
    int error = journal_map_file(b, fd);
    close(fd);
    if (error != 0)
        return error;
    if (b->is_write && !journal_is_good(b)) {
        memset(b->journal, 0, b->journal_size);
        b->journal->run = loop_random_u64(b->loop);
        b->journal->blocks = b->blocks;
        b->journal->magic = JOURNAL_MAGIC;
    }
    if (!journal_is_good(b))
        return -EINVAL;
    b->blocks = b->journal->blocks;
    return 0;
}

/* ---- The load ---- */

static void wake(struct bench *b)
{
    loop_wake(b->loop, &b->task);
}

static void on_op(struct client_op *op)
{
    struct slot *s = container_of(op, struct slot, op);

    s->is_done = true;
    wake(s->bench);
}

static void on_timer(struct loop_timer *timer)
{
    wake(container_of(timer, struct bench, timer));
}

static void slot_start(struct bench *b, struct slot *s, uint64_t block)
{
    s->block = block;
    s->is_busy = true;
    b->busy_count++;
    if (b->is_write) {
        s->version = ++b->journal->block[block].started;
        b->block_is_busy[block] = true;
        stamp_put(s->buf, b->journal->run, block, s->version);
    }
    s->op = (struct client_op){
        .kind = b->is_write ? CLIENT_WRITE : CLIENT_READ,
        .image = b->image,
        .offset = block * BLOCK,
        .len = BLOCK,
        .buf = s->buf,
        .done = on_op,
    };
    s->started_ns = loop_now(b->loop);
    client_op_start(b->client, &s->op);
}

static void slot_take_answer(struct bench *b, struct slot *s)
{
    uint64_t now = loop_now(b->loop);

    s->is_done = false;
    s->is_busy = false;
    b->busy_count--;
    note_gap(b, now);
    if (b->is_write)
        b->block_is_busy[s->block] = false;
    if (s->op.result != 0) {
        b->errors++;
        fprintf(stderr, "block %llu: %s\n", (unsigned long long)s->block, strerror(-s->op.result));
        return;
    }
    b->answers++;
    b->histogram[histogram_place((now - s->started_ns) / 1000)]++;
    if (b->is_write) {
        b->journal->block[s->block].answered = s->version;
    } else if (!stamp_is_good(b, s->block, s->buf)) {
        const struct journal_block *j = &b->journal->block[s->block];
        b->bad_blocks++;
        fprintf(stderr,
                "block %llu is bad: it says run %016llx block %llu write %llu; "
                "answered %llu, started %llu of run %016llx\n",
                (unsigned long long)s->block, (unsigned long long)get_u64(s->buf),
                (unsigned long long)get_u64(s->buf + 8), (unsigned long long)get_u64(s->buf + 16),
                (unsigned long long)j->answered, (unsigned long long)j->started,
                (unsigned long long)b->journal->run);
    }
}

/* False: there is nothing more to start. */
static bool start_next(struct bench *b, struct slot *s)
{
    uint64_t block = b->verify_next;

    if (b->is_write) {
        do {
            block = prng_below(&b->prng, b->blocks);
        } while (b->block_is_busy[block]); /* there are more blocks than slots */
    } else if (b->verify_next++ >= b->blocks) {
        return false;
    }
    slot_start(b, s, block);
    return true;
}

static void take_answers(struct bench *b)
{
    for (uint64_t i = 0; i < b->depth; i++) {
        if (b->slots[i].is_done)
            slot_take_answer(b, &b->slots[i]);
    }
}

/* ---- Phases ---- */

static void enter(struct bench *b, enum phase phase, uint64_t ms)
{
    b->phase = phase;
    b->phase_until_ns = loop_now(b->loop) + ms * NS_PER_MS;
    loop_timer_start(b->loop, &b->timer, b->phase_until_ns);
    wake(b);
}

static void on_left(struct meta_call *call)
{
    struct bench *b = container_of(call, struct bench, leave);

    b->has_left = true;
    wake(b);
}

/* The result stands; give the client id back. */
static void finish(struct bench *b)
{
    struct client_status st;

    client_status(b->client, &st);
    enter(b, PHASE_LEAVING, 2 * LEAVE_MS);
    b->leave.loop = b->loop;
    b->leave.command.kind = META_CLIENT_REMOVE;
    b->leave.command.client = st.id;
    b->leave.deadline_ns = loop_now(b->loop) + LEAVE_MS * NS_PER_MS;
    b->leave.done = on_left;
    if (st.id != 0)
        meta_remote_access(b->remote)->submit(meta_remote_access(b->remote), &b->leave);
    else
        b->has_left = true;
}

static void step_connecting(struct bench *b, uint64_t now)
{
    int error = client_image_open(b->client, b->image_name, &b->image);

    if (error != 0 && now >= b->phase_until_ns) {
        fprintf(stderr, "no image %s: %s\n", b->image_name,
                error == -EAGAIN ? "no answer from the cluster" : strerror(-error));
        b->error = error;
        loop_stop(b->loop);
        return;
    }
    if (error != 0) {
        loop_timer_start(b->loop, &b->timer, now + LOOK_MS * NS_PER_MS);
        return;
    }
    if (client_image_size(b->image) < b->blocks * BLOCK) {
        fprintf(stderr, "the image is smaller than %llu blocks\n", (unsigned long long)b->blocks);
        b->error = -EINVAL;
        loop_stop(b->loop);
        return;
    }
    b->begin_ns = b->last_answer_ns = now;
    enter(b, PHASE_RUNNING, (b->is_write ? b->seconds : VERIFY_SECONDS) * 1000);
}

static void step_running(struct bench *b, uint64_t now)
{
    bool goes_on = now < b->phase_until_ns;

    for (uint64_t i = 0; goes_on && i < b->depth; i++) {
        if (!b->slots[i].is_busy)
            goes_on = start_next(b, &b->slots[i]);
    }
    if (!goes_on)
        enter(b, PHASE_DRAINING, b->drain_seconds * 1000);
}

static void step(struct task *task)
{
    struct bench *b = container_of(task, struct bench, task);
    uint64_t now = loop_now(b->loop);

    take_answers(b);
    switch (b->phase) {
    case PHASE_CONNECTING:
        step_connecting(b, now);
        return;
    case PHASE_RUNNING:
        step_running(b, now);
        return;
    case PHASE_DRAINING:
        if (b->busy_count > 0 && now < b->phase_until_ns)
            return;
        if (b->busy_count > 0)
            note_gap(b, now);
        print_result(b);
        finish(b);
        return;
    case PHASE_LEAVING:
        if (b->has_left || now >= b->phase_until_ns)
            loop_stop(b->loop);
        return;
    }
}

/* ---- The way to the cluster ---- */

static int on_resolve(void *arg, net_endpoint peer, struct loop_addr *out)
{
    struct bench *b = arg;
    int error = -ENOENT;

    if (b->client != NULL)
        error = client_resolve(b->client, peer, out);
    if (error != 0 && b->remote != NULL)
        error = meta_remote_resolve(b->remote, peer, out);
    return error;
}

static void on_request(void *arg, struct rpc_request *req)
{
    (void)arg;
    rpc_reply_status(req, -EINVAL);
}

static void on_peer_lost(void *arg, net_endpoint peer, uint32_t incarnation, int why)
{
    struct bench *b = arg;

    if (b->client != NULL)
        client_peer_lost(b->client, peer, incarnation, why);
}

static int connect_cluster(struct bench *b)
{
    struct net_config net = {
        .loop = b->loop,
        .identity = b->identity,
        .self = net_endpoint_make(NET_CLIENT, loop_random_u64(b->loop) >> 8),
        .resolve = on_resolve,
        .handle = on_request,
        .peer_lost = on_peer_lost,
        .arg = b,
    };
    int error = net_create(&net, &b->net);
    if (error != 0)
        return error;
    struct meta_remote_config remote = {.loop = b->loop,
                                        .net = b->net,
                                        .contacts = b->contacts,
                                        .contacts_count = b->contacts_count};
    error = meta_remote_open(&remote, &b->remote);
    if (error != 0)
        return error;
    struct client_config client = {
        .loop = b->loop, .net = b->net, .meta = meta_remote_access(b->remote)};
    return client_open(&client, &b->client);
}

/* ---- The node directory, as far as it concerns a client ---- */

static void add_contact(struct bench *b, const char *text)
{
    struct loop_addr addr;

    if (b->contacts_count < CONTACTS_MAX && loop_addr_parse(text, &addr) && addr.port != 0)
        b->contacts[b->contacts_count++] = addr;
}

static bool take_identity_line(struct bench *b, const char *key, const char *value)
{
    if (strcmp(key, "cluster") == 0)
        return hex_decode(value, b->identity.cluster, sizeof(b->identity.cluster));
    if (strcmp(key, "secret") == 0)
        return hex_decode(value, b->identity.secret, sizeof(b->identity.secret));
    if (strcmp(key, "contact") == 0 && strchr(value, '@') != NULL)
        add_contact(b, strchr(value, '@') + 1);
    return true;
}

/* `identity`: lines of key = value. */
static bool read_identity(struct bench *b)
{
    char path[4096], line[512], key[64], value[256];
    bool is_good = true;

    snprintf(path, sizeof(path), "%s/identity", b->dir);
    FILE *f = fopen(path, "r");
    if (f == NULL) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return false;
    }
    while (is_good && fgets(line, sizeof(line), f) != NULL) {
        if (sscanf(line, " %63[a-z_] = %255s", key, value) == 2)
            is_good = take_identity_line(b, key, value);
    }
    fclose(f);
    return is_good;
}

/* `ports`: JSON, of which only "advertise": "IP:PORT" is of interest. */
static void read_ports(struct bench *b)
{
    char path[4096], text[4096], value[128];

    snprintf(path, sizeof(path), "%s/ports", b->dir);
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return;
    size_t len = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[len] = 0;
    const char *at = strstr(text, "\"advertise\"");
    if (at != NULL && sscanf(at, "\"advertise\" : \"%127[^\"]\"", value) == 1)
        add_contact(b, value);
}

/* ---- Start and end ---- */

static bool take_option(struct bench *b, const char *name, const char *value)
{
    if (strcmp(name, "--dir") == 0)
        b->dir = value;
    else if (strcmp(name, "--image") == 0)
        b->image_name = value;
    else if (strcmp(name, "--journal") == 0)
        b->journal_path = value;
    else if (strcmp(name, "--contact") == 0)
        add_contact(b, value);
    else if (strcmp(name, "--seconds") == 0)
        return str_to_u64(value, &b->seconds);
    else if (strcmp(name, "--drain") == 0)
        return str_to_u64(value, &b->drain_seconds);
    else if (strcmp(name, "--depth") == 0)
        return str_to_u64(value, &b->depth) && b->depth > 0 && b->depth <= DEPTH_MAX;
    else if (strcmp(name, "--blocks") == 0)
        return str_to_u64(value, &b->blocks);
    else
        return false;
    return true;
}

static bool parse_options(struct bench *b, int argc, char **argv)
{
    bool has_mode = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--write") == 0 || strcmp(argv[i], "--verify") == 0) {
            b->is_write = strcmp(argv[i], "--write") == 0;
            has_mode = true;
        } else if (i + 1 == argc || !take_option(b, argv[i], argv[i + 1])) {
            fprintf(stderr, "%s: not understood: %s\n", argv[0], argv[i]);
            return false;
        } else {
            i++;
        }
    }
    if (!has_mode || b->dir == NULL || b->image_name == NULL || b->journal_path == NULL ||
        b->blocks < 2 * DEPTH_MAX) {
        fprintf(stderr,
                "usage: %s --write|--verify --dir NODE_DIR --image NAME --journal FILE "
                "[--seconds N] [--drain N] [--depth 1..%d] [--blocks %d..] [--contact ADDR]\n",
                argv[0], DEPTH_MAX, 2 * DEPTH_MAX);
        return false;
    }
    return true;
}

static int bench_open(struct bench *b)
{
    int error = loop_create(&b->loop, LOOP_AUTO, 512);

    if (error != 0)
        return error;
    prng_init(&b->prng, loop_random_u64(b->loop));
    error = journal_map(b);
    if (error != 0)
        return error;
    b->block_is_busy = mem_zalloc(b->blocks);
    for (uint64_t i = 0; i < b->depth; i++) {
        b->slots[i].bench = b;
        b->slots[i].buf = mem_alloc_aligned(BLOCK, BLOCK);
    }
    task_init(&b->task, step);
    loop_timer_init(&b->timer, on_timer);
    return connect_cluster(b);
}

static void bench_close(struct bench *b)
{
    loop_halt(b->loop);
    if (b->remote != NULL)
        meta_remote_close(b->remote); /* first: it may hold a call of the client */
    if (b->client != NULL)
        client_close(b->client);
    if (b->net != NULL)
        net_destroy(b->net);
    loop_destroy(b->loop);
    if (b->journal != NULL)
        munmap(b->journal, b->journal_size);
    for (uint64_t i = 0; i < b->depth; i++)
        free(b->slots[i].buf);
    free(b->block_is_busy);
}

int main(int argc, char **argv)
{
    static struct bench bench = {.seconds = 10, .depth = 16, .blocks = 16384, .drain_seconds = 120};
    struct bench *b = &bench;

    if (!parse_options(b, argc, argv))
        return 2;
    if (!read_identity(b))
        return 1;
    read_ports(b);
    b->error = bench_open(b);
    if (b->error == 0) {
        enter(b, PHASE_CONNECTING, CONNECT_MS);
        loop_run(b->loop);
    } else {
        fprintf(stderr, "cannot start: %s\n", strerror(-b->error));
    }
    if (b->loop != NULL)
        bench_close(b);
    return is_ok(b) ? 0 : 1;
}
