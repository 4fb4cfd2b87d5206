/*
 * Whatever another party sends to an OSD, that is member of one PG and primary of another, with a
 * store that does everything at once. Nothing may be read or written out of bounds, each request is
 * answered exactly once, and no check may fail.
 *
 * Input: a byte each for the kind, the epoch, the length of the data, and by how much the body is
 * cut or longer; then (place, value) pairs that spoil a well-formed request of that kind. With the
 * kind's highest bit set the rest of the input is the body instead.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/sim.h"
#include "osd/pg.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

enum { PG_EPOCH = 5, WAITING_MAX = 64, INPUTS_PER_OSD = 64, IMAGE = 7, BODY_MAX = 4096 };

#define PG_MEMBER  (1ull << 32)    /* another OSD leads it */
#define PG_PRIMARY (PG_MEMBER + 1) /* this OSD alone is in it */

static struct sim *sim;
static struct sim_host *host;
static struct loop *loop;
static struct osd *osd;
static struct store_open *opening;
static struct map_feed *feed;
static struct store_write *writes[WAITING_MAX];
static struct store_read *reads[WAITING_MAX];
static size_t writes_count, reads_count;
static uint64_t object_version;
static uint32_t answers;
static uint8_t *page;
static uint64_t inputs;

void store_open_start(struct store_open *o)
{
    opening = o;
}

void store_close(struct store *s)
{
    (void)s;
}

void store_write_start(struct store *s, struct store_write *w)
{
    (void)s;
    check(writes_count < WAITING_MAX);
    check(w->offset <= STORE_OBJECT_MAX && w->len <= STORE_OBJECT_MAX - w->offset);
    if (w->kind == STORE_WRITE || w->kind == STORE_ZERO)
        object_version = w->version;
    writes[writes_count++] = w;
}

void store_read_start(struct store *s, struct store_read *r)
{
    (void)s;
    check(reads_count < WAITING_MAX);
    check(r->offset <= STORE_OBJECT_MAX && r->len <= STORE_OBJECT_MAX - r->offset);
    memset(r->buf, 0, r->len);
    reads[reads_count++] = r;
}

bool store_lookup(struct store *s, const struct store_id *id, struct store_object *out)
{
    (void)s;
    *out = (struct store_object){.id = *id, .pg = PG_MEMBER, .version = object_version};
    return object_version != 0;
}

uint32_t store_list(struct store *s, uint64_t pg, uint64_t above, struct store_cursor *cursor,
                    struct store_object *out, uint32_t out_max)
{
    (void)s, (void)pg, (void)above, (void)out, (void)out_max;
    cursor->ended = true;
    return 0;
}

uint32_t store_dedup_list(struct store *s, const struct store_id *id, uint64_t above,
                          struct store_dedup *out, uint32_t out_max)
{
    (void)s, (void)id, (void)above, (void)out, (void)out_max;
    return 0;
}

bool store_dedup_find(struct store *s, uint64_t pg, uint64_t client, uint64_t seq,
                      uint64_t *version)
{
    (void)s, (void)pg, (void)client, (void)seq, (void)version;
    return false;
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
                                 .log_free_bytes = 1ull << 20};
}

void net_kick(struct net *n)
{
    (void)n;
}

void net_set_incarnation(struct net *n, uint32_t incarnation)
{
    (void)n, (void)incarnation;
}

/* Nobody ever answers the OSD's own calls, until they are given up. */
void rpc_call_start(struct net *n, struct rpc_call *c)
{
    (void)n, (void)c;
}

void rpc_call_cancel(struct net *n, struct rpc_call *c)
{
    (void)n, (void)c;
}

void *rpc_reply_buffer(struct rpc_request *req, uint32_t len)
{
    req->user = mem_alloc_aligned(len, STORE_BLOCK);
    return req->user;
}

void rpc_reply(struct rpc_request *req)
{
    answers++;
    if (req->replied != NULL)
        req->replied(req, req->replied_arg);
}

static void on_submit(struct meta_access *a, struct meta_call *c)
{
    (void)a, (void)c;
}

static void on_feed_add(struct meta_access *a, struct map_feed *f)
{
    (void)a;
    feed = f;
}

static void on_report(struct meta_access *a, uint32_t id, uint32_t incarnation, bool refused)
{
    (void)a, (void)id, (void)incarnation, (void)refused;
}

static void settle(void)
{
    for (int turn = 0; turn < 8; turn++) {
        sim_run_until(sim, sim_now(sim) + NS_PER_MS);
        while (writes_count > 0) {
            struct store_write *w = writes[--writes_count];
            w->result = 0;
            w->done(w);
        }
        while (reads_count > 0) {
            struct store_read *r = reads[--reads_count];
            r->result = 0;
            r->done(r);
        }
    }
}

/* ---- The OSD ---- */

static struct map_pg pgs[2] = {
    {.id = PG_MEMBER, .primary = 2, .set_count = 2, .set = {1, 2}},
    {.id = PG_PRIMARY, .primary = 1, .set_count = 1, .set = {1}},
};

static void publish(bool active)
{
    static struct map_node nodes[2] = {{.id = 1}, {.id = 2}};
    static struct map_osd osds[2] = {{.id = 1, .node = 1, .incarnation = 1, .up = true},
                                     {.id = 2, .node = 2, .incarnation = 1, .up = true}};
    static struct map_pool pool = {
        .id = 1, .replicas = 2, .min_size = 1, .pg_count = 2, .object_size = 128 << 10};
    static struct map_image image = {.id = IMAGE, .root = IMAGE, .size = 1 << 20, .pool = 1};
    static struct map map = {.nodes_count = 2,
                             .nodes = nodes,
                             .osds_count = 2,
                             .osds = osds,
                             .pools_count = 1,
                             .pools = &pool,
                             .pgs_count = 2,
                             .pgs = pgs,
                             .images_count = 1,
                             .images = &image,
                             .image_last = IMAGE};

    for (int i = 0; i < 2; i++) {
        pgs[i].epoch = PG_EPOCH;
        pgs[i].active = active;
        pgs[i].activated = active ? PG_EPOCH : 0;
    }
    map.revision = active ? 2 : 1;
    feed->on_map(feed, &map);
    settle();
}

static void start(void)
{
    static struct meta_access access = {
        .submit = on_submit, .feed_add = on_feed_add, .report = on_report};
    struct sim_config config = {.seed = 1};
    struct osd_config oc = {.meta = &access, .id = 1, .node = 1, .path = "/osd"};

    sim = sim_create(&config);
    host = sim_host_create(sim, 1);
    loop = sim_loop_create(host);
    oc.loop = loop;
    object_version = 0;
    check(osd_open(&oc, &osd) == 0);
    opening->result = 0;
    opening->incarnation = 1;
    opening->done(opening);
    publish(false);
    publish(true); /* what it proposed has come true */
    page = mem_alloc_aligned(1 << 20, STORE_BLOCK);
    memset(page, 0, 1 << 20);
}

static void stop(void)
{
    sim_host_crash(host, false);
    osd_close(osd);
    loop_destroy(loop);
    sim_destroy(sim);
    free(page);
}

/* ---- Well-formed requests ---- */

static const uint16_t kinds[] = {
    WIRE_OSD_WRITE, WIRE_OSD_READ, WIRE_OSD_ZERO, WIRE_SUB_WRITE, WIRE_LEASE,
    WIRE_RELEASE,   WIRE_QUERY,    WIRE_LIST,     WIRE_FETCH,     WIRE_PUSH,
};

static uint32_t make_client(uint16_t kind, uint8_t *p)
{
    struct wire_osd_io io = {
        .image = IMAGE, .len = STORE_BLOCK, .client = 9, .seq = 1 + inputs, .floor = 1 + inputs};

    while ((mix64(IMAGE) + io.object) % 2 != 1) /* an object of the PG it leads */
        io.object++;
    wire_osd_io_put(p, &io);
    if (kind != WIRE_OSD_WRITE)
        return WIRE_OSD_IO_SIZE;
    put_u32(p + WIRE_OSD_IO_SIZE, crc32c_block(IMAGE, io.object, 0, page, STORE_BLOCK));
    return WIRE_OSD_IO_SIZE + 4;
}

static uint32_t make_sub_write(uint8_t *p)
{
    put_u64(p, IMAGE);
    put_u64(p + 16, object_version + 1);
    put_u64(p + 24, object_version);
    put_u64(p + 48, 9);
    put_u64(p + 56, inputs);
    put_u32(p + 76, STORE_BLOCK);
    put_u32(p + 80, 1);
    put_u32(p + 88, crc32c_block(IMAGE, 0, 0, page, STORE_BLOCK));
    return WIRE_SUB_WRITE_SIZE + 4;
}

static uint32_t make_push(uint8_t *p)
{
    uint8_t *state = p + WIRE_PUSH_HEAD;

    put_u64(p, osd_version(PG_EPOCH, (uint32_t)inputs + 1));
    put_u32(p + 8, WIRE_PUSH_RECOVERY);
    put_u64(state, IMAGE);
    put_u64(state + 16, object_version + 1);
    put_u32(state + 28, 1);
    put_u32(state + 32, 1);
    put_u64(state + 48, 1);
    put_u32(state + WIRE_STATE_SIZE, crc32c_block(IMAGE, 0, 0, page, STORE_BLOCK));
    put_u64(state + WIRE_STATE_SIZE + 8, 9);
    return WIRE_PUSH_HEAD + WIRE_STATE_SIZE + 8 + WIRE_DEDUP_SIZE;
}

/* Returns the body's length; `data_len` becomes what such a request carries. */
static uint32_t make_body(uint16_t kind, uint8_t *p, uint32_t *data_len)
{
    bool has_data = kind == WIRE_OSD_WRITE || kind == WIRE_SUB_WRITE || kind == WIRE_PUSH;

    memset(p, 0, BODY_MAX);
    *data_len = has_data ? STORE_BLOCK : 0;
    if (kind <= WIRE_OSD_CLIENT_LAST)
        return make_client(kind, p);
    if (kind == WIRE_SUB_WRITE)
        return make_sub_write(p);
    if (kind == WIRE_PUSH)
        return make_push(p);
    if (kind == WIRE_QUERY)
        return 0;
    if (kind == WIRE_LIST)
        return WIRE_LIST_SIZE;
    if (kind == WIRE_FETCH)
        return WIRE_FETCH_SIZE;
    put_u32(p, 1);
    put_u64(p + WIRE_LEASE_HEAD, PG_MEMBER);
    put_u32(p + WIRE_LEASE_HEAD + 8, PG_EPOCH);
    return WIRE_LEASE_HEAD + (kind == WIRE_LEASE ? WIRE_LEASE_ITEM : WIRE_RELEASE_ITEM);
}

static uint32_t spoil(uint8_t *body, uint32_t len, const uint8_t *input, size_t size)
{
    int longer = (int8_t)input[3];

    for (size_t i = 4; i + 1 < size && len > 0; i += 2)
        body[input[i] % len] = input[i + 1];
    if (longer < 0 && (uint32_t)-longer > len)
        return 0;
    return (uint32_t)((int)len + longer);
}

/* ---- One input ---- */

static void request_make(struct rpc_request *req, const uint8_t *input, size_t size,
                         uint8_t body[BODY_MAX])
{
    uint32_t len, data_len;

    req->kind = kinds[(input[0] & 0x7f) % COUNT_OF(kinds)];
    len = make_body(req->kind, body, &data_len);
    if ((input[0] & 0x80) != 0) {
        len = (uint32_t)(size - 4 < BODY_MAX ? size - 4 : BODY_MAX);
        memcpy(body, input + 4, len);
    } else {
        len = spoil(body, len, input, size);
    }
    bool client = req->kind <= WIRE_OSD_CLIENT_LAST;
    req->from = net_endpoint_make(client ? NET_CLIENT : NET_OSD, 2);
    req->from_incarnation = 1;
    req->pg = client ? PG_PRIMARY : PG_MEMBER;
    req->epoch = (uint32_t)(PG_EPOCH + (input[1] % 8 == 7 ? 1 : 0));
    req->data_len = data_len + (uint32_t)(input[2] % 4) * STORE_BLOCK;
    req->data = req->data_len > 0 ? page : NULL;
    req->body.len = len;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    static uint8_t made[BODY_MAX];
    struct rpc_request req = {.kind = 0};

    if (size < 4)
        return 0;
    if (inputs++ % INPUTS_PER_OSD == 0) {
        if (osd != NULL)
            stop();
        start();
    }
    request_make(&req, input, size, made);
    uint8_t *body = malloc(req.body.len + 1); /* its own allocation, so that ASan sees the end */
    memcpy(body, made, req.body.len);
    req.body.base = body;
    answers = 0;
    osd_handle(osd, &req);
    settle();
    check(answers == 1);
    free(req.user);
    free(body);
    return 0;
}
