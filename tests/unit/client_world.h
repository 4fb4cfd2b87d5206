/*
 * A client in a world that the test answers by hand: a loop whose time the test
 * moves, a net that only notes the calls, a cluster state made of four tables.
 *
 * Three OSDs, one pool of four PGs and objects of 16 KiB, one image "disk" of 1 MiB.
 * The PG with number n has OSD n % 3 + 1 as its primary.
 */

#ifndef TESTS_CLIENT_WORLD_H
#define TESTS_CLIENT_WORLD_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/prng.h"
#include "client/client.h"
#include "io/loop_impl.h"
#include "net/wire_osd.h"

enum {
    WORLD_OSDS = 3,
    WORLD_PGS = 4,
    WORLD_OBJECT = 16 << 10,
    WORLD_SIZE = 1 << 20,
    WORLD_CALLS = 1024,
    WORLD_IMAGE = 7,
    WORLD_PARTS = 64,
};

struct world {
    struct loop loop; /* first: the back end finds the world by it */
    uint64_t now;
    struct prng prng;

    struct meta_access meta;
    struct map_feed *feed;
    struct meta_call *id_call; /* asked and not answered */
    uint64_t id_last;
    uint32_t reports, kicks;
    uint32_t report_osd, report_incarnation;

    struct map map;
    struct map_node nodes[WORLD_OSDS];
    struct map_osd osds[WORLD_OSDS];
    struct map_pool pool;
    struct map_pg pgs[WORLD_PGS];
    struct map_image image;
    uint64_t by_name;
    struct map_client clients[16];

    struct rpc_call *calls[WORLD_CALLS]; /* in flight, in order of sending */
    uint32_t calls_count, calls_total;
    struct rpc_call *cancelled[WORLD_CALLS];
    uint32_t cancelled_count;

    struct client *client;
    struct client_image *disk;
    uint32_t done_count;
};

static struct world *world_current; /* the fake net's */

/* ---- The loop ---- */

static uint64_t world_now(struct loop *l)
{
    return ((struct world *)l)->now;
}

static void world_random(struct loop *l, void *buf, size_t len)
{
    for (size_t i = 0; i < len; i++)
        ((uint8_t *)buf)[i] = (uint8_t)prng_next(&((struct world *)l)->prng);
}

static void world_woken(struct loop *l)
{
    (void)l;
}

static const struct loop_backend world_backend = {
    .name = "hand",
    .now = world_now,
    .random = world_random,
    .woken = world_woken,
};

/* ---- The net: it notes ---- */

void rpc_call_start(struct net *n, struct rpc_call *c)
{
    struct world *w = world_current;

    (void)n;
    check(w->calls_count < WORLD_CALLS);
    check(c->deadline_ns > w->now && c->done != NULL);
    w->calls[w->calls_count++] = c;
    w->calls_total++;
}

static struct rpc_call *world_take_call(struct world *w, uint32_t i)
{
    check(i < w->calls_count);
    struct rpc_call *c = w->calls[i];
    memmove(&w->calls[i], &w->calls[i + 1], (w->calls_count - i - 1) * sizeof(w->calls[0]));
    w->calls_count--;
    return c;
}

void rpc_call_cancel(struct net *n, struct rpc_call *c)
{
    struct world *w = world_current;

    (void)n;
    for (uint32_t i = 0; i < w->calls_count; i++) {
        if (w->calls[i] == c) {
            world_take_call(w, i);
            check(w->cancelled_count < WORLD_CALLS);
            w->cancelled[w->cancelled_count++] = c;
            return;
        }
    }
}

void net_kick(struct net *n)
{
    (void)n;
    world_current->kicks++;
}

/* ---- The cluster state ---- */

static void world_submit(struct meta_access *a, struct meta_call *call)
{
    struct world *w = container_of(a, struct world, meta);

    check(w->id_call == NULL && call->command.kind == META_CLIENT_ADD);
    w->id_call = call;
}

static void world_feed_add(struct meta_access *a, struct map_feed *f)
{
    container_of(a, struct world, meta)->feed = f;
}

static void world_feed_remove(struct meta_access *a, struct map_feed *f)
{
    struct world *w = container_of(a, struct world, meta);

    check(w->feed == f);
    w->feed = NULL;
}

static void world_report(struct meta_access *a, uint32_t osd, uint32_t incarnation, bool refused)
{
    struct world *w = container_of(a, struct world, meta);

    check(refused);
    w->reports++;
    w->report_osd = osd;
    w->report_incarnation = incarnation;
}

/* ---- The world turns ---- */

static void world_run(struct world *w)
{
    do {
        while (runq_run_one(&w->loop.runq)) {
        }
        while (w->cancelled_count > 0) {
            struct rpc_call *c = w->cancelled[--w->cancelled_count];
            c->status = -ECANCELED;
            c->answered = false;
            c->done(c);
        }
    } while (!list_empty(&w->loop.runq.ready));
}

static void world_pass(struct world *w, uint64_t ms)
{
    for (uint64_t i = 0; i < ms; i++) {
        w->now += NS_PER_MS;
        loop_timers_fire(&w->loop, w->now);
        world_run(w);
    }
}

/* Publish what the tables say now as a newer map. */
static void world_publish(struct world *w)
{
    w->map.revision++;
    w->feed->on_map(w->feed, &w->map);
    world_run(w);
}

static void world_give_id(struct world *w)
{
    struct meta_call *call = w->id_call;

    check(call != NULL);
    w->id_call = NULL;
    call->result = (struct meta_result){.id = ++w->id_last};
    call->done(call);
    world_run(w);
}

static inline uint32_t world_pg_number(uint64_t object)
{
    return (uint32_t)((mix64(WORLD_IMAGE) + object) % WORLD_PGS);
}

static void world_make_map(struct world *w)
{
    for (uint32_t i = 0; i < WORLD_OSDS; i++) {
        w->nodes[i] = (struct map_node){.id = i + 1};
        w->nodes[i].addr.port = (uint16_t)(7400 + i);
        w->osds[i] = (struct map_osd){.id = i + 1, .node = i + 1, .incarnation = 10, .up = true};
    }
    w->pool = (struct map_pool){
        .id = 1, .replicas = 3, .min_size = 2, .pg_count = WORLD_PGS, .object_size = WORLD_OBJECT};
    for (uint32_t i = 0; i < WORLD_PGS; i++)
        w->pgs[i] = (struct map_pg){
            .id = (uint64_t)1 << 32 | i, .epoch = 5, .primary = i % WORLD_OSDS + 1, .active = true};
    w->image = (struct map_image){.id = WORLD_IMAGE,
                                  .root = WORLD_IMAGE,
                                  .name = "disk",
                                  .size = WORLD_SIZE,
                                  .pool = 1,
                                  .epoch = 1};
    w->by_name = WORLD_IMAGE;
    w->map = (struct map){
        .nodes_count = WORLD_OSDS,
        .osds_count = WORLD_OSDS,
        .pools_count = 1,
        .pgs_count = WORLD_PGS,
        .images_count = 1,
        .nodes = w->nodes,
        .osds = w->osds,
        .pools = &w->pool,
        .pgs = w->pgs,
        .images = &w->image,
        .images_by_name = &w->by_name,
        .clients = w->clients,
        .image_last = WORLD_IMAGE,
    };
}

static void world_init_without_id(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof(*w));
    world_current = w;
    loop_base_init(&w->loop, &world_backend);
    w->now = NS_PER_S;
    prng_init(&w->prng, seed);
    w->meta = (struct meta_access){world_submit, world_feed_add, world_feed_remove, world_report};
    world_make_map(w);

    struct client_config config = {
        .loop = &w->loop,
        .net = (struct net *)w,
        .meta = &w->meta,
        .parts_max = WORLD_PARTS,
    };
    check(client_open(&config, &w->client) == 0);
    check(client_image_open(w->client, "disk", &w->disk) == -EAGAIN);
    world_publish(w);
    check(client_image_open(w->client, "disc", &w->disk) == -ENOENT);
    check(client_image_open(w->client, "disk", &w->disk) == 0);
}

static inline void world_init(struct world *w)
{
    world_init_without_id(w, 1);
    world_give_id(w);
}

/* The loop dies with whatever is in flight. */
static void world_deinit(struct world *w)
{
    loop_base_kill(&w->loop);
    client_close(w->client);
    loop_base_deinit(&w->loop);
}

/* ---- Ops and answers ---- */

static void world_on_done(struct client_op *op)
{
    (void)op;
    world_current->done_count++;
}

static inline void world_start(struct world *w, struct client_op *op, enum client_op_kind kind,
                               uint64_t offset, uint64_t len, void *buf)
{
    *op = (struct client_op){
        .kind = kind,
        .image = w->disk,
        .offset = offset,
        .len = len,
        .buf = buf,
        .done = world_on_done,
        .result = 1,
    };
    client_op_start(w->client, op);
    check(op->result != 0 || op->state != 3); /* done() never runs inside start */
    world_run(w);
}

static struct wire_osd_io world_io(const struct rpc_call *c)
{
    struct wire_osd_io io;

    check(c->body.len >= WIRE_OSD_IO_SIZE);
    wire_osd_io_get(c->body.base, &io);
    check(io.len > 0 && io.offset + io.len <= WORLD_OBJECT && io.image == WORLD_IMAGE);
    return io;
}

/* End call `i` with a status; `answered`: it is the OSD's. */
static void world_answer(struct world *w, uint32_t i, int status, bool answered)
{
    struct rpc_call *c = world_take_call(w, i);

    c->status = status;
    c->answered = answered;
    c->reply_revision = w->map.revision;
    c->reply_body = (struct slice){NULL, 0};
    c->reply_data_len = 0;
    c->done(c);
    world_run(w);
}

/* The checksums of `data` as the wire has them. */
static uint32_t world_crcs(const struct wire_osd_io *io, const uint8_t *data, uint8_t *out)
{
    uint32_t count = 0, done = 0;

    while (done < io->len) {
        uint32_t len = WIRE_BLOCK - (io->offset + done) % WIRE_BLOCK;
        if (len > io->len - done)
            len = io->len - done;
        put_u32(out + 4 * (size_t)count++,
                crc32c_block(io->image, io->object, (io->offset + done) / WIRE_BLOCK, data + done,
                             len));
        done += len;
    }
    check(count == wire_pieces(io->offset, io->len));
    return count;
}

/* Answer a READ with bytes of `disk`, of which bit `flip` is wrong (0: none is). */
static void world_answer_read(struct world *w, uint32_t i, const uint8_t *disk, uint32_t flip)
{
    struct rpc_call *c = w->calls[i];
    struct wire_osd_io io = world_io(c);
    const uint8_t *data = disk + io.object * WORLD_OBJECT + io.offset;

    check(c->kind == WIRE_OSD_READ && c->data_buf_size >= io.len);
    memcpy(c->data_buf, data, io.len);
    uint32_t count = world_crcs(&io, data, c->body_buf);
    if (flip != 0)
        ((uint8_t *)c->data_buf)[flip % io.len] ^= 1;
    world_take_call(w, i);
    c->status = 0;
    c->answered = true;
    c->reply_revision = w->map.revision;
    c->reply_body = (struct slice){c->body_buf, 4 * (size_t)count};
    c->reply_data_len = io.len;
    c->done(c);
    world_run(w);
}

/* The crcs that came with a WRITE fit its data. */
static void world_check_write(const struct rpc_call *c)
{
    struct wire_osd_io io = world_io(c);
    uint8_t crcs[4 * WIRE_OSD_PIECES_MAX];

    check(c->kind == WIRE_OSD_WRITE && c->data_count == 1 && c->data[0].iov_len == io.len);
    uint32_t count = world_crcs(&io, c->data[0].iov_base, crcs);
    check(c->body.len == WIRE_OSD_IO_SIZE + 4 * (size_t)count);
    check(memcmp((const uint8_t *)c->body.base + WIRE_OSD_IO_SIZE, crcs, 4 * (size_t)count) == 0);
}

#endif /* TESTS_CLIENT_WORLD_H */
