/*
 * Entries of the log, whatever is in them, applied to a state that already has nodes, OSDs, a pool
 * and an image. An entry whose commands decode is applied: every command has one result, nothing
 * asks the node to stop, the rows make a map, and a second replica that gets the same entries holds
 * the same rows. An entry that does not decode stops the state, and harmlessly.
 *
 * The first byte of the input chooses: entries as they are (two bytes for the length, then the
 * entry), or commands whose fields are taken from the input, so that no mutation has to find
 * msgpack.
 */

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "meta/state_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NODES = 4, ENTRY_MAX = 4096 };

struct replica {
    struct meta_state *state;
    uint64_t index;
    uint32_t results;
    uint32_t fatals;
};

static uint8_t arena[META_COMMAND_ARENA] __attribute__((aligned(8)));

static void on_applied(void *arg, const uint8_t request_id[16], const struct meta_result *r)
{
    struct replica *p = arg;

    (void)request_id;
    check(r->code <= 0);
    check(memchr(r->message, 0, sizeof(r->message)) != NULL);
    check(r->code == 0 || r->message[0] != '\0');
    p->results++;
}

static void on_fatal(void *arg, const char *what, int error)
{
    struct replica *p = arg;

    check(what != NULL && error < 0);
    p->fatals++;
}

static void apply_command(struct replica *p, const struct meta_command *c)
{
    uint8_t buf[ENTRY_MAX];
    struct pack pack;

    pack_init(&pack, buf, sizeof(buf));
    meta_entry_begin(&pack);
    meta_command_encode(&pack, c);
    meta_entry_end(&pack, 1);
    check(!pack.failed);
    meta_state_apply(p->state, ++p->index, (struct slice){buf, pack.len});
}

static void populate(struct replica *p)
{
    static const char *const names[NODES] = {"a", "b", "c", "d"};
    struct meta_command init = {.kind = META_CLUSTER_INIT, .cluster = {7}, .replicas = 7};
    struct meta_command pool = {.kind = META_POOL_CREATE,
                                .name = "default",
                                .replicas = 3,
                                .min_size = 2,
                                .pg_count = 4,
                                .object_size = 131072};
    struct meta_command image = {.kind = META_IMAGE_CREATE, .name = "disk", .size = 1 << 20};
    struct meta_command client = {.kind = META_CLIENT_ADD, .node = 1};

    apply_command(p, &init);
    for (uint32_t i = 1; i <= NODES; i++) {
        struct meta_command node = {.kind = META_NODE_ADD, .name = names[i - 1]};
        struct meta_command osd = {
            .kind = META_OSD_ADD, .node = i, .uuid = {(uint8_t)i}, .size = 1ull << 34};
        struct meta_command up = {
            .kind = META_OSD_UP, .osd = i, .node = i, .incarnation = 1, .size = 1ull << 34};
        apply_command(p, &node);
        apply_command(p, &osd);
        apply_command(p, &up);
    }
    apply_command(p, &pool);
    apply_command(p, &image);
    apply_command(p, &client);
}

static void replica_open(struct replica *p)
{
    struct meta_state_env env = {on_applied, on_fatal, p};

    memset(p, 0, sizeof(*p));
    check(meta_state_open(&env, &p->state) == 0);
    populate(p);
    p->results = 0;
}

/* How many commands the entry holds; -1: it is none. `huge`: one makes more PGs than a run has time
 * for. */
static int entry_read(struct slice bytes, bool *huge)
{
    struct meta_arena a = {arena, sizeof(arena), 0};
    struct meta_command c;
    struct unpack u;

    unpack_init(&u, bytes);
    uint32_t count = unpack_array(&u, META_BATCH_MAX);
    for (uint32_t i = 0; i < count; i++) {
        if (meta_command_decode(&u, &a, &c) != 0)
            return -1;
        *huge |= c.kind == META_POOL_CREATE && c.pg_count > 64;
    }
    return u.failed || unpack_left(&u) >= 8 ? -1 : (int)count;
}

/* What was decoded is written as what decodes to the same. */
static void encode_again(struct slice bytes)
{
    static uint8_t once[1 << 18], twice[1 << 18];
    struct meta_arena a = {arena, sizeof(arena), 0};
    struct meta_command c;
    struct unpack u;
    struct pack p;

    unpack_init(&u, bytes);
    uint32_t count = unpack_array(&u, META_BATCH_MAX);
    for (uint32_t i = 0; i < count; i++) {
        check(meta_command_decode(&u, &a, &c) == 0);
        pack_init(&p, once, sizeof(once));
        meta_command_encode(&p, &c);
        check(!p.failed);
        size_t len = p.len;
        struct unpack again;
        unpack_init(&again, (struct slice){once, len});
        check(meta_command_decode(&again, &a, &c) == 0 && unpack_left(&again) == 0);
        pack_init(&p, twice, sizeof(twice));
        meta_command_encode(&p, &c);
        check(p.len == len && memcmp(once, twice, len) == 0);
    }
}

/* In a buffer of its own, so that a read beyond its end is one of memory that is not ours. */
static uint8_t *copy_of(const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len + 1);

    check(copy != NULL);
    if (len > 0)
        memcpy(copy, data, len);
    return copy;
}

static void check_rows(struct replica *p)
{
    struct pack rows;
    struct map *map;

    pack_init_growing(&rows);
    meta_state_rows_all(p->state, &rows);
    check(map_build(NULL, (struct slice){rows.base, rows.len}, meta_state_revision(p->state),
                    &map) == 0);
    for (uint32_t i = 0; i < map->pgs_count; i++) {
        const struct map_pg *g = &map->pgs[i];
        check(g->primary == 0 || map_osd(map, g->primary)->up); /* apply_pg.c says so */
        check(map_pool(map, (uint32_t)(g->id >> 32)) != NULL);
    }
    map_unref(map);
    pack_deinit(&rows);
}

/* ---- Commands from fields ---- */

struct input {
    const uint8_t *at, *end;
};

static uint8_t take(struct input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

/* Mostly small, so that it means something here; at times at the edge. */
static uint32_t take_number(struct input *in)
{
    uint8_t byte = take(in);

    if (byte < 0xf0)
        return byte % 8;
    return byte < 0xf8 ? (uint32_t)take(in) << 8 | take(in) : UINT32_MAX - (byte - 0xf8u);
}

static uint8_t take_set(struct input *in, uint32_t *set)
{
    uint8_t count = take(in) % (META_REPLICAS_MAX + 1);

    for (uint8_t i = 0; i < count; i++)
        set[i] = take_number(in);
    return count;
}

/* A change as the present primary would send it, then some of it spoilt. */
static void take_change(struct replica *p, struct input *in, struct meta_pg_change *c)
{
    struct map_pg g;
    struct map_osd o;

    *c = (struct meta_pg_change){.kind = (enum meta_pg_change_kind)(1 + take(in) % 6)};
    c->pg = 1ull << 32 | take(in) % 4;
    if (state_pg_get(p->state, c->pg, &g)) {
        c->epoch = g.epoch;
        c->primary = g.primary;
        c->set_count = g.set_count;
        memcpy(c->set, g.set, sizeof(c->set));
        c->primary_incarnation =
            state_osd_get(p->state, g.primary, &o) ? o.incarnation : take_number(in);
    }
    uint8_t spoil = take(in);
    if (spoil & 1)
        c->set_count = take_set(in, c->set);
    if (spoil & 2)
        c->joiners_count = take_set(in, c->joiners);
    if (spoil & 4)
        c->epoch += take(in) % 3 - 1u;
    if (spoil & 8)
        c->primary = take_number(in);
    if (spoil & 16)
        c->set_count = c->set_count > 0 ? c->set_count - 1 : 0;
    c->osd_incarnation = 1 + take(in) % 4;
    c->version = (uint64_t)take(in) << 32 | take(in);
}

enum { LIST_MAX = 8 };

struct lists {
    struct meta_osd_state osds[LIST_MAX];
    struct meta_pg_change changes[LIST_MAX];
    struct meta_pg_target targets[LIST_MAX];
};

static void take_lists(struct replica *p, struct input *in, struct lists *l, struct meta_command *c)
{
    c->list_count = take(in) % (LIST_MAX + 1);
    c->osds = l->osds;
    c->changes = l->changes;
    c->targets = l->targets;
    for (uint32_t i = 0; i < c->list_count; i++) {
        l->osds[i] = (struct meta_osd_state){take_number(in), take_number(in), take(in) & 1};
        if (c->kind == META_PG_CHANGE)
            take_change(p, in, &l->changes[i]);
        l->targets[i].pg = 1ull << 32 | take_number(in);
        l->targets[i].count = c->kind == META_PG_TARGET ? take_set(in, l->targets[i].osds) : 0;
    }
}

static void take_command(struct replica *p, struct input *in, struct lists *l,
                         struct meta_command *c)
{
    static const char *const names[] = {"", "a", "disk", "default", "e/f", "bad name", "g"};

    *c = (struct meta_command){.kind = (enum meta_kind)(1 + take(in) % META_KIND_LAST)};
    if (c->kind == META_STATE_HASH)
        c->kind = META_PG_CHANGE; /* a wrong hash stops a node, and should */
    c->request_id[0] = take(in) % 16;
    c->cluster[0] = 7 + (take(in) & 1);
    c->uuid[0] = take(in) % 8;
    c->join_id[0] = take(in) % 4;
    c->name = names[take(in) % COUNT_OF(names)];
    c->location = names[take(in) % COUNT_OF(names)];
    c->node = take_number(in);
    c->osd = take_number(in);
    c->incarnation = take_number(in);
    c->pool = take_number(in) % 3;
    c->replicas = take_number(in);
    c->min_size = take_number(in);
    c->pg_count = take(in) % 20;
    c->object_size = 4096u << take(in) % 12;
    c->size = (uint64_t)take_number(in) << take(in) % 48;
    c->client = take_number(in);
    take_lists(p, in, l, c);
}

/* Every command makes an entry of its own. */
static void run_fields(struct replica *a, struct replica *b, struct input *in)
{
    static uint8_t buf[ENTRY_MAX];
    static struct lists lists;
    struct meta_command c;
    struct pack p;

    for (uint32_t commands = 1; in->at < in->end && commands < 64; commands++) {
        take_command(a, in, &lists, &c);
        pack_init(&p, buf, sizeof(buf));
        meta_entry_begin(&p);
        meta_command_encode(&p, &c);
        meta_entry_end(&p, 1);
        check(!p.failed);
        encode_again((struct slice){buf, p.len});
        meta_state_apply(a->state, ++a->index, (struct slice){buf, p.len});
        meta_state_apply(b->state, ++b->index, (struct slice){buf, p.len});
        check(a->fatals == 0 && a->results == commands);
    }
}

static void run_entries(struct replica *a, struct replica *b, struct input *in)
{
    uint32_t commands = 0;
    bool huge = false;

    while (in->end - in->at >= 2 && a->fatals == 0 && !huge) {
        size_t len = (size_t)take(in) | (size_t)take(in) << 8, left = (size_t)(in->end - in->at);
        len = len > left ? left : len;
        uint8_t *copy = copy_of(in->at, len);
        struct slice entry = {copy, len};
        in->at += len;
        int count = entry_read(entry, &huge);
        if (count >= 0)
            encode_again(entry);
        if (!huge) {
            meta_state_apply(a->state, ++a->index, entry);
            meta_state_apply(b->state, ++b->index, entry);
            commands += count < 0 ? 0 : (uint32_t)count;
            check(count < 0 ? a->fatals == 1 : a->fatals == 0 && a->results == commands);
        }
        free(copy);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    struct replica a, b;

    replica_open(&a);
    replica_open(&b);
    if (take(&in) & 1)
        run_entries(&a, &b, &in);
    else
        run_fields(&a, &b, &in);
    if (a.fatals == 0) {
        check_rows(&a);
        check(meta_state_hash(a.state) == meta_state_hash(b.state));
    }
    meta_state_close(a.state);
    meta_state_close(b.state);
    return 0;
}
