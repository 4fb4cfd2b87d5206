#include "meta/command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/check.h"
#include "meta/pack.h"

/*
 * A command is the msgpack map
 *
 *     {"kind": number, "version": 1, "args": {"request": bin16, "time": ms, ...}}
 *
 * whose args are the fields that the kind uses, all of them, in the order of `fields` below. A kind
 * that one day needs another field gets a new version; a missing or unknown field in a known
 * version is an error, never ignored, because two replicas that read an entry differently are two
 * states.
 *
 *     osds     array of [osd, incarnation, dead]
 *     changes  array of [kind, pg, epoch, primary, primary incarnation, [set], [joiners],
 *              osd incarnation, version]
 *     targets  array of [pg, [osds]]
 *     addr     [bin16 ip, port]
 */

enum { COMMAND_VERSION = 1 };

enum field_type {
    TYPE_U32,
    TYPE_U64,
    TYPE_BIN16,
    TYPE_TEXT,
    TYPE_ADDR,
    TYPE_OSDS,
    TYPE_CHANGES,
    TYPE_TARGETS
};

#define FIELD(member, type)                                  \
    {                                                        \
#member, type, offsetof(struct meta_command, member) \
    }

static const struct field {
    const char *key;
    enum field_type type;
    size_t offset;
} fields[] = {
    FIELD(cluster, TYPE_BIN16),   FIELD(uuid, TYPE_BIN16),      FIELD(join_id, TYPE_BIN16),
    FIELD(name, TYPE_TEXT),       FIELD(location, TYPE_TEXT),   FIELD(addr, TYPE_ADDR),
    FIELD(node, TYPE_U32),        FIELD(osd, TYPE_U32),         FIELD(incarnation, TYPE_U32),
    FIELD(pool, TYPE_U32),        FIELD(replicas, TYPE_U32),    FIELD(min_size, TYPE_U32),
    FIELD(pg_count, TYPE_U32),    FIELD(object_size, TYPE_U32), FIELD(size, TYPE_U64),
    FIELD(image, TYPE_U64),       FIELD(client, TYPE_U64),      FIELD(revision, TYPE_U64),
    FIELD(hash, TYPE_U64),        FIELD(osds, TYPE_OSDS),       FIELD(changes, TYPE_CHANGES),
    FIELD(targets, TYPE_TARGETS),
};

/* The places of the table above, as bits. */
enum {
    HAS_CLUSTER = 1 << 0,
    HAS_UUID = 1 << 1,
    HAS_JOIN_ID = 1 << 2,
    HAS_NAME = 1 << 3,
    HAS_LOCATION = 1 << 4,
    HAS_ADDR = 1 << 5,
    HAS_NODE = 1 << 6,
    HAS_OSD = 1 << 7,
    HAS_INCARNATION = 1 << 8,
    HAS_POOL = 1 << 9,
    HAS_REPLICAS = 1 << 10,
    HAS_MIN_SIZE = 1 << 11,
    HAS_PG_COUNT = 1 << 12,
    HAS_OBJECT_SIZE = 1 << 13,
    HAS_SIZE = 1 << 14,
    HAS_IMAGE = 1 << 15,
    HAS_CLIENT = 1 << 16,
    HAS_REVISION = 1 << 17,
    HAS_HASH = 1 << 18,
    HAS_OSDS = 1 << 19,
    HAS_CHANGES = 1 << 20,
    HAS_TARGETS = 1 << 21,
};
static_assert(COUNT_OF(fields) == 22, "HAS_* name the fields by their place");

static const struct {
    const char *name;
    uint32_t fields;
} kinds[] = {
    [META_CLUSTER_INIT] = {"cluster_init", HAS_CLUSTER | HAS_REPLICAS},
    [META_NODE_ADD] = {"node_add", HAS_NAME | HAS_LOCATION | HAS_ADDR | HAS_JOIN_ID},
    [META_NODE_SET] = {"node_set",
                       HAS_NODE | HAS_ADDR | HAS_LOCATION | HAS_INCARNATION | HAS_JOIN_ID},
    [META_OSD_ADD] = {"osd_add", HAS_NODE | HAS_UUID | HAS_SIZE},
    [META_OSD_UP] = {"osd_up", HAS_OSD | HAS_NODE | HAS_INCARNATION | HAS_SIZE},
    [META_OSD_DOWN] = {"osd_down", HAS_OSDS},
    [META_OSD_FAILED] = {"osd_failed", HAS_OSD | HAS_INCARNATION},
    [META_POOL_CREATE] = {"pool_create",
                          HAS_NAME | HAS_REPLICAS | HAS_MIN_SIZE | HAS_PG_COUNT | HAS_OBJECT_SIZE},
    [META_PG_CHANGE] = {"pg_change", HAS_CHANGES},
    [META_PG_TARGET] = {"pg_target", HAS_TARGETS},
    [META_IMAGE_CREATE] = {"image_create", HAS_NAME | HAS_SIZE | HAS_POOL},
    [META_IMAGE_DELETE] = {"image_delete", HAS_NAME},
    [META_CLIENT_ADD] = {"client_add", HAS_NODE | HAS_JOIN_ID},
    [META_CLIENT_REMOVE] = {"client_remove", HAS_CLIENT},
    [META_STATE_HASH] = {"state_hash", HAS_REVISION | HAS_HASH},
    [META_LOOK] = {"look", 0},
};
static_assert(COUNT_OF(kinds) == META_KIND_LAST + 1, "every kind has its fields");

const char *meta_kind_name(enum meta_kind kind)
{
    return kind >= 1 && kind <= META_KIND_LAST ? kinds[kind].name : "unknown";
}

/* ---- Writing ---- */

static void encode_ids(struct pack *p, const uint32_t *ids, uint8_t count)
{
    check(count <= META_REPLICAS_MAX);
    pack_array(p, count);
    for (uint8_t i = 0; i < count; i++)
        pack_u64(p, ids[i]);
}

static void encode_osds(struct pack *p, const struct meta_command *c)
{
    for (uint32_t i = 0; i < c->list_count; i++) {
        pack_array(p, 3);
        pack_u64(p, c->osds[i].osd);
        pack_u64(p, c->osds[i].incarnation);
        pack_bool(p, c->osds[i].dead);
    }
}

static void encode_changes(struct pack *p, const struct meta_command *c)
{
    for (uint32_t i = 0; i < c->list_count; i++) {
        const struct meta_pg_change *g = &c->changes[i];

        pack_array(p, 9);
        pack_u64(p, (uint64_t)g->kind);
        pack_u64(p, g->pg);
        pack_u64(p, g->epoch);
        pack_u64(p, g->primary);
        pack_u64(p, g->primary_incarnation);
        encode_ids(p, g->set, g->set_count);
        encode_ids(p, g->joiners, g->joiners_count);
        pack_u64(p, g->osd_incarnation);
        pack_u64(p, g->version);
    }
}

static void encode_targets(struct pack *p, const struct meta_command *c)
{
    for (uint32_t i = 0; i < c->list_count; i++) {
        pack_array(p, 2);
        pack_u64(p, c->targets[i].pg);
        encode_ids(p, c->targets[i].osds, c->targets[i].count);
    }
}

static void encode_list(struct pack *p, const struct meta_command *c, enum field_type type)
{
    check(c->list_count <= META_LIST_MAX);
    pack_array(p, c->list_count);
    if (type == TYPE_OSDS)
        encode_osds(p, c);
    else if (type == TYPE_CHANGES)
        encode_changes(p, c);
    else
        encode_targets(p, c);
}

static void encode_field(struct pack *p, const struct meta_command *c, const struct field *f)
{
    const void *at = (const char *)c + f->offset;

    pack_str(p, f->key);
    switch (f->type) {
    case TYPE_U32:
        pack_u64(p, *(const uint32_t *)at);
        break;
    case TYPE_U64:
        pack_u64(p, *(const uint64_t *)at);
        break;
    case TYPE_BIN16:
        pack_bin(p, at, 16);
        break;
    case TYPE_TEXT:
        pack_str(p, *(const char *const *)at);
        break;
    case TYPE_ADDR:
        pack_array(p, 2);
        pack_bin(p, c->addr.ip, sizeof(c->addr.ip));
        pack_u64(p, c->addr.port);
        break;
    case TYPE_OSDS:
    case TYPE_CHANGES:
    case TYPE_TARGETS:
        encode_list(p, c, f->type);
        break;
    }
}

void meta_command_encode(struct pack *p, const struct meta_command *c)
{
    check(c->kind >= 1 && c->kind <= META_KIND_LAST);
    uint32_t has = kinds[c->kind].fields;

    pack_map(p, 3);
    pack_str(p, "kind");
    pack_u64(p, (uint64_t)c->kind);
    pack_str(p, "version");
    pack_u64(p, COMMAND_VERSION);
    pack_str(p, "args");
    pack_map(p, 2 + (uint32_t)__builtin_popcount(has));
    pack_str(p, "request");
    pack_bin(p, c->request_id, sizeof(c->request_id));
    pack_str(p, "time");
    pack_u64(p, c->time_ms);
    for (uint32_t i = 0; i < COUNT_OF(fields); i++) {
        if (has & 1u << i)
            encode_field(p, c, &fields[i]);
    }
}

/* ---- Reading ---- */

static void *arena_take(struct meta_arena *a, struct unpack *u, size_t len)
{
    len = (len + 7) & ~(size_t)7;
    if (a->size - a->used < len) {
        u->failed = true;
        return NULL;
    }
    void *at = a->base + a->used;
    a->used += len;
    memset(at, 0, len);
    return at;
}

static void decode_text(struct unpack *u, struct meta_arena *a, const char **out)
{
    char text[META_NAME_MAX];

    unpack_text(u, text, sizeof(text));
    size_t size = strlen(text) + 1;
    char *copy = arena_take(a, u, size);
    if (copy != NULL)
        *out = memcpy(copy, text, size);
}

static uint8_t decode_ids(struct unpack *u, uint32_t *ids)
{
    uint32_t count = unpack_array(u, META_REPLICAS_MAX);

    for (uint32_t i = 0; i < count; i++)
        ids[i] = unpack_u32(u);
    return (uint8_t)count;
}

static void decode_change(struct unpack *u, struct meta_pg_change *g)
{
    unpack_array_exact(u, 9);
    g->kind = (enum meta_pg_change_kind)unpack_u64(u, META_PG_FORGET_STALE);
    if (g->kind == 0)
        u->failed = true;
    g->pg = unpack_u64(u, UINT64_MAX);
    g->epoch = unpack_u32(u);
    g->primary = unpack_u32(u);
    g->primary_incarnation = unpack_u32(u);
    g->set_count = decode_ids(u, g->set);
    g->joiners_count = decode_ids(u, g->joiners);
    g->osd_incarnation = unpack_u32(u);
    g->version = unpack_u64(u, UINT64_MAX);
}

static void decode_osd(struct unpack *u, struct meta_osd_state *o)
{
    unpack_array_exact(u, 3);
    o->osd = unpack_u32(u);
    o->incarnation = unpack_u32(u);
    o->dead = unpack_bool(u);
}

static void decode_target(struct unpack *u, struct meta_pg_target *t)
{
    unpack_array_exact(u, 2);
    t->pg = unpack_u64(u, UINT64_MAX);
    t->count = decode_ids(u, t->osds);
}

static void decode_list(struct unpack *u, struct meta_arena *a, enum field_type type,
                        struct meta_command *out)
{
    uint32_t count = unpack_array(u, META_LIST_MAX);
    size_t item = type == TYPE_OSDS      ? sizeof(*out->osds)
                  : type == TYPE_CHANGES ? sizeof(*out->changes)
                                         : sizeof(*out->targets);
    char *items = arena_take(a, u, count * item);

    if (items == NULL)
        return;
    for (uint32_t i = 0; i < count && !u->failed; i++) {
        void *at = items + i * item;
        if (type == TYPE_OSDS)
            decode_osd(u, at);
        else if (type == TYPE_CHANGES)
            decode_change(u, at);
        else
            decode_target(u, at);
    }
    out->list_count = count;
    if (type == TYPE_OSDS)
        out->osds = (const struct meta_osd_state *)(void *)items;
    else if (type == TYPE_CHANGES)
        out->changes = (const struct meta_pg_change *)(void *)items;
    else
        out->targets = (const struct meta_pg_target *)(void *)items;
}

static void decode_field(struct unpack *u, struct meta_arena *a, const struct field *f,
                         struct meta_command *out)
{
    void *at = (char *)out + f->offset;

    unpack_key(u, f->key);
    switch (f->type) {
    case TYPE_U32:
        *(uint32_t *)at = unpack_u32(u);
        break;
    case TYPE_U64:
        *(uint64_t *)at = unpack_u64(u, UINT64_MAX);
        break;
    case TYPE_BIN16:
        unpack_bin_exact(u, at, 16);
        break;
    case TYPE_TEXT:
        decode_text(u, a, (const char **)at);
        break;
    case TYPE_ADDR:
        unpack_array_exact(u, 2);
        unpack_bin_exact(u, out->addr.ip, sizeof(out->addr.ip));
        out->addr.port = (uint16_t)unpack_u64(u, UINT16_MAX);
        break;
    case TYPE_OSDS:
    case TYPE_CHANGES:
    case TYPE_TARGETS:
        decode_list(u, a, f->type, out);
        break;
    }
}

int meta_command_decode(struct unpack *u, struct meta_arena *arena, struct meta_command *out)
{
    memset(out, 0, sizeof(*out));
    out->name = "";
    out->location = "";
    arena->used = 0;

    unpack_map_exact(u, 3);
    unpack_key(u, "kind");
    uint32_t kind = unpack_u32(u);
    unpack_key(u, "version");
    uint32_t version = unpack_u32(u);
    unpack_key(u, "args");
    if (u->failed)
        return -EPROTO;
    out->kind = (enum meta_kind)kind;
    if (kind < 1 || kind > META_KIND_LAST || version != COMMAND_VERSION)
        return -ENOTSUP;

    uint32_t has = kinds[kind].fields;
    unpack_map_exact(u, 2 + (uint32_t)__builtin_popcount(has));
    unpack_key(u, "request");
    unpack_bin_exact(u, out->request_id, sizeof(out->request_id));
    unpack_key(u, "time");
    out->time_ms = unpack_u64(u, UINT64_MAX);
    for (uint32_t i = 0; i < COUNT_OF(fields) && !u->failed; i++) {
        if (has & 1u << i)
            decode_field(u, arena, &fields[i], out);
    }
    return u->failed ? -EPROTO : 0;
}

/* ---- Entries ---- */

void meta_entry_begin(struct pack *p)
{
    p->len = 0;
    p->failed = false;
    pack_array_begin(p);
}

void meta_entry_end(struct pack *p, uint32_t count)
{
    static const uint8_t zeros[8];

    check(count >= 1 && count <= META_BATCH_MAX);
    pack_array_end(p, 0, count);
    pack_raw(p, zeros, (8 - p->len % 8) % 8);
}

/* ---- Results: [errno, revision, id, message] ---- */

void meta_result_encode(struct pack *p, const struct meta_result *r)
{
    check(r->code <= 0);
    pack_array(p, 4);
    pack_u64(p, (uint64_t)-r->code);
    pack_u64(p, r->revision);
    pack_u64(p, r->id);
    pack_str(p, r->message);
}

int meta_result_decode(struct slice bytes, struct meta_result *out)
{
    struct unpack u;

    memset(out, 0, sizeof(*out));
    unpack_init(&u, bytes);
    unpack_array_exact(&u, 4);
    out->code = -(int)unpack_u64(&u, 4095);
    out->revision = unpack_u64(&u, UINT64_MAX);
    out->id = unpack_u64(&u, UINT64_MAX);
    unpack_text(&u, out->message, sizeof(out->message));
    return u.failed || unpack_left(&u) > 0 ? -EPROTO : 0;
}

void meta_result_set(struct meta_result *r, int code, const char *fmt, ...)
{
    va_list args;

    check(code <= 0);
    r->code = code;
    va_start(args, fmt);
    vsnprintf(r->message, sizeof(r->message), fmt, args);
    va_end(args);
}
