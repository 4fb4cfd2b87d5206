/*
 * The client against OSDs that lose answers, refuse, move and fence at random. The
 * OSDs keep R10 to the letter: what they executed is found again by (client, seq), what lies below
 * the floor is forgotten and refused. Late copies of lost calls arrive at any time later.
 *
 * Checked: a write that ended with 0 is there, once; one that ended with -EPERM never happens
 * afterwards; reads see the newest; numbers stay in the window; every op ends.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "tests/unit/client_world.h"

enum { OPS = 24, OP_MAX = 3 * WORLD_OBJECT, CLIENTS = 64, SEQS = 1 << 16, LATE = 64 };

/* A copy of a call that was lost on its way, and may still arrive. */
struct late {
    struct wire_osd_io io;
    uint16_t kind;
    uint8_t data[WORLD_OBJECT];
};

struct rig {
    struct world world;
    uint8_t store[WORLD_SIZE]; /* of all OSDs: they agree */
    uint8_t model[WORLD_SIZE]; /* what the client has been told */
    uint64_t floor[CLIENTS];
    uint64_t fenced_to; /* client ids up to this are fenced */
    uint8_t executed[CLIENTS][SEQS / 8];
    struct late late[LATE];
    uint32_t late_count;
    struct client_op ops[OPS];
    bool running[OPS];
    bool part_executed[OPS][OP_MAX / WORLD_OBJECT + 2]; /* by object, from the op's first */
    uint8_t bufs[OPS][OP_MAX];
    uint32_t ended, ended_fenced, executed_count;
};

static struct rig *rig_current;

static bool rig_was_executed(struct rig *r, uint64_t client, uint64_t seq)
{
    return (r->executed[client][seq / 8] & 1u << seq % 8) != 0;
}

/* No part of an op is carried out twice, under whatever name. */
static void rig_check_once(struct rig *r, const struct wire_osd_io *io)
{
    uint64_t start = io->object * WORLD_OBJECT + io->offset;

    for (uint32_t i = 0; i < OPS; i++) {
        const struct client_op *op = &r->ops[i];
        if (!r->running[i] || op->kind == CLIENT_FLUSH || start < op->offset ||
            start >= op->offset + op->len)
            continue;
        bool *executed = &r->part_executed[i][io->object - op->offset / WORLD_OBJECT];
        check(!*executed);
        *executed = true;
    }
}

/* What an OSD does with a write: its status. */
static int osd_write(struct rig *r, uint16_t kind, const struct wire_osd_io *io,
                     const uint8_t *data)
{
    check(io->client > 0 && io->client < CLIENTS && io->seq > 0 && io->seq < SEQS);
    check(io->floor <= io->seq && io->seq < io->floor + WIRE_OSD_WINDOW);
    if (io->client <= r->fenced_to)
        return -EPERM;
    if (io->floor > r->floor[io->client])
        r->floor[io->client] = io->floor;
    if (io->seq < r->floor[io->client])
        return -ECANCELED;
    if (rig_was_executed(r, io->client, io->seq))
        return 0;
    r->executed[io->client][io->seq / 8] |= (uint8_t)(1u << io->seq % 8);
    r->executed_count++;
    rig_check_once(r, io);
    uint8_t *to = r->store + io->object * WORLD_OBJECT + io->offset;
    if (kind == WIRE_OSD_ZERO)
        memset(to, 0, io->len);
    else
        memcpy(to, data, io->len);
    return 0;
}

static void rig_keep_late(struct rig *r, const struct rpc_call *c)
{
    struct late *l = &r->late[r->late_count % LATE];

    r->late_count++;
    l->io = world_io(c);
    l->kind = c->kind;
    if (c->kind == WIRE_OSD_WRITE)
        memcpy(l->data, c->data[0].iov_base, l->io.len);
}

static void rig_late_arrives(struct rig *r)
{
    uint32_t count = r->late_count < LATE ? r->late_count : LATE;

    if (count == 0)
        return;
    struct late *l = &r->late[prng_below(&r->world.prng, count)];
    osd_write(r, l->kind, &l->io, l->data);
}

/* One call gets one of the fates a call can have. */
static void rig_answer(struct rig *r)
{
    struct world *w = &r->world;
    uint32_t i = (uint32_t)prng_below(&w->prng, w->calls_count);
    struct rpc_call *c = w->calls[i];
    struct wire_osd_io io = world_io(c);
    uint64_t fate = prng_below(&w->prng, 20);

    if (c->kind == WIRE_OSD_READ) {
        if (fate < 12)
            world_answer_read(w, i, r->store, fate == 0 ? (uint32_t)io.len / 2 + 1 : 0);
        else
            world_answer(w, i, fate < 16 ? -EAGAIN : -EPIPE, fate < 16);
        return;
    }
    if (c->kind == WIRE_OSD_WRITE)
        world_check_write(c);
    if (fate < 10) {
        int status = osd_write(r, c->kind, &io, c->data_count > 0 ? c->data[0].iov_base : NULL);
        check(status == 0 || status == -EPERM);
        world_answer(w, i, status, true);
    } else if (fate < 13) {
        osd_write(r, c->kind, &io, c->data_count > 0 ? c->data[0].iov_base : NULL);
        world_answer(w, i, fate < 12 ? -EPIPE : -EAGAIN, fate == 12);
    } else if (fate < 16) {
        rig_keep_late(r, c);
        world_answer(w, i, -ETIMEDOUT, false);
    } else {
        static const int errors[] = {-EBUSY, -EBADMSG, -ECONNREFUSED, -ESTALE};
        world_answer(w, i, errors[fate - 16], fate != 18);
    }
}

static void rig_on_done(struct client_op *op)
{
    struct rig *r = rig_current;
    size_t i = (size_t)(op - r->ops);

    check(r->running[i]);
    r->running[i] = false;
    r->ended++;
    if (op->kind == CLIENT_READ) {
        check(op->result == 0);
        check(memcmp(op->buf, r->model + op->offset, op->len) == 0);
        return;
    }
    if (op->result == -EPERM) { /* some of it may have happened, but no more of it will */
        r->ended_fenced++;
        memcpy(r->model + op->offset, r->store + op->offset, op->len);
        return;
    }
    check(op->result == 0);
    if (op->kind == CLIENT_ZERO)
        memset(r->model + op->offset, 0, op->len);
    else if (op->kind == CLIENT_WRITE)
        memcpy(r->model + op->offset, op->buf, op->len);
    check(op->kind == CLIENT_FLUSH ||
          memcmp(r->model + op->offset, r->store + op->offset, op->len) == 0);
}

static bool rig_overlaps(const struct rig *r, uint64_t offset, uint64_t len)
{
    for (uint32_t i = 0; i < OPS; i++) {
        const struct client_op *op = &r->ops[i];
        if (r->running[i] && op->kind != CLIENT_FLUSH && offset < op->offset + op->len &&
            op->offset < offset + len)
            return true;
    }
    return false;
}

static void rig_start(struct rig *r)
{
    struct world *w = &r->world;
    uint32_t i = (uint32_t)prng_below(&w->prng, OPS);
    uint64_t len = 1 + prng_below(&w->prng, prng_chance(&w->prng, 1, 2) ? 9000 : OP_MAX);
    uint64_t offset = prng_below(&w->prng, WORLD_SIZE - len);

    if (r->running[i] || rig_overlaps(r, offset, len))
        return;
    r->running[i] = true;
    memset(r->part_executed[i], 0, sizeof(r->part_executed[i]));
    for (uint64_t j = 0; j < len; j++)
        r->bufs[i][j] = (uint8_t)prng_next(&w->prng);
    r->ops[i] = (struct client_op){
        .kind = (enum client_op_kind)(1 + prng_below(&w->prng, 4)),
        .image = w->disk,
        .offset = offset,
        .len = len,
        .buf = r->bufs[i],
        .done = rig_on_done,
    };
    client_op_start(w->client, &r->ops[i]);
    check(r->running[i]);
    world_run(w);
}

static void rig_change_map(struct rig *r)
{
    struct world *w = &r->world;
    struct map_pg *pg = &w->pgs[prng_below(&w->prng, WORLD_PGS)];

    pg->epoch++;
    pg->active = prng_chance(&w->prng, 2, 3);
    if (prng_chance(&w->prng, 1, 2))
        pg->primary = pg->primary % WORLD_OSDS + 1;
    world_publish(w);
}

static void rig_fence(struct rig *r)
{
    struct world *w = &r->world;

    if (w->id_last > CLIENTS - 2)
        return;
    r->fenced_to = w->id_last;
    if (prng_chance(&w->prng, 1, 2)) { /* else it hears of it from an OSD */
        w->map.client_last = w->id_last;
        world_publish(w);
    }
}

static void rig_turn(struct rig *r, bool is_quiet)
{
    struct world *w = &r->world;
    uint64_t what = prng_below(&w->prng, 100);

    if (w->id_call != NULL && prng_chance(&w->prng, 1, 3))
        world_give_id(w);
    if (what < 45 && w->calls_count > 0)
        rig_answer(r);
    else if (what < 75 && !is_quiet)
        rig_start(r);
    else if (what < 78 && !is_quiet)
        rig_change_map(r);
    else if (what < 82)
        rig_late_arrives(r);
    else if (what == 82 && !is_quiet && prng_chance(&w->prng, 1, 8))
        rig_fence(r);
    else
        world_pass(w, prng_below(&w->prng, 30));
}

static void rig_heal(struct rig *r)
{
    for (uint32_t i = 0; i < WORLD_PGS; i++) {
        r->world.pgs[i].active = true;
        r->world.pgs[i].epoch++;
    }
    world_publish(&r->world);
}

static bool rig_is_idle(const struct rig *r)
{
    for (uint32_t i = 0; i < OPS; i++) {
        if (r->running[i])
            return false;
    }
    return true;
}

static void rig_play(uint64_t seed, uint32_t turns)
{
    struct rig *r = calloc(1, sizeof(*r));
    struct client_status st;

    check(r != NULL);
    rig_current = r;
    world_init_without_id(&r->world, seed);
    for (uint32_t i = 0; i < turns; i++)
        rig_turn(r, false);
    rig_heal(r);
    for (uint32_t i = 0; i < 100000 && !rig_is_idle(r); i++)
        rig_turn(r, true);
    check(rig_is_idle(r)); /* every op ends */
    for (uint32_t i = 0; i < 1000; i++)
        rig_late_arrives(r);
    check(memcmp(r->store, r->model, WORLD_SIZE) == 0);
    client_status(r->world.client, &st);
    check(st.parts_in_flight == 0 && st.ops_in_flight == 0 && r->world.calls_count == 0);
    if (seed % 10 == 0)
        printf("seed %llu: ops %u, fenced %u, retries %llu, ids %llu\n", (unsigned long long)seed,
               r->ended, r->ended_fenced, (unsigned long long)st.retries_total,
               (unsigned long long)r->world.id_last);
    world_deinit(&r->world);
    free(r);
}

static void every_write_is_executed_once_or_ends_as_fenced(void **state)
{
    (void)state;
    const char *only = getenv("SEED");

    if (only != NULL) {
        rig_play(strtoull(only, NULL, 10), 4000);
        return;
    }
    for (uint64_t seed = 1; seed <= 30; seed++)
        rig_play(seed, 4000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_write_is_executed_once_or_ends_as_fenced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
