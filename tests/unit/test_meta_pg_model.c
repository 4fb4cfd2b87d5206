/*
 * The PG rules of the state machine against the class Meta of docs/design/models/pg_recovery.py,
 * which is written down here a second time, as briefly as there: one PG, random registrations,
 * losses and changes, right ones and wrong ones. After each the rows must be what the model says.
 * Whom the model draws by lot as the primary, the state machine chooses by load: any that the model
 * might have drawn is right.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/prng.h"
#include "meta/state_impl.h"

enum { OSDS = 5, STEPS = 2000, SEEDS = 20 };

#define PG_ID (1ull << 32)

struct model {
    uint32_t epoch, primary, activated;
    uint32_t set; /* bits by OSD id */
    bool active;
    uint32_t up[OSDS + 1]; /* incarnation, 0: down */
    uint32_t incarnation[OSDS + 1], dead[OSDS + 1];
    bool has_row[OSDS + 1];
    uint64_t row[OSDS + 1];
    uint32_t min_size;
    uint32_t fitted[META_PG_FORGET_STALE + 1];
};

struct world {
    struct meta_state *state;
    struct meta_result result;
    struct prng prng;
    struct model m;
    uint64_t index;
};

/* ---- The model ---- */

static uint32_t bit(uint32_t osd)
{
    return 1u << osd;
}

/* Whom pick(avoid) may return: bits. 0: nobody. */
static uint32_t model_candidates(const struct model *m, uint32_t avoid)
{
    uint32_t pool = 0;

    for (uint32_t i = 1; i <= OSDS; i++)
        pool |= (m->set & bit(i)) != 0 && m->up[i] != 0 ? bit(i) : 0;
    return (pool & ~bit(avoid)) != 0 || avoid == 0 ? pool & ~bit(avoid) : pool;
}

static void model_set(struct model *m, uint32_t set, uint64_t w)
{
    uint64_t least = (uint64_t)m->activated << 32;

    for (uint32_t i = 1; i <= OSDS; i++) {
        if ((m->set & ~set & bit(i)) != 0) {
            m->has_row[i] = true;
            m->row[i] = w > least ? w : least;
        }
        if ((set & bit(i)) != 0)
            m->has_row[i] = false;
    }
    m->set = set;
}

/* `among`: bits of those that may be primary now; which one it is, is read from `row`. */
static void model_bump(struct model *m, const struct map_pg *row, uint32_t among)
{
    m->epoch++;
    m->active = false;
    m->primary = row->primary;
    if (among == 0)
        assert_int_equal(row->primary, 0);
    else
        assert_true(row->primary <= OSDS && (among & bit(row->primary)) != 0);
}

static void model_register(struct model *m, const struct map_pg *row, uint32_t i, uint32_t inc)
{
    if (inc < m->incarnation[i] || (inc == m->incarnation[i] && m->dead[i] >= inc))
        return;
    bool fresh = inc > m->incarnation[i];
    if (fresh)
        m->dead[i] = m->incarnation[i];
    m->incarnation[i] = inc;
    m->up[i] = inc;
    if (fresh && m->primary == i)
        model_bump(m, row, model_candidates(m, i));
    else if (m->primary == 0 && (m->set & bit(i)) != 0)
        model_bump(m, row, model_candidates(m, 0));
}

static void model_down(struct model *m, const struct map_pg *row, uint32_t i, uint32_t inc,
                       bool dead)
{
    if (inc != m->incarnation[i])
        return;
    m->up[i] = 0;
    if (dead)
        m->dead[i] = inc;
    if (m->primary == i)
        model_bump(m, row, model_candidates(m, i));
}

static uint32_t bits_of(const uint32_t *ids, uint8_t count)
{
    uint32_t bits = 0;

    for (uint8_t i = 0; i < count; i++) {
        if (ids[i] == 0 || ids[i] > OSDS || (bits & bit(ids[i])) != 0)
            return 0; /* no set at all */
        bits |= bit(ids[i]);
    }
    return bits;
}

static bool model_change(struct model *m, const struct map_pg *row, const struct meta_pg_change *c)
{
    uint32_t set = bits_of(c->set, c->set_count), joiners = bits_of(c->joiners, c->joiners_count);
    uint32_t first = c->set[0];
    bool mine = c->epoch == m->epoch && c->primary == m->primary && m->primary != 0 &&
                m->up[m->primary] == c->primary_incarnation;
    bool sound = set != 0 && (set & bit(m->primary)) != 0 &&
                 (uint32_t)__builtin_popcount(set) >= m->min_size;

    switch (c->kind) {
    case META_PG_ACTIVATE:
        if (!mine || m->active || !sound || (c->joiners_count > 0 && joiners == 0) ||
            (joiners & ~set) != 0 || (joiners & bit(m->primary)) != 0 ||
            (set & ~joiners & ~m->set) != 0)
            return false;
        model_set(m, set, c->version);
        m->activated = m->epoch;
        m->active = true;
        return true;
    case META_PG_SHRINK:
        if (!mine || !m->active || !sound || (set & ~m->set) != 0 || c->joiners_count > 0)
            return false;
        model_set(m, set, c->version);
        m->epoch++;
        return true;
    case META_PG_GROW:
        if (!mine || !m->active || c->set_count != 1 || set == 0 || (m->set & set) != 0 ||
            m->up[first] == 0 || m->up[first] != c->osd_incarnation)
            return false;
        model_set(m, m->set | set, 0);
        m->epoch++;
        return true;
    case META_PG_ROTATE:
        if (!mine || m->active)
            return false;
        model_bump(m, row, model_candidates(m, m->primary));
        return true;
    case META_PG_SWITCH:
        if (c->epoch != m->epoch || c->primary != m->primary || c->set_count != 1 ||
            (m->set & set) == 0 || first == m->primary || m->up[first] == 0)
            return false;
        model_bump(m, row, bit(first));
        return true;
    case META_PG_FORGET_STALE:
        if (c->epoch != m->epoch || c->set_count != 1 || set == 0 || !m->has_row[first])
            return false;
        m->has_row[first] = false;
        return true;
    }
    return false;
}

/* ---- The state machine ---- */

static void on_applied(void *arg, const uint8_t request_id[16], const struct meta_result *result)
{
    struct world *w = arg;
    (void)request_id;
    w->result = *result;
}

static void on_fatal(void *arg, const char *what, int error)
{
    (void)arg;
    fail_msg("fatal: %s %d", what, error);
}

static struct meta_result apply(struct world *w, const struct meta_command *c)
{
    uint8_t buf[1024];
    struct pack p;

    pack_init(&p, buf, sizeof(buf));
    meta_entry_begin(&p);
    meta_command_encode(&p, c);
    meta_entry_end(&p, 1);
    assert_false(p.failed);
    meta_state_apply(w->state, ++w->index, (struct slice){buf, p.len});
    return w->result;
}

static struct map_pg row_now(struct world *w)
{
    struct map_pg g;
    assert_true(state_pg_get(w->state, PG_ID, &g));
    return g;
}

static void world_open(struct world *w, uint64_t seed)
{
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    struct meta_state_env env = {on_applied, on_fatal, w};
    struct meta_command init = {.kind = META_CLUSTER_INIT, .cluster = {7}, .replicas = 7};
    struct meta_command pool = {.kind = META_POOL_CREATE,
                                .name = "default",
                                .replicas = 3,
                                .min_size = 1 + seed % 2,
                                .pg_count = 1,
                                .object_size = 131072};

    memset(w, 0, sizeof(*w));
    prng_init(&w->prng, seed);
    assert_int_equal(meta_state_open(&env, &w->state), 0);
    assert_int_equal(apply(w, &init).code, 0);
    for (uint32_t i = 1; i <= OSDS; i++) {
        struct meta_command node = {.kind = META_NODE_ADD, .name = names[i - 1]};
        struct meta_command osd = {
            .kind = META_OSD_ADD, .node = i, .uuid = {(uint8_t)i}, .size = 1 << 30};
        struct meta_command up = {
            .kind = META_OSD_UP, .osd = i, .node = i, .incarnation = 1, .size = 1 << 30};
        assert_int_equal(apply(w, &node).id, i);
        assert_int_equal(apply(w, &osd).id, i);
        assert_int_equal(apply(w, &up).code, 0);
        w->m.incarnation[i] = w->m.up[i] = 1;
    }
    assert_int_equal(apply(w, &pool).code, 0);
    struct map_pg g = row_now(w);
    w->m.epoch = g.epoch;
    w->m.primary = g.primary;
    w->m.set = bits_of(g.set, g.set_count);
    w->m.min_size = pool.min_size;
    assert_int_equal(__builtin_popcount(w->m.set), 3);
    assert_false(g.active);
}

static void compare(struct world *w, uint64_t seed, uint32_t step)
{
    const struct model *m = &w->m;
    struct map_pg g = row_now(w);
    uint32_t rows = 0;
    bool same = g.epoch == m->epoch && g.primary == m->primary && g.active == m->active &&
                g.activated == m->activated && bits_of(g.set, g.set_count) == m->set;

    for (uint32_t i = 1; i <= OSDS; i++)
        rows += m->has_row[i];
    same = same && rows == g.stale_count;
    for (uint8_t i = 0; i < g.stale_count; i++)
        same = same && m->has_row[g.stale[i].osd] && m->row[g.stale[i].osd] == g.stale[i].version;
    if (!same)
        fail_msg("seed %llu step %u: the row is not what the model says", (unsigned long long)seed,
                 step);
}

/* ---- Random steps ---- */

static uint32_t draw(struct world *w, uint32_t n)
{
    return (uint32_t)prng_below(&w->prng, n);
}

static void step_up(struct world *w)
{
    uint32_t i = 1 + draw(w, OSDS), inc = w->m.incarnation[i] + draw(w, 3);
    struct meta_command c = {
        .kind = META_OSD_UP, .osd = i, .node = i, .incarnation = inc - draw(w, 2), .size = 1 << 30};

    if (c.incarnation == 0)
        return;
    apply(w, &c);
    struct map_pg g = row_now(w);
    model_register(&w->m, &g, i, c.incarnation);
}

static void step_down(struct world *w)
{
    uint32_t i = 1 + draw(w, OSDS);
    struct meta_osd_state down = {i, w->m.incarnation[i] - (draw(w, 4) == 0), draw(w, 3) == 0};
    struct meta_command c = {.kind = META_OSD_DOWN, .list_count = 1, .osds = &down};

    assert_int_equal(apply(w, &c).code, 0);
    struct map_pg g = row_now(w);
    model_down(&w->m, &g, i, down.incarnation, down.dead);
}

/* Bits of a random subset or superset of S, as a list. */
static uint8_t draw_set(struct world *w, uint32_t keep_of, uint32_t *set)
{
    uint8_t count = 0;

    for (uint32_t i = 1; i <= OSDS; i++) {
        bool in = (w->m.set & bit(i)) != 0;
        if (in ? draw(w, keep_of) != 0 : draw(w, 6) == 0)
            set[count++] = i;
    }
    return count;
}

static void step_change(struct world *w)
{
    struct model *m = &w->m;
    struct meta_pg_change c = {.kind = (enum meta_pg_change_kind)(1 + draw(w, 6)),
                               .pg = PG_ID,
                               .epoch = m->epoch,
                               .primary = m->primary,
                               .primary_incarnation = m->up[m->primary],
                               .version = (uint64_t)draw(w, m->epoch + 2) << 32 | draw(w, 9)};
    struct meta_command command = {.kind = META_PG_CHANGE, .list_count = 1, .changes = &c};

    if (c.kind == META_PG_ACTIVATE || c.kind == META_PG_SHRINK) {
        c.set_count = draw_set(w, 4, c.set);
        for (uint8_t i = 0; c.kind == META_PG_ACTIVATE && i < c.set_count; i++) {
            if ((m->set & bit(c.set[i])) == 0 && draw(w, 5) != 0)
                c.joiners[c.joiners_count++] = c.set[i];
        }
    } else {
        c.set_count = c.kind == META_PG_ROTATE ? 0 : 1;
        c.set[0] = c.set_count * (1 + draw(w, OSDS));
        c.osd_incarnation = m->incarnation[c.set[0]] - (draw(w, 6) == 0);
    }
    if (draw(w, 8) == 0)
        c.epoch += draw(w, 3) - 1;
    if (draw(w, 8) == 0)
        c.primary = draw(w, OSDS + 1);
    if (draw(w, 8) == 0)
        c.primary_incarnation += draw(w, 3) - 1;
    uint64_t fitted = apply(w, &command).id;
    struct map_pg g = row_now(w);
    assert_int_equal(model_change(m, &g, &c), fitted);
    m->fitted[c.kind] += (uint32_t)fitted;
}

static void every_random_history_is_what_the_model_says(void **unused)
{
    (void)unused;
    uint32_t fitted[META_PG_FORGET_STALE + 1] = {0};

    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct world w;
        world_open(&w, seed);
        for (uint32_t step = 0; step < STEPS; step++) {
            uint32_t what = draw(&w, 10);
            if (what < 2)
                step_up(&w);
            else if (what < 3)
                step_down(&w);
            else
                step_change(&w);
            compare(&w, seed, step);
        }
        for (uint32_t kind = 1; kind < COUNT_OF(fitted); kind++)
            fitted[kind] += w.m.fitted[kind];
        meta_state_close(w.state);
    }
    for (uint32_t kind = 1; kind < COUNT_OF(fitted); kind++)
        assert_true(fitted[kind] > 100); /* each kind was really tried */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_random_history_is_what_the_model_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
