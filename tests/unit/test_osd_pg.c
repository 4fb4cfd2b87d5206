/*
 * One OSD in a world answered by hand: its store, its net and the cluster state are
 * played by the test, so each answer comes exactly when the test gives it.
 * (The functions of store/ and net/ that osd/ calls are defined here and take
 * the place of the libraries'.)
 *
 * The world: OSDs 1 to 3 of one pool with one PG, epoch 5, primary 1, which is us.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/sim.h"
#include "osd/pg.h"

enum { SELF = 1, CALLS_MAX = 64, WRITES_MAX = 64, REQUESTS_MAX = 64, IMAGE = 7, CLIENT = 9 };

#define PG_ID (1ull << 32)

struct request {
    struct rpc_request req; /* First: a request pointer is a pointer to this. */
    bool answered;
    int status;
    uint8_t body[512];
    uint8_t *data;
};

static struct world {
    struct sim *sim;
    struct sim_host *host;
    struct loop *loop;
    struct osd *osd;
    struct map map;
    struct map_node nodes[3];
    struct map_osd osds[3];
    struct map_pool pool;
    struct map_pg pg;
    struct map_image image;
    struct meta_access access;
    struct map_feed *feed;
    struct meta_call *proposal; /* waits for the test's answer */
    struct store_open *opening;
    struct rpc_call *calls[CALLS_MAX];
    size_t calls_count;
    struct rpc_call *cancelled[CALLS_MAX];
    size_t cancelled_count;
    struct store_write *writes[WRITES_MAX];
    size_t writes_count;
    struct store_read *read;
    uint64_t version; /* of the one object */
    uint64_t dedup_client, dedup_seq;
    uint32_t dedups_many; /* so many records above anything, of versions 1, 2, ... */
    uint32_t reported_incarnation;
    uint64_t log_free; /* of 1 MiB */
    struct request requests[REQUESTS_MAX];
    size_t requests_count;
} * world;

/* ---- The store, as the test plays it: one object, its version ---- */

void store_open_start(struct store_open *o)
{
    world->opening = o;
}

void store_close(struct store *s)
{
    (void)s;
}

void store_write_start(struct store *s, struct store_write *w)
{
    (void)s;
    assert_true(world->writes_count < WRITES_MAX);
    world->writes[world->writes_count++] = w;
    if (w->kind != STORE_DEDUP)
        world->version = w->version;
    if (w->client != 0) {
        world->dedup_client = w->client;
        world->dedup_seq = w->seq;
    }
}

void store_read_start(struct store *s, struct store_read *r)
{
    (void)s;
    assert_null(world->read);
    world->read = r;
}

bool store_lookup(struct store *s, const struct store_id *id, struct store_object *out)
{
    (void)s;
    *out = (struct store_object){.id = *id, .pg = PG_ID, .version = world->version, .present = {1}};
    return world->version != 0;
}

bool store_block_crc(struct store *s, const struct store_id *id, uint32_t block, uint32_t *crc)
{
    (void)s, (void)id, (void)block, (void)crc;
    return false;
}

uint32_t store_list(struct store *s, uint64_t pg, uint64_t above, struct store_cursor *cursor,
                    struct store_object *out, uint32_t out_max)
{
    (void)out_max;
    cursor->ended = true;
    if (cursor->started || world->version <= above)
        return 0;
    cursor->started = true;
    struct store_id id = {IMAGE, 0};
    store_lookup(s, &id, out);
    out->pg = pg;
    return 1;
}

uint32_t store_dedup_list(struct store *s, const struct store_id *id, uint64_t above,
                          struct store_dedup *out, uint32_t out_max)
{
    (void)s, (void)id, (void)above;
    for (uint32_t i = 0; i < world->dedups_many && i < out_max; i++)
        out[i] = (struct store_dedup){CLIENT, i + 1, i + 1};
    return world->dedups_many;
}

bool store_dedup_find(struct store *s, uint64_t pg, uint64_t client, uint64_t seq,
                      uint64_t *version)
{
    (void)s, (void)pg;
    *version = world->version;
    return client == world->dedup_client && seq == world->dedup_seq;
}

void store_dedup_floor(struct store *s, uint64_t pg, uint64_t client, uint64_t floor)
{
    (void)s, (void)pg, (void)client, (void)floor;
}

void store_trim(struct store *s, uint64_t pg, uint64_t floor)
{
    (void)s, (void)pg, (void)floor;
}

void store_status(struct store *s, struct store_status *out)
{
    (void)s;
    *out = (struct store_status){.data_bytes = 1ull << 30,
                                 .free_bytes = 1ull << 30,
                                 .log_bytes = 1ull << 20,
                                 .log_free_bytes = world->log_free};
}

/* ---- The net ---- */

void net_kick(struct net *n)
{
    (void)n;
}

void net_set_incarnation(struct net *n, uint32_t incarnation)
{
    (void)n, (void)incarnation;
}

void rpc_call_start(struct net *n, struct rpc_call *c)
{
    (void)n;
    assert_true(world->calls_count < CALLS_MAX);
    world->calls[world->calls_count++] = c;
}

/* done() comes later, as rpc.h has it: when the world runs next. */
void rpc_call_cancel(struct net *n, struct rpc_call *c)
{
    (void)n;
    for (size_t i = 0; i < world->calls_count; i++) {
        if (world->calls[i] == c) {
            world->calls[i] = NULL;
            world->cancelled[world->cancelled_count++] = c;
        }
    }
}

static void deliver_cancelled(void)
{
    while (world->cancelled_count > 0) {
        struct rpc_call *c = world->cancelled[--world->cancelled_count];
        c->status = -ECANCELED;
        c->done(c);
    }
}

void *rpc_reply_buffer(struct rpc_request *req, uint32_t len)
{
    struct request *r = (struct request *)req;

    r->data = mem_alloc_aligned(len, STORE_BLOCK);
    return r->data;
}

void rpc_reply(struct rpc_request *req)
{
    struct request *r = (struct request *)req;

    assert_false(r->answered);
    r->answered = true;
    r->status = req->status;
    if (req->replied != NULL)
        req->replied(req, req->replied_arg);
}

/* ---- The cluster state ---- */

static void world_submit(struct meta_access *a, struct meta_call *c)
{
    (void)a;
    if (c->command.kind == META_PG_CHANGE) {
        assert_null(world->proposal);
        world->proposal = c;
        return;
    }
    c->result = (struct meta_result){.revision = world->map.revision};
    c->done(c);
}

static void world_feed_add(struct meta_access *a, struct map_feed *f)
{
    (void)a;
    world->feed = f;
}

static void world_report(struct meta_access *a, uint32_t osd, uint32_t incarnation, bool refused)
{
    (void)a, (void)osd, (void)refused;
    world->reported_incarnation = incarnation;
}

static void world_run(uint64_t ms)
{
    deliver_cancelled();
    sim_run_until(world->sim, sim_now(world->sim) + ms * NS_PER_MS);
}

static void world_publish(void)
{
    world->map.revision++;
    world->feed->on_map(world->feed, &world->map);
    world_run(1);
    world_run(1);
}

static void world_make_map(void)
{
    struct world *w = world;

    w->pool = (struct map_pool){
        .id = 1, .replicas = 3, .min_size = 2, .pg_count = 1, .object_size = 128 << 10};
    w->pg = (struct map_pg){.id = PG_ID,
                            .epoch = 5,
                            .primary = SELF,
                            .set_count = 3,
                            .set = {1, 2, 3},
                            .target_count = 3,
                            .target = {1, 2, 3}};
    w->image = (struct map_image){.id = IMAGE, .root = IMAGE, .size = 1 << 20, .pool = 1};
    for (uint32_t i = 0; i < 3; i++) {
        w->nodes[i].id = i + 1;
        w->osds[i] = (struct map_osd){.id = i + 1, .node = i + 1, .incarnation = 1, .up = true};
    }
    w->map = (struct map){.revision = 10,
                          .nodes_count = 3,
                          .nodes = w->nodes,
                          .osds_count = 3,
                          .osds = w->osds,
                          .pools_count = 1,
                          .pools = &w->pool,
                          .pgs_count = 1,
                          .pgs = &w->pg,
                          .images_count = 1,
                          .images = &w->image,
                          .image_last = IMAGE,
                          .client_last = CLIENT};
}

/* The OSD is open and has seen its first map; no lease was ever granted by it, so it asks at once.
 */
static int setup(void **state)
{
    struct sim_config sim = {.seed = 1};

    (void)state;
    world = mem_zalloc(sizeof(*world));
    world->log_free = 1 << 20;
    world->sim = sim_create(&sim);
    world->host = sim_host_create(world->sim, 1);
    world->loop = sim_loop_create(world->host);
    world->access = (struct meta_access){
        .submit = world_submit, .feed_add = world_feed_add, .report = world_report};
    world_make_map();

    struct osd_config config = {
        .loop = world->loop, .meta = &world->access, .id = SELF, .node = 1, .path = "/osd"};
    assert_int_equal(osd_open(&config, &world->osd), 0);
    world->opening->result = 0;
    world->opening->incarnation = 1;
    world->opening->store = NULL;
    world->opening->done(world->opening);
    world->map.client_last = 0;
    world_publish();
    return 0;
}

/* ---- Answering ---- */

/* The n-th unanswered call of a kind to an OSD. */
static struct rpc_call *call_to(uint16_t kind, uint32_t osd)
{
    for (size_t i = 0; i < world->calls_count; i++) {
        struct rpc_call *c = world->calls[i];
        if (c != NULL && c->kind == kind && c->to == net_endpoint_make(NET_OSD, osd))
            return c;
    }
    return NULL;
}

static void answer(uint16_t kind, uint32_t osd, int status, const void *body, size_t len)
{
    struct rpc_call *c = call_to(kind, osd);

    assert_non_null(c);
    for (size_t i = 0; i < world->calls_count; i++) {
        if (world->calls[i] == c)
            world->calls[i] = NULL;
    }
    void *at = c->body_buf != NULL ? c->body_buf : c->inline_body;
    if (len > 0)
        memcpy(at, body, len);
    c->status = status;
    c->reply_body = (struct slice){at, len};
    c->done(c);
    world_run(1);
}

static void answer_store(size_t i, int result)
{
    struct store_write *w = world->writes[i];

    assert_non_null(w);
    world->writes[i] = NULL;
    w->result = result;
    w->done(w);
    world_run(1);
}

static void answer_proposal(void)
{
    struct meta_call *c = world->proposal;

    assert_non_null(c);
    world->proposal = NULL;
    c->result = (struct meta_result){.revision = world->map.revision + 1};
    c->done(c);
}

static struct request *request(uint16_t kind, net_endpoint from, uint32_t epoch)
{
    struct request *r = &world->requests[world->requests_count++];

    assert_true(world->requests_count <= REQUESTS_MAX);
    r->req = (struct rpc_request){
        .from = from, .from_incarnation = 1, .kind = kind, .pg = PG_ID, .epoch = epoch};
    r->req.body.base = r->body;
    return r;
}

static struct request *client_io(uint16_t kind, uint64_t seq, uint32_t offset, uint32_t len)
{
    struct request *r = request(kind, net_endpoint_make(NET_CLIENT, CLIENT), world->pg.epoch);
    struct wire_osd_io io = {.image = IMAGE, .offset = offset, .len = len};
    uint32_t pieces = wire_pieces(offset, len);

    if (kind != WIRE_OSD_READ) {
        io.client = CLIENT;
        io.seq = seq;
        io.floor = 1;
    }
    if (kind == WIRE_OSD_WRITE) {
        r->data = mem_alloc_aligned(pieces * STORE_BLOCK, STORE_BLOCK);
        memset(r->data, (int)seq, pieces * STORE_BLOCK);
        r->req.data = r->data;
        r->req.data_len = len;
    }
    wire_osd_io_put(r->body, &io);
    r->req.body.len = WIRE_OSD_IO_SIZE;
    if (kind == WIRE_OSD_WRITE) {
        assert_int_equal(pieces, 1);
        put_u32(r->body + WIRE_OSD_IO_SIZE,
                crc32c_block(IMAGE, 0, offset / STORE_BLOCK, r->data, len));
        r->req.body.len += 4;
    }
    osd_handle(world->osd, &r->req);
    world_run(1);
    return r;
}

static struct request *client_write(uint64_t seq)
{
    return client_io(WIRE_OSD_WRITE, seq, 0, STORE_BLOCK);
}

/* Another OSD's sub-write of `version` on top of `previous`. */
static struct request *sub_write(uint32_t from, uint32_t epoch, uint64_t version, uint64_t previous)
{
    struct request *r = request(WIRE_SUB_WRITE, net_endpoint_make(NET_OSD, from), epoch);

    r->data = mem_alloc_aligned(STORE_BLOCK, STORE_BLOCK);
    memset(r->data, 1, STORE_BLOCK);
    r->req.data = r->data;
    r->req.data_len = STORE_BLOCK;
    put_u64(r->body, IMAGE);
    put_u64(r->body + 16, version);
    put_u64(r->body + 24, previous);
    put_u64(r->body + 48, CLIENT);
    put_u64(r->body + 56, 1);
    put_u32(r->body + 76, STORE_BLOCK);
    put_u32(r->body + 80, 1);
    put_u32(r->body + 88, crc32c_block(IMAGE, 0, 0, r->data, STORE_BLOCK));
    r->req.body.len = WIRE_SUB_WRITE_SIZE + 4;
    osd_handle(world->osd, &r->req);
    world_run(1);
    return r;
}

static void answer_peer(uint32_t osd)
{
    static const uint8_t empty[WIRE_LIST_HEAD];
    uint8_t stable[8] = {0};

    answer(WIRE_QUERY, osd, 0, stable, sizeof(stable));
    answer(WIRE_LIST, osd, 0, empty, sizeof(empty));
}

static void activate(void)
{
    answer_peer(2);
    answer_peer(3);
    assert_non_null(world->proposal);
    assert_int_equal(world->proposal->command.changes[0].kind, META_PG_ACTIVATE);
    answer_proposal();
    world->pg.active = true;
    world->pg.activated = world->pg.epoch;
    world_publish();
}

static void grant_leases(void)
{
    const uint8_t granted[1] = {1};

    world_run(30);
    answer(WIRE_LEASE, 2, 0, granted, 1);
    answer(WIRE_LEASE, 3, 0, granted, 1);
}

static int teardown(void **state)
{
    (void)state;
    sim_host_crash(world->host, false);
    osd_close(world->osd);
    loop_destroy(world->loop);
    sim_destroy(world->sim);
    for (size_t i = 0; i < world->requests_count; i++)
        free(world->requests[i].data);
    free(world);
    return 0;
}

/* ---- The sentences ---- */

static void nothing_is_served_before_the_activation_is_in_the_state(void **state)
{
    (void)state;
    assert_int_equal(client_write(1)->status, -EAGAIN);
    answer_peer(2);
    answer_peer(3);
    assert_int_equal(client_write(1)->status, -EAGAIN);
    assert_int_equal(world->writes_count, 0);
}

static void a_write_is_answered_when_all_members_have_it(void **state)
{
    (void)state;
    activate();
    struct request *r = client_write(1);
    assert_int_equal(world->writes_count, 1);
    answer(WIRE_SUB_WRITE, 2, 0, NULL, 0);
    answer_store(0, 0);
    assert_false(r->answered);
    answer(WIRE_SUB_WRITE, 3, 0, NULL, 0);
    assert_true(r->answered);
    assert_int_equal(r->status, 0);
}

static void a_write_is_not_answered_before_our_own_store_has_it(void **state)
{
    (void)state;
    activate();
    struct request *r = client_write(1);
    answer(WIRE_SUB_WRITE, 2, 0, NULL, 0);
    answer(WIRE_SUB_WRITE, 3, 0, NULL, 0);
    assert_false(r->answered);
    answer_store(0, 0);
    assert_true(r->answered);
}

static void a_member_that_refuses_connections_leaves_the_set_before_the_answer(void **state)
{
    (void)state;
    activate();
    struct request *r = client_write(1);
    answer_store(0, 0);
    answer(WIRE_SUB_WRITE, 2, 0, NULL, 0);
    answer(WIRE_SUB_WRITE, 3, -ECONNREFUSED, NULL, 0);
    assert_false(r->answered);
    assert_non_null(world->proposal);
    const struct meta_pg_change *c = &world->proposal->command.changes[0];
    assert_int_equal(c->kind, META_PG_SHRINK);
    assert_int_equal(c->set_count, 2);
    assert_int_equal(c->version, osd_version(5, 0)); /* W: just below the write in flight */

    answer_proposal();
    world->pg.epoch = 6;
    world->pg.set_count = 2;
    world_publish();
    assert_true(r->answered);
    assert_int_equal(r->status, 0);
}

static void a_write_in_flight_is_sent_again_under_the_new_epoch_with_its_old_version(void **state)
{
    (void)state;
    activate();
    client_write(1);
    uint64_t version = world->writes[0]->version;
    answer(WIRE_SUB_WRITE, 2, -EPIPE, NULL, 0);
    world->pg.epoch = 6;
    world->pg.set_count = 2;
    world_publish();
    struct rpc_call *again = call_to(WIRE_SUB_WRITE, 2);
    assert_non_null(again);
    assert_int_equal(get_u64((const uint8_t *)again->body.base + 16), version);
}

static void a_read_needs_a_lease_of_every_member(void **state)
{
    (void)state;
    activate();
    assert_int_equal(client_io(WIRE_OSD_READ, 0, 0, STORE_BLOCK)->status, -EAGAIN);
    grant_leases();
    struct request *r = client_io(WIRE_OSD_READ, 0, 0, STORE_BLOCK);
    assert_false(r->answered);
    assert_non_null(world->read);
    struct store_read *sr = world->read;
    world->read = NULL;
    sr->done(sr);
    world_run(1);
    assert_int_equal(r->status, 0);

    world_run(3100); /* nobody renews */
    assert_int_equal(client_io(WIRE_OSD_READ, 0, 0, STORE_BLOCK)->status, -EAGAIN);
}

static void a_read_waits_for_the_write_of_its_range(void **state)
{
    (void)state;
    activate();
    grant_leases();
    client_write(1);
    struct request *r = client_io(WIRE_OSD_READ, 0, 0, STORE_BLOCK);
    assert_null(world->read);
    answer_store(0, 0);
    answer(WIRE_SUB_WRITE, 2, 0, NULL, 0);
    assert_null(world->read);
    answer(WIRE_SUB_WRITE, 3, 0, NULL, 0);
    assert_non_null(world->read);
    assert_false(r->answered);
    world->read->done(world->read);
    world_run(1);
    assert_true(r->answered);
}

/* The end of the read that the store was asked for. */
static void answer_read(void)
{
    struct store_read *sr = world->read;

    assert_non_null(sr);
    world->read = NULL;
    sr->result = 0;
    sr->done(sr);
    world_run(1);
}

static void a_read_waits_for_the_merge_of_its_range(void **state)
{
    (void)state;
    activate();
    grant_leases();
    client_io(WIRE_OSD_WRITE, 1, 512, 512);
    struct store_read *edge = world->read;
    world->read = NULL;
    struct request *r = client_io(WIRE_OSD_READ, 0, 0, STORE_BLOCK);
    assert_null(world->read); /* else it could find what is not on every member yet */
    world->read = edge;
    answer_read();
    assert_int_equal(world->writes_count, 1);
    answer_store(0, 0);
    answer(WIRE_SUB_WRITE, 2, 0, NULL, 0);
    assert_null(world->read);
    answer(WIRE_SUB_WRITE, 3, 0, NULL, 0);
    answer_read();
    assert_int_equal(r->status, 0);
}

static void a_merge_waits_for_a_read_of_its_range(void **state)
{
    (void)state;
    activate();
    grant_leases();
    struct request *r = client_io(WIRE_OSD_READ, 0, 0, STORE_BLOCK);
    struct store_read *sr = world->read;
    world->read = NULL;
    client_io(WIRE_OSD_WRITE, 1, 512, 512);
    assert_null(world->read);
    world->read = sr;
    answer_read();
    assert_int_equal(r->status, 0);
    assert_non_null(world->read);
}

static void a_request_sent_again_is_executed_once(void **state)
{
    (void)state;
    activate();
    struct request *first = client_write(1);
    struct request *again = client_write(1);
    assert_int_equal(world->writes_count, 1);
    answer_store(0, 0);
    answer(WIRE_SUB_WRITE, 2, 0, NULL, 0);
    answer(WIRE_SUB_WRITE, 3, 0, NULL, 0);
    assert_int_equal(first->status, 0);
    assert_true(again->answered);
    assert_int_equal(again->status, 0);

    struct request *late = client_write(1);
    assert_true(late->answered);
    assert_int_equal(late->status, 0);
    assert_int_equal(world->writes_count, 1);
}

static void a_request_below_the_floor_is_never_executed(void **state)
{
    (void)state;
    activate();
    osd_floor(world->osd, PG_ID, CLIENT, 5);
    assert_int_equal(client_write(3)->status, -ECANCELED);
    assert_int_equal(world->writes_count, 0);
}

static void what_the_store_did_under_an_older_epoch_is_not_acknowledged(void **state)
{
    (void)state;
    world->pg.primary = 2;
    world->pg.epoch = 6;
    world_publish();
    struct request *r = sub_write(2, 6, osd_version(6, 1), 0);
    assert_int_equal(world->writes_count, 1);

    struct request *query = request(WIRE_QUERY, net_endpoint_make(NET_OSD, 3), 7);
    osd_handle(world->osd, &query->req);
    world_run(1);
    assert_false(query->answered); /* first what is in flight ends */
    answer_store(0, 0);
    assert_int_equal(r->status, -EAGAIN);
    assert_int_equal(query->status, 0);
    assert_int_equal(sub_write(2, 6, osd_version(6, 2), osd_version(6, 1))->status, -EAGAIN);
    assert_int_equal(world->writes_count, 1);
}

/* The promise binds the primary's own store too (R3): a candidate that has asked counts on what
 * it was told. */
static void a_primary_starts_nothing_after_it_has_promised(void **state)
{
    (void)state;
    activate();
    grant_leases();
    client_io(WIRE_OSD_READ, 0, 0, STORE_BLOCK);
    struct request *w = client_write(1);
    assert_int_equal(world->writes_count, 0); /* behind the read */

    struct request *query = request(WIRE_QUERY, net_endpoint_make(NET_OSD, 2), 6);
    osd_handle(world->osd, &query->req);
    world_run(1);
    assert_true(query->answered);
    answer_read();
    assert_int_equal(world->writes_count, 0);

    world->pg.epoch = 6;
    world->pg.primary = 2;
    world->pg.active = false;
    world_publish();
    assert_int_equal(world->writes_count, 0);
    assert_int_equal(w->status, -EAGAIN);
}

/* What is only on its way to the device may still be lost: who is asked what it holds must not
 * name it. */
static void a_list_waits_for_what_is_on_its_way_to_the_device(void **state)
{
    (void)state;
    world->pg.primary = 2;
    world->pg.epoch = 6;
    world_publish();
    sub_write(2, 6, osd_version(6, 1), 0);
    assert_int_equal(world->writes_count, 1);

    struct request *list = request(WIRE_LIST, net_endpoint_make(NET_OSD, 2), 7);
    list->req.body.len = WIRE_LIST_SIZE;
    osd_handle(world->osd, &list->req);
    world_run(1);
    assert_false(list->answered);
    answer_store(0, 0);
    assert_true(list->answered);
    assert_int_equal(list->status, 0);
}

static void of_many_dedup_records_the_newest_are_listed(void **state)
{
    uint8_t *chunk = mem_zalloc(OSD_LIST_CHUNK);
    struct store_cursor cursor = {.pg = PG_ID};
    bool more;

    (void)state;
    world->version = 5000;
    world->dedups_many = 5000;
    osd_list_encode(world->osd, PG_ID, 0, &cursor, chunk, OSD_LIST_CHUNK, &more);
    uint32_t count = get_u32(chunk + WIRE_LIST_HEAD + 28);
    assert_int_equal(count, 1024);
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t version =
            get_u64(chunk + WIRE_LIST_HEAD + WIRE_LIST_ITEM + i * WIRE_DEDUP_SIZE + 16);
        least = version < least ? version : least;
    }
    assert_int_equal(least, 5000 - 1024 + 1);
    free(chunk);
}

/* R7: it proves that the life which was registered there is over, and says nothing of the next. */
static void a_refused_connection_is_about_the_life_at_that_address(void **state)
{
    struct loop_addr addr;

    (void)state;
    assert_int_equal(osd_resolve(world->osd, net_endpoint_make(NET_OSD, 2), &addr), 0);
    world->osds[1].incarnation = 2;
    world_publish();
    osd_peer_lost(world->osd, net_endpoint_make(NET_OSD, 2), 0, -ECONNREFUSED);
    assert_int_equal(world->reported_incarnation, 1);
}

static void a_member_that_left_does_not_end_the_recovery_that_brings_it_back(void **state)
{
    (void)state;
    activate();
    client_write(1);
    answer_store(0, 0);
    answer(WIRE_SUB_WRITE, 3, -ECONNREFUSED, NULL, 0);
    answer_proposal();
    world->pg.epoch = 6;
    world->pg.set_count = 2;
    world_publish();
    world_run(30);
    assert_non_null(call_to(WIRE_LIST, 3));
    world_run(1500); /* the write waits for OSD 2, and S cannot be smaller */
    assert_non_null(call_to(WIRE_LIST, 3));
}

/* Another member's copy of the object: one block, of this version. */
static void answer_fetch(struct rpc_call *c, uint64_t version)
{
    uint8_t state[WIRE_STATE_SIZE + 8] = {0};

    memset(c->data_buf, 3, STORE_BLOCK);
    put_u64(state, IMAGE);
    put_u64(state + 16, version);
    put_u32(state + 28, 1);
    put_u64(state + 40, UINT64_MAX);
    put_u64(state + 48, 1);
    put_u32(state + WIRE_STATE_SIZE, crc32c_block(IMAGE, 0, 0, c->data_buf, STORE_BLOCK));
    c->reply_data_len = STORE_BLOCK;
    answer(WIRE_FETCH, (uint32_t)net_endpoint_id(c->to), 0, state, sizeof(state));
    world_run(1);
}

static struct rpc_call *read_what_is_rotten(void)
{
    activate();
    grant_leases();
    world->version = osd_version(4, 7);
    struct request *r = client_io(WIRE_OSD_READ, 0, 0, STORE_BLOCK);
    struct store_read *sr = world->read;
    world->read = NULL;
    sr->result = -EBADMSG;
    sr->done(sr);
    world_run(1);
    assert_int_equal(r->status, -EAGAIN);
    struct rpc_call *fetch = call_to(WIRE_FETCH, 2);
    assert_non_null(fetch);
    return fetch;
}

static void what_our_device_does_not_give_back_comes_from_another_member(void **state)
{
    (void)state;
    answer_fetch(read_what_is_rotten(), osd_version(4, 7));
    assert_int_equal(world->writes_count, 1);
    assert_int_equal(world->writes[0]->kind, STORE_REPLACE);
    assert_int_equal(world->writes[0]->version, osd_version(4, 7));
    struct request *w = client_write(1);
    assert_int_equal(world->writes_count, 1); /* not while the copy is under way */
    answer_store(0, 0);
    assert_int_equal(world->writes_count, 2);
    assert_false(w->answered);
}

static void a_recovery_that_fails_for_bit_rot_does_not_end_the_repair(void **state)
{
    static const uint8_t empty[WIRE_LIST_HEAD];

    (void)state;
    activate();
    world->version = osd_version(4, 7);
    world->pg.epoch = 6;
    world->pg.set_count = 2;
    world_publish();
    world_run(30);
    answer(WIRE_LIST, 3, 0, empty, sizeof(empty));
    world_run(30);
    struct store_read *sr = world->read;
    assert_non_null(sr); /* to copy it to OSD 3 */
    world->read = NULL;
    sr->result = -EBADMSG;
    sr->done(sr);
    world_run(100);
    assert_non_null(call_to(WIRE_FETCH, 2));
}

/* Each time another member is asked; a device's error may pass, so all of them three times. */
static void what_no_member_gives_back_is_an_error_of_the_read(void **state)
{
    (void)state;
    struct rpc_call *fetch = read_what_is_rotten();
    for (uint32_t i = 0; i < 6; i++) {
        answer(WIRE_FETCH, (uint32_t)net_endpoint_id(fetch->to), -EBADMSG, NULL, 0);
        world_run(1);
        struct request *r = client_io(WIRE_OSD_READ, 0, 0, STORE_BLOCK);
        struct store_read *sr = world->read;
        world->read = NULL;
        sr->result = -EBADMSG;
        sr->done(sr);
        world_run(1);
        assert_int_equal(r->status, i < 5 ? -EAGAIN : -ENODATA);
        fetch = call_to(WIRE_FETCH, i % 2 == 0 ? 3 : 2);
        assert_non_null(fetch);
    }
}

static void a_repair_takes_no_other_version_than_our_own(void **state)
{
    (void)state;
    answer_fetch(read_what_is_rotten(), osd_version(4, 8));
    assert_int_equal(world->writes_count, 0);
}

static void scrub_finds_a_bad_block(void)
{
    struct store_id id = {IMAGE, 0};
    const struct store_config *c = &world->opening->config;

    c->scrub_bad(c->arg, &id, PG_ID, 0, -EBADMSG);
    c->scrub_bad(c->arg, &id, PG_ID, 1, -EBADMSG); /* another one of it */
    world_run(30);
}

static uint64_t repaired(void)
{
    struct osd_status st;

    osd_status(world->osd, &st);
    return st.repaired_objects_total;
}

static void what_scrub_finds_is_repaired_by_the_primary(void **state)
{
    (void)state;
    activate();
    world->version = osd_version(4, 7);
    scrub_finds_a_bad_block();
    answer_fetch(call_to(WIRE_FETCH, 2), osd_version(4, 7));
    assert_int_equal(world->writes_count, 1);
    assert_int_equal(world->writes[0]->kind, STORE_REPLACE);
    answer_store(0, 0);
    world_run(5000);
    assert_int_equal(repaired(), 1);
    assert_int_equal(world->writes_count, 1);
    assert_null(call_to(WIRE_FETCH, 3));
}

/* One after the other is asked, a second apart, for as long as it makes sense. */
static void what_scrub_finds_is_repaired_by_a_member_too(void **state)
{
    (void)state;
    world->pg.primary = 2;
    world->pg.epoch = 6;
    world->version = osd_version(4, 7);
    world_publish();
    scrub_finds_a_bad_block();
    struct rpc_call *fetch = call_to(WIRE_FETCH, 2);
    assert_non_null(fetch);
    answer_fetch(fetch, osd_version(4, 8)); /* we do not have that write yet */
    assert_int_equal(world->writes_count, 0);
    world_run(500);
    assert_null(call_to(WIRE_FETCH, 3));
    world_run(600);
    answer(WIRE_FETCH, 3, -EBADMSG, NULL, 0);
    world_run(1100);
    answer_fetch(call_to(WIRE_FETCH, 2), osd_version(4, 7));
    assert_int_equal(world->writes_count, 1);
    assert_int_equal(world->writes[0]->kind, STORE_REPLACE);
    assert_int_equal(world->writes[0]->version, osd_version(4, 7));
    answer_store(0, 0);
    world_run(5000);
    assert_int_equal(repaired(), 1);
    assert_int_equal(world->writes_count, 1);
}

static void what_scrub_found_and_is_gone_is_not_repaired(void **state)
{
    (void)state;
    world->pg.primary = 2;
    world->pg.epoch = 6;
    world_publish();
    world->version = 0;
    scrub_finds_a_bad_block();
    world->version = osd_version(6, 1);
    world_run(3000);
    assert_null(call_to(WIRE_FETCH, 2));
    assert_null(call_to(WIRE_FETCH, 3));
}

/* Who is not of S asks nobody: what it holds counts for nothing. */
static void only_a_member_repairs(void **state)
{
    (void)state;
    world->pg.primary = 2;
    world->pg.epoch = 6;
    world->pg.set_count = 2;
    world->pg.set[0] = 2;
    world->pg.set[1] = 3;
    world->version = osd_version(4, 7);
    world_publish();
    scrub_finds_a_bad_block();
    world_run(3000);
    assert_null(call_to(WIRE_FETCH, 2));
    assert_null(call_to(WIRE_FETCH, 3));
}

static void a_sub_write_out_of_order_is_refused(void **state)
{
    (void)state;
    world->pg.primary = 2;
    world->pg.epoch = 6;
    world_publish();
    assert_int_equal(sub_write(2, 6, osd_version(6, 2), osd_version(6, 1))->status, -EAGAIN);
    assert_int_equal(world->writes_count, 0);
}

static void an_older_incarnation_is_refused(void **state)
{
    (void)state;
    world->pg.primary = 2;
    world->pg.epoch = 6;
    world->osds[1].incarnation = 2;
    world_publish();
    assert_int_equal(sub_write(2, 6, osd_version(6, 1), 0)->status, -ESTALE);
}

static void a_deposed_primary_answers_nothing_with_success(void **state)
{
    (void)state;
    activate();
    struct request *r = client_write(1);
    world->pg.epoch = 6;
    world->pg.primary = 2;
    world->pg.active = false;
    world_publish();
    answer_store(0, 0);
    assert_true(r->answered);
    assert_int_equal(r->status, -EAGAIN);
}

static void a_grant_is_waited_for_before_the_next_reign(void **state)
{
    (void)state;
    world->pg.primary = 2;
    world->pg.epoch = 6;
    world->pg.active = true;
    world_publish();
    struct request *lease = request(WIRE_LEASE, net_endpoint_make(NET_OSD, 2), 0);
    put_u32(lease->body, 1);
    put_u64(lease->body + 8, PG_ID);
    put_u32(lease->body + 16, 6);
    lease->req.body.len = WIRE_LEASE_HEAD + WIRE_LEASE_ITEM;
    osd_handle(world->osd, &lease->req);
    assert_int_equal(lease->status, 0);

    world->calls_count = 0;
    world->osds[1].up = false;
    world->pg.primary = SELF;
    world->pg.epoch = 7;
    world->pg.active = false;
    world_publish();
    world_run(2900);
    assert_null(call_to(WIRE_QUERY, 3));
    world_run(300);
    assert_non_null(call_to(WIRE_QUERY, 3));
}

static void no_grant_is_waited_for_when_its_holder_is_dead(void **state)
{
    (void)state;
    a_grant_is_waited_for_before_the_next_reign(state);
    world->calls_count = 0;
    world->osds[1].dead_incarnation = 1;
    world->pg.epoch = 8;
    world_publish();
    assert_non_null(call_to(WIRE_QUERY, 3));
}

/* Many small objects fill the log long before the slots. */
static void a_full_log_takes_only_what_is_there(void **state)
{
    (void)state;
    activate();
    world->log_free = (1 << 20) / 8;
    assert_int_equal(client_write(1)->status, -ENOSPC);
    world->version = osd_version(4, 7); /* the first block is there */
    assert_false(client_write(2)->answered);
    assert_int_equal(client_io(WIRE_OSD_WRITE, 3, STORE_BLOCK, STORE_BLOCK)->status, -ENOSPC);
    world->log_free = (1 << 20) / 16;
    assert_int_equal(client_write(4)->status, -ENOSPC);
    assert_int_equal(world->writes_count, 1);
}

static void zeros_where_there_is_nothing_leave_no_record(void **state)
{
    (void)state;
    activate();
    assert_false(
        client_io(WIRE_OSD_ZERO, 1, 0, STORE_BLOCK)->answered); /* no leases: it is a write */
    assert_int_equal(world->writes_count, 1);
    assert_int_equal(world->writes[0]->kind, STORE_ZERO);
    answer_store(0, 0);
    answer(WIRE_SUB_WRITE, 2, 0, NULL, 0);
    answer(WIRE_SUB_WRITE, 3, 0, NULL, 0);
    grant_leases();
    world->version = 0;
    struct request *r = client_io(WIRE_OSD_ZERO, 2, 0, STORE_BLOCK);
    assert_true(r->answered);
    assert_int_equal(r->status, 0);
    assert_int_equal(world->writes_count, 1);
    world->version = osd_version(5, 7); /* somebody else writes, and the zeros come once more */
    assert_true(client_io(WIRE_OSD_ZERO, 2, 0, STORE_BLOCK)->answered);
    assert_int_equal(world->writes_count, 1);
    assert_false(client_io(WIRE_OSD_ZERO, 3, 0, STORE_BLOCK)->answered);
    assert_int_equal(world->writes_count, 2);
}

static void a_write_of_an_image_that_is_gone_comes_to_its_end(void **state)
{
    (void)state;
    world->version = osd_version(4, 7);
    world->pg.primary = 2;
    world->pg.epoch = 6;
    world->map.images_count = 0;
    world_publish();
    world_run(100);
    assert_int_equal(world->writes_count, 1);
    assert_int_equal(world->writes[0]->kind, STORE_PURGE);
    answer_store(0, 0);
    struct request *r = sub_write(2, 6, osd_version(6, 1), osd_version(4, 7));
    assert_true(r->answered);
    assert_int_equal(r->status, 0);
    assert_int_equal(world->writes_count, 1);
}

/* ---- Moves ---- */

static struct request *push(uint32_t epoch, uint64_t number)
{
    struct request *r = request(WIRE_PUSH, net_endpoint_make(NET_OSD, 2), epoch);
    uint8_t *state = r->body + WIRE_PUSH_HEAD;

    r->data = mem_alloc_aligned(STORE_BLOCK, STORE_BLOCK);
    memset(r->data, 3, STORE_BLOCK);
    put_u64(r->body, number);
    put_u32(r->body + 8, WIRE_PUSH_RECOVERY);
    put_u64(state, IMAGE);
    put_u64(state + 16, osd_version(4, 9));
    put_u32(state + 28, 1);
    put_u64(state + 48, 1);
    put_u32(state + WIRE_STATE_SIZE, crc32c_block(IMAGE, 0, 0, r->data, STORE_BLOCK));
    r->req.body.len = WIRE_PUSH_HEAD + WIRE_STATE_SIZE + 8;
    r->req.data = r->data;
    r->req.data_len = STORE_BLOCK;
    osd_handle(world->osd, &r->req);
    world_run(1);
    return r;
}

static void recovery_leaves_room_for_writes(void **state)
{
    (void)state;
    world->log_free = (1 << 20) / 8 * 3 / 4;
    assert_int_equal(push(6, 1)->status, -ENOSPC);
    world->version = osd_version(4, 7); /* what is replaced needs none */
    assert_false(push(6, 2)->answered);
    assert_int_equal(world->writes_count, 1);
    answer_store(0, 0);
}

static void a_move_leaves_sessions_to_who_lacks_a_copy(void **state)
{
    (void)state;
    activate();
    world->osd->sessions = OSD_SESSIONS_MOVE;
    world->pool.replicas = 2;
    world->pg.epoch = 6;
    world->pg.set_count = 2;
    world_publish();
    world_run(100);
    assert_null(call_to(WIRE_LIST, 3));
    world->pool.replicas = 3;
    world_publish();
    world_run(100);
    assert_non_null(call_to(WIRE_LIST, 3));
    world->osd->sessions -= OSD_SESSIONS_MOVE;
}

/* OSDs 2 and 3 have all of it, and we are not wanted. */
static void move_away(uint32_t epoch)
{
    world->version = osd_version(4, 7);
    world->pool.replicas = 2;
    world->pg.primary = 2;
    world->pg.epoch = epoch;
    world->pg.active = true;
    world->pg.activated = epoch;
    world->pg.set_count = world->pg.target_count = 2;
    world->pg.set[0] = world->pg.target[0] = 2;
    world->pg.set[1] = world->pg.target[1] = 3;
}

/* OSD 2 begins to bring us up to date. */
static struct request *list_to_join(uint32_t epoch, uint64_t above)
{
    struct request *r = request(WIRE_LIST, net_endpoint_make(NET_OSD, 2), epoch);

    put_u64(r->body, above);
    put_u32(r->body + 28, 1);
    r->req.body.len = WIRE_LIST_SIZE;
    osd_handle(world->osd, &r->req);
    world_run(1);
    return r;
}

static void what_moved_away_is_dropped(void **state)
{
    (void)state;
    move_away(6);
    world->pg.stale_count = 1;
    world->pg.stale[0] = (struct map_stale){SELF, osd_version(4, 7)};
    world_publish();
    world_run(100);
    assert_int_equal(world->writes_count, 0);
    world->pg.stale_count = 0;
    world_publish();
    world_run(100);
    assert_int_equal(world->writes_count, 1);
    assert_int_equal(world->writes[0]->kind, STORE_PURGE);
}

/* The primary's map may be newer than ours, or ours than its. */
static void nothing_is_dropped_while_somebody_brings_us_up_to_date(void **state)
{
    (void)state;
    world->version = osd_version(4, 7);
    struct request *r = list_to_join(6, 0);
    assert_true(r->answered);
    assert_int_equal(r->status, 0);
    move_away(6);
    world_publish();
    world_run(100);
    assert_int_equal(world->writes_count, 0);
    world->pg.epoch = 7; /* that came to nothing */
    world_publish();
    world_run(100);
    assert_int_equal(world->writes_count, 1);
    assert_int_equal(world->writes[0]->kind, STORE_PURGE);
}

static void who_dropped_something_is_brought_up_to_date_with_all_of_it(void **state)
{
    (void)state;
    move_away(6);
    world_publish();
    world_run(100);
    assert_int_equal(world->writes_count, 1);
    assert_int_equal(list_to_join(6, osd_version(4, 6))->status, -EAGAIN); /* it still sees a row */
    struct request *r = list_to_join(6, 0);
    assert_false(r->answered); /* what is being dropped is dropped first */
    world->version = osd_version(4, 8);
    answer_store(0, 0);
    assert_true(r->answered);
    assert_int_equal(r->status, 0);
    world_publish();
    world_run(100);
    assert_int_equal(world->writes_count, 1); /* and nothing else */
}

static void a_primary_that_is_not_wanted_hands_over(void **state)
{
    (void)state;
    activate();
    world->pool.replicas = 2;
    world->pg.target_count = 2;
    world->pg.target[0] = 3;
    world->pg.target[1] = 2;
    world_publish();
    world_run(30);
    assert_non_null(world->proposal);
    assert_int_equal(world->proposal->command.changes[0].kind, META_PG_SWITCH);
    assert_int_equal(world->proposal->command.changes[0].set[0], 3);
}

static void who_is_not_wanted_any_more_is_not_brought_up_to_date(void **state)
{
    (void)state;
    activate();
    world->pool.replicas = 2;
    world->pg.epoch = 6;
    world->pg.set_count = 2;
    world_publish();
    world_run(30);
    assert_non_null(call_to(WIRE_LIST, 3));
    world->pg.target_count = 2;
    world_publish();
    world_run(30);
    assert_null(call_to(WIRE_LIST, 3));
    assert_non_null(world->proposal); /* and told so: it may drop what it got */
    assert_int_equal(world->proposal->command.changes[0].kind, META_PG_SHRINK);
    assert_int_equal(world->proposal->command.changes[0].set_count, 2);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_served_before_the_activation_is_in_the_state),
        TEST(a_write_is_answered_when_all_members_have_it),
        TEST(a_write_is_not_answered_before_our_own_store_has_it),
        TEST(a_member_that_refuses_connections_leaves_the_set_before_the_answer),
        TEST(a_write_in_flight_is_sent_again_under_the_new_epoch_with_its_old_version),
        TEST(a_read_needs_a_lease_of_every_member),
        TEST(a_read_waits_for_the_write_of_its_range),
        TEST(a_read_waits_for_the_merge_of_its_range),
        TEST(a_merge_waits_for_a_read_of_its_range),
        TEST(a_request_sent_again_is_executed_once),
        TEST(a_request_below_the_floor_is_never_executed),
        TEST(what_the_store_did_under_an_older_epoch_is_not_acknowledged),
        TEST(a_primary_starts_nothing_after_it_has_promised),
        TEST(a_list_waits_for_what_is_on_its_way_to_the_device),
        TEST(of_many_dedup_records_the_newest_are_listed),
        TEST(a_refused_connection_is_about_the_life_at_that_address),
        TEST(a_member_that_left_does_not_end_the_recovery_that_brings_it_back),
        TEST(what_our_device_does_not_give_back_comes_from_another_member),
        TEST(a_recovery_that_fails_for_bit_rot_does_not_end_the_repair),
        TEST(what_no_member_gives_back_is_an_error_of_the_read),
        TEST(a_repair_takes_no_other_version_than_our_own),
        TEST(what_scrub_finds_is_repaired_by_the_primary),
        TEST(what_scrub_finds_is_repaired_by_a_member_too),
        TEST(what_scrub_found_and_is_gone_is_not_repaired),
        TEST(only_a_member_repairs),
        TEST(a_sub_write_out_of_order_is_refused),
        TEST(an_older_incarnation_is_refused),
        TEST(a_deposed_primary_answers_nothing_with_success),
        TEST(a_grant_is_waited_for_before_the_next_reign),
        TEST(a_full_log_takes_only_what_is_there),
        TEST(zeros_where_there_is_nothing_leave_no_record),
        TEST(a_write_of_an_image_that_is_gone_comes_to_its_end),
        TEST(recovery_leaves_room_for_writes),
        TEST(a_move_leaves_sessions_to_who_lacks_a_copy),
        TEST(what_moved_away_is_dropped),
        TEST(nothing_is_dropped_while_somebody_brings_us_up_to_date),
        TEST(who_dropped_something_is_brought_up_to_date_with_all_of_it),
        TEST(a_primary_that_is_not_wanted_hands_over),
        TEST(who_is_not_wanted_any_more_is_not_brought_up_to_date),
        TEST(no_grant_is_waited_for_when_its_holder_is_dead),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
