#include "osd/pg.h"

#include <errno.h>
#include <string.h>

/*
 * One object's whole state, on its way from one OSD to others. Five duties, one machine:
 *
 *   activation at the candidate   [FETCHING | READING] -> [REPLACING] -> [PUSHING] -> DONE
 *   recovery at the primary       LOCKING -> READING -> PUSHING -> DONE
 *   repair at the primary         LOCKING -> FETCHING -> REPLACING -> DONE
 *   a fetch answered              READING -> ANSWERING
 *   a push answered               REPLACING
 *
 * Pushes are numbered (epoch, counter); a member applies each once and none after a
 * later one, so a push of an abandoned round cannot land after its successor's (R8).
 */

static void copy_step(struct task *task);

struct osd_copy *osd_copy_get(struct osd_pg *pg, bool serving)
{
    struct osd *o = pg->osd;

    if (serving && o->copies_serving == OSD_COPIES_SERVE)
        return NULL;
    if (!serving && o->copies_pool.used - o->copies_serving == OSD_COPIES_MAX - OSD_COPIES_SERVE)
        return NULL;

    struct osd_copy *c = pool_get(&o->copies_pool);
    check(c != NULL);
    memset(c, 0, offsetof(struct osd_copy, st));
    c->osd = o;
    c->pg = pg;
    c->serving = serving;
    c->data = pool_get(&o->copy_data_pool);
    c->body = pool_get(&o->copy_body_pool);
    memset(&c->st, 0, offsetof(struct osd_state, crcs));
    task_init(&c->task, copy_step);
    list_init(&c->link);
    list_push(&pg->copies, &c->link);
    o->copies_serving += serving;
    return c;
}

void osd_copy_put(struct osd_copy *c)
{
    struct osd *o = c->osd;

    o->copies_serving -= c->serving;
    o->repairs -= c->scrubbed;
    list_remove(&c->link);
    task_cancel(&c->task);
    pool_put(&o->copy_data_pool, c->data);
    pool_put(&o->copy_body_pool, c->body);
    pool_put(&o->copies_pool, c);
}

/* ---- The state as bytes ---- */

static uint32_t state_encode(const struct osd_state *st, uint8_t *p)
{
    uint8_t *at = p + WIRE_STATE_SIZE;

    put_u64(p, st->id.image);
    put_u64(p + 8, st->id.object);
    put_u64(p + 16, st->version);
    put_u32(p + 24, st->deleted);
    put_u32(p + 28, st->blocks);
    put_u32(p + 32, st->dedups_count);
    put_u32(p + 36, 0);
    put_u64(p + 40, st->dedup_above);
    for (uint32_t i = 0; i < COUNT_OF(st->present); i++)
        put_u64(p + 48 + 8 * (size_t)i, st->present[i]);
    for (uint32_t i = 0; i < st->blocks; i++, at += 4)
        put_u32(at, st->crcs[i]);
    if (st->blocks % 2 != 0) {
        put_u32(at, 0);
        at += 4;
    }
    for (uint32_t i = 0; i < st->dedups_count; i++, at += WIRE_DEDUP_SIZE) {
        put_u64(at, st->dedups[i].client);
        put_u64(at + 8, st->dedups[i].seq);
        put_u64(at + 16, st->dedups[i].version);
    }
    return (uint32_t)(at - p);
}

static uint32_t state_blocks(const struct osd_state *st)
{
    uint32_t blocks = 0;

    for (uint32_t i = 0; i < COUNT_OF(st->present); i++)
        blocks += (uint32_t)__builtin_popcountll(st->present[i]);
    return blocks;
}

static bool state_decode(struct osd_state *st, const uint8_t *p, size_t len)
{
    if (len < WIRE_STATE_SIZE)
        return false;
    st->id = (struct store_id){get_u64(p), get_u64(p + 8)};
    st->version = get_u64(p + 16);
    st->deleted = get_u32(p + 24) != 0;
    st->blocks = get_u32(p + 28);
    st->dedups_count = get_u32(p + 32);
    st->dedup_above = get_u64(p + 40);
    for (uint32_t i = 0; i < COUNT_OF(st->present); i++)
        st->present[i] = get_u64(p + 48 + 8 * (size_t)i);
    if (st->blocks != state_blocks(st) || st->dedups_count > OSD_DEDUPS_MAX ||
        (st->deleted && st->blocks != 0))
        return false;

    size_t crcs_len = 4 * (size_t)(st->blocks + st->blocks % 2);
    if (len != WIRE_STATE_SIZE + crcs_len + WIRE_DEDUP_SIZE * (size_t)st->dedups_count)
        return false;
    const uint8_t *at = p + WIRE_STATE_SIZE;
    for (uint32_t i = 0; i < st->blocks; i++)
        st->crcs[i] = get_u32(at + 4 * (size_t)i);
    at += crcs_len;
    for (uint32_t i = 0; i < st->dedups_count; i++, at += WIRE_DEDUP_SIZE)
        st->dedups[i] = (struct store_dedup){get_u64(at), get_u64(at + 8), get_u64(at + 16)};
    return true;
}

/* Every block of `data` against its crc. */
static bool state_verify(const struct osd_state *st, const uint8_t *data)
{
    uint32_t n = 0;

    for (uint32_t block = 0; block < STORE_BLOCKS_MAX; block++) {
        if ((st->present[block / 64] >> (block % 64) & 1) == 0)
            continue;
        if (crc32c_block(st->id.image, st->id.object, block, data + (size_t)n * STORE_BLOCK,
                         STORE_BLOCK) != st->crcs[n])
            return false;
        n++;
    }
    return true;
}

static void state_add_dedups(struct osd_state *st, const struct store_dedup *add, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        bool have = false;
        for (uint32_t k = 0; k < st->dedups_count && !have; k++)
            have = st->dedups[k].client == add[i].client && st->dedups[k].seq == add[i].seq;
        if (!have && st->dedups_count < OSD_DEDUPS_MAX)
            st->dedups[st->dedups_count++] = add[i];
    }
}

/* ---- Phases ---- */

static void copy_begin_fetch(struct osd_copy *c);
static void copy_begin_read(struct osd_copy *c);
static void copy_begin_replace(struct osd_copy *c);
static void copy_begin_push(struct osd_copy *c);

static void copy_finish(struct osd_copy *c, int result)
{
    if (c->use.object != NULL)
        osd_use_end(&c->use);
    c->result = result;
    c->state = OSD_COPY_DONE;
    if (!c->serving) {
        c->done(c);
        return;
    }
    struct rpc_request *req = c->req;
    osd_copy_put(c);
    rpc_reply_status(req, result);
}

static void copy_on_fetch(struct rpc_call *call)
{
    struct osd_copy *c = container_of(call, struct osd_copy, fetch);

    c->waits--;
    c->result = call->status;
    loop_wake(c->osd->loop, &c->task);
}

static void copy_begin_fetch(struct osd_copy *c)
{
    struct osd *o = c->osd;

    c->state = OSD_COPY_FETCHING;
    c->waits = 1;
    put_u64(c->body, c->st.id.image);
    put_u64(c->body + 8, c->st.id.object);
    put_u64(c->body + 16, c->st.dedup_above);
    c->fetch = (struct rpc_call){
        .to = net_endpoint_make(NET_OSD, c->from),
        .kind = WIRE_FETCH,
        .pg = c->pg->id,
        .epoch = c->pg->view.epoch,
        .to_incarnation = osd_incarnation_of(o, c->from),
        .revision = c->pg->view_revision,
        .body = {c->body, WIRE_FETCH_SIZE},
        .deadline_ns = loop_now(o->loop) + 2 * NS_PER_S,
        .body_buf = c->body + WIRE_FETCH_SIZE + 8,
        .body_buf_size = OSD_STATE_BYTES_MAX,
        .data_buf = c->data,
        .data_buf_size = STORE_OBJECT_MAX,
        .done = copy_on_fetch,
    };
    rpc_call_start(o->net, &c->fetch);
}

static int copy_take_fetched(struct osd_copy *c)
{
    struct store_id id = c->st.id;

    if (c->result != 0)
        return c->result;
    if (!state_decode(&c->st, c->fetch.reply_body.base, c->fetch.reply_body.len) ||
        c->st.id.image != id.image || c->st.id.object != id.object ||
        c->fetch.reply_data_len != c->st.blocks * STORE_BLOCK)
        return -EPROTO;
    return state_verify(&c->st, c->data) ? 0 : -EBADMSG;
}

/* A repair takes only what our own store should hold. */
static bool copy_is_wanted(const struct osd_copy *c)
{
    struct store_object own;

    if (!c->repair)
        return true;
    return store_lookup(c->osd->store, &c->st.id, &own) && own.version == c->st.version;
}

static void copy_on_read(struct store_read *sr)
{
    struct osd_copy *c = container_of(sr, struct osd_copy, sr);

    c->waits--;
    c->result = sr->result;
    loop_wake(c->osd->loop, &c->task);
}

static void copy_begin_read(struct osd_copy *c)
{
    struct osd *o = c->osd;
    struct store_object object = {.id = c->st.id};
    struct osd_state *st = &c->st;
    uint32_t last = 0;

    c->state = OSD_COPY_READING;
    c->result = 0;
    st->version = 0;
    st->deleted = true;
    memset(st->present, 0, sizeof(st->present));
    if (store_lookup(o->store, &st->id, &object)) {
        st->version = object.version;
        st->deleted = object.deleted || object.version == 0;
        memcpy(st->present, object.present, sizeof(st->present));
    }
    st->dedups_count = osd_dedups_newest(o, &st->id, st->dedup_above, st->dedups, OSD_DEDUPS_MAX);
    st->blocks = state_blocks(st);
    if (st->blocks == 0) {
        loop_wake(o->loop, &c->task);
        return;
    }
    for (uint32_t block = 0; block < STORE_BLOCKS_MAX; block++)
        last = st->present[block / 64] >> (block % 64) & 1 ? block : last;
    c->waits = 1;
    c->sr = (struct store_read){
        .id = st->id,
        .offset = 0,
        .len = (last + 1) * STORE_BLOCK,
        .buf = c->data,
        .crcs = st->crcs,
        .done = copy_on_read,
    };
    store_read_start(o->store, &c->sr);
}

/* Only the blocks there are, one behind the other, and their crcs. */
static int copy_take_read(struct osd_copy *c)
{
    struct osd_state *st = &c->st;
    uint32_t n = 0;

    if (st->blocks == 0)
        return 0;
    if (c->result != 0)
        return c->result;
    if (c->sr.version != st->version)
        return -EAGAIN; /* a sub-write came between; whoever asks, asks again */
    for (uint32_t block = 0; block < c->sr.len / STORE_BLOCK; block++) {
        if ((st->present[block / 64] >> (block % 64) & 1) == 0)
            continue;
        if (n != block)
            memcpy(c->data + (size_t)n * STORE_BLOCK, c->data + (size_t)block * STORE_BLOCK,
                   STORE_BLOCK);
        st->crcs[n++] = st->crcs[block];
    }
    return 0;
}

static void copy_on_store(struct store_write *sw)
{
    struct osd_copy *c = container_of(sw, struct osd_copy, sw);

    c->waits--;
    c->result = sw->result;
    osd_pg_store_done(c->pg);
    loop_wake(c->osd->loop, &c->task);
}

/*
 * Make the own store hold the state. In an activation the newer version wins and dedup records are
 * united; in recovery what is here counts for nothing (R8).
 */
static void copy_begin_replace(struct osd_copy *c)
{
    struct osd *o = c->osd;
    struct store_object object = {.version = 0};
    bool known = store_lookup(o->store, &c->st.id, &object);
    bool activation = c->how == WIRE_PUSH_ACTIVATION;
    bool ours_wins = activation && known && object.version >= c->st.version;
    bool nothing = c->st.version == 0 && c->st.dedups_count == 0;

    if (osd_image_is_gone(o, c->st.id.image)) /* what this brings back goes with the next pass */
        osd_want_purge(o);
    c->state = OSD_COPY_REPLACING;
    c->result = 0;
    c->waits = 1;
    c->sw = (struct store_write){
        .kind = ours_wins ? STORE_DEDUP
                : nothing ? STORE_PURGE
                          : STORE_REPLACE,
        .id = c->st.id,
        .pg = c->pg->id,
        .version = c->st.version,
        .data = c->data,
        .crcs = c->st.crcs,
        .deleted = c->st.deleted,
        .dedups = c->st.dedups,
        .dedups_count = c->st.dedups_count,
        .dedup_above = activation ? UINT64_MAX : c->st.dedup_above,
        .done = copy_on_store,
    };
    memcpy(c->sw.present, c->st.present, sizeof(c->sw.present));
    c->pg->store_busy++;
    if ((ours_wins && c->st.dedups_count == 0) || (nothing && !known)) {
        copy_on_store(&c->sw); /* nothing to change; its result is 0 */
        return;
    }
    store_write_start(o->store, &c->sw);
}

static void copy_on_leg(struct rpc_call *call)
{
    struct osd_copy_leg *leg = container_of(call, struct osd_copy_leg, call);

    leg->result = call->status;
    leg->copy->waits--;
    loop_wake(leg->copy->osd->loop, &leg->copy->task);
}

static void copy_begin_push(struct osd_copy *c)
{
    struct osd *o = c->osd;

    c->state = OSD_COPY_PUSHING;
    c->waits = c->legs_count;
    put_u64(c->body, osd_pg_push_number(c->pg));
    put_u32(c->body + 8, c->how);
    put_u32(c->body + 12, 0);
    uint32_t len = WIRE_PUSH_HEAD + state_encode(&c->st, c->body + WIRE_PUSH_HEAD);
    c->iov = (struct iovec){c->data, (size_t)c->st.blocks * STORE_BLOCK};
    for (uint32_t i = 0; i < c->legs_count; i++) {
        struct osd_copy_leg *leg = &c->legs[i];
        leg->copy = c;
        leg->result = 1;
        leg->call = (struct rpc_call){
            .to = net_endpoint_make(NET_OSD, leg->osd),
            .kind = WIRE_PUSH,
            .pg = c->pg->id,
            .epoch = c->pg->view.epoch,
            .to_incarnation = osd_incarnation_of(o, leg->osd),
            .revision = c->pg->view_revision,
            .body = {c->body, len},
            .data = c->st.blocks > 0 ? &c->iov : NULL,
            .data_count = c->st.blocks > 0 ? 1 : 0,
            .deadline_ns = loop_now(o->loop) + 2 * NS_PER_S,
            .done = copy_on_leg,
        };
        rpc_call_start(o->net, &leg->call);
    }
}

static int copy_push_result(const struct osd_copy *c)
{
    for (uint32_t i = 0; i < c->legs_count; i++) {
        if (c->legs[i].result != 0)
            return c->legs[i].result;
    }
    return 0;
}

static void copy_on_replied(struct rpc_request *req, void *arg)
{
    (void)req;
    osd_copy_put(arg);
}

static void copy_answer_fetch(struct osd_copy *c)
{
    struct rpc_request *req = c->req;

    c->state = OSD_COPY_ANSWERING;
    req->status = 0;
    req->reply_body = (struct slice){c->body, state_encode(&c->st, c->body)};
    req->reply_data = c->data;
    req->reply_data_len = c->st.blocks * STORE_BLOCK;
    req->replied = copy_on_replied;
    req->replied_arg = c;
    rpc_reply(req);
}

/* ---- The machine ---- */

/* Own copies end with the reign; those we do for others end with their epoch (R3). */
static bool copy_is_void(const struct osd_copy *c)
{
    if (c->serving)
        return c->req->epoch < c->pg->promised;
    return c->refused || c->pg->promised > c->pg->view.epoch;
}

static void copy_have_state(struct osd_copy *c)
{
    state_add_dedups(&c->st, c->add, c->add_count);
    if (c->replace || c->add_count > 0)
        copy_begin_replace(c);
    else if (c->legs_count > 0)
        copy_begin_push(c);
    else
        copy_finish(c, 0);
}

static void copy_step_phase(struct osd_copy *c)
{
    int result = 0;

    switch (c->state) {
    case OSD_COPY_LOCKING:
        if (c->use.begun && c->from != 0)
            copy_begin_fetch(c);
        else if (c->use.begun)
            copy_begin_read(c);
        return;
    case OSD_COPY_FETCHING:
    case OSD_COPY_READING:
        result = c->state == OSD_COPY_FETCHING ? copy_take_fetched(c) : copy_take_read(c);
        if (result != 0)
            copy_finish(c, result);
        else if (!copy_is_wanted(c))
            copy_finish(c, -EAGAIN);
        else if (c->serving)
            copy_answer_fetch(c);
        else
            copy_have_state(c);
        return;
    case OSD_COPY_REPLACING:
        if (c->result == 0 && !c->serving && c->legs_count > 0)
            copy_begin_push(c);
        else
            copy_finish(c, c->result);
        return;
    case OSD_COPY_PUSHING:
        copy_finish(c, copy_push_result(c));
        return;
    case OSD_COPY_ANSWERING:
    case OSD_COPY_DONE:
        return;
    }
}

static void copy_step(struct task *task)
{
    struct osd_copy *c = container_of(task, struct osd_copy, task);

    if (c->waits > 0 || c->state == OSD_COPY_DONE || c->state == OSD_COPY_ANSWERING)
        return;
    if (copy_is_void(c))
        copy_finish(c, -EAGAIN);
    else
        copy_step_phase(c);
}

static void copy_on_begin(struct osd_use *u)
{
    struct osd_copy *c = container_of(u, struct osd_copy, use);

    loop_wake(c->osd->loop, &c->task);
}

static void copy_on_refuse(struct osd_use *u, int status)
{
    struct osd_copy *c = container_of(u, struct osd_copy, use);

    (void)status;
    c->refused = true;
    loop_wake(c->osd->loop, &c->task);
}

void osd_copy_target(struct osd_copy *c, uint32_t osd)
{
    check(c->legs_count < OSD_MEMBERS_MAX);
    c->legs[c->legs_count++].osd = osd;
}

void osd_copy_start(struct osd_copy *c)
{
    check(c->done != NULL);

    if (c->locked && !osd_mutated(c->osd, OSD_MUTANT_COPY_UNLOCKED)) {
        c->state = OSD_COPY_LOCKING;
        c->use = (struct osd_use){
            .kind = OSD_USE_COPY,
            .len = STORE_OBJECT_MAX,
            .begin = copy_on_begin,
            .refuse = copy_on_refuse,
        };
        if (osd_use_start(c->pg, &c->st.id, &c->use) != 0)
            copy_on_refuse(&c->use, -EBUSY);
    } else if (c->from != 0) {
        copy_begin_fetch(c);
    } else {
        copy_begin_read(c);
    }
}

static void copy_orphaned(struct osd_copy *c)
{
    osd_copy_put(c);
}

/* Whoever started them is going: they end as soon as nothing holds their memory, and nobody hears
 * of it. */
void osd_copies_reset(struct osd_pg *pg, bool reign_is_over)
{
    for (struct list *pos = pg->copies.next, *next; pos != &pg->copies; pos = next) {
        struct osd_copy *c = container_of(pos, struct osd_copy, link);
        next = pos->next;
        if (c->serving || (c->repair && !reign_is_over))
            continue;
        if (c->state == OSD_COPY_DONE) {
            osd_copy_put(c);
            continue;
        }
        c->refused = true;
        c->done = copy_orphaned;
        c->owner = NULL;
        if (c->state == OSD_COPY_FETCHING && c->waits > 0)
            rpc_call_cancel(c->osd->net, &c->fetch);
        for (uint32_t i = 0; c->state == OSD_COPY_PUSHING && i < c->legs_count; i++) {
            if (c->legs[i].result == 1)
                rpc_call_cancel(c->osd->net, &c->legs[i].call);
        }
        loop_wake(c->osd->loop, &c->task);
    }
}

/* ---- For others ---- */

void osd_fetch_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req)
{
    const uint8_t *p = req->body.base;

    (void)o;
    if (req->body.len != WIRE_FETCH_SIZE) {
        rpc_reply_status(req, -EINVAL);
        return;
    }
    struct osd_copy *c = osd_copy_get(pg, true);
    if (c == NULL) {
        rpc_reply_status(req, -EBUSY);
        return;
    }
    c->req = req;
    c->st.id = (struct store_id){get_u64(p), get_u64(p + 8)};
    c->st.dedup_above = get_u64(p + 16);
    copy_begin_read(c);
}

/* Recovery must not use up what writes that were let in need. */
static bool push_fits(struct osd *o, const struct osd_copy *c)
{
    struct store_object own;
    uint32_t have = 0;

    if (c->how != WIRE_PUSH_RECOVERY || c->st.deleted || osd_has_room(o, OSD_ROOM_RECOVERY))
        return true;
    if (!store_lookup(o->store, &c->st.id, &own))
        return false;
    for (uint32_t i = 0; i < COUNT_OF(own.present); i++)
        have += (uint32_t)__builtin_popcountll(own.present[i]);
    return c->st.blocks <= have;
}

static int push_parse(struct osd_pg *pg, struct rpc_request *req, struct osd_copy *c)
{
    const uint8_t *p = req->body.base;

    if (req->body.len < WIRE_PUSH_HEAD)
        return -EINVAL;
    uint64_t number = get_u64(p);
    c->how = get_u32(p + 8);
    if (c->how != WIRE_PUSH_ACTIVATION && c->how != WIRE_PUSH_RECOVERY)
        return -EINVAL;
    if (!state_decode(&c->st, p + WIRE_PUSH_HEAD, req->body.len - WIRE_PUSH_HEAD) ||
        req->data_len != c->st.blocks * STORE_BLOCK)
        return -EINVAL;
    if (!state_verify(&c->st, req->data))
        return -EBADMSG;
    if (number <= pg->push_last)
        return -EAGAIN;
    if (!push_fits(pg->osd, c))
        return -ENOSPC;
    pg->push_last = number;
    return 0;
}

void osd_push_handle(struct osd *o, struct osd_pg *pg, struct rpc_request *req)
{
    struct osd_copy *c = osd_copy_get(pg, true);

    (void)o;
    if (c == NULL) {
        rpc_reply_status(req, -EBUSY);
        return;
    }
    int result = push_parse(pg, req, c);
    bool settled =
        c->how == WIRE_PUSH_ACTIVATION && c->st.version <= pg->stable; /* R8: long done */
    if (result != 0 || settled) {
        osd_copy_put(c);
        rpc_reply_status(req, result);
        return;
    }
    c->req = req;
    if (c->how == WIRE_PUSH_RECOVERY)
        osd_pg_joins(pg, req->epoch);
    if (c->st.blocks > 0)
        memcpy(c->data, req->data, (size_t)c->st.blocks * STORE_BLOCK);
    copy_begin_replace(c);
}
