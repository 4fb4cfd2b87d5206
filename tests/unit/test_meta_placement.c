/* Placement: even by weight, one member a host, little moved, primaries even. Clusters are random,
 * from a seed that a failure prints. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/pool.h"
#include "base/prng.h"
#include "meta/placement.h"

enum { OSDS_MAX = 128, PGS_MAX = 4096 };

struct world {
    struct placement_osd osds[OSDS_MAX];
    uint32_t osds_count;
    struct placement_pg pgs[PGS_MAX], before[PGS_MAX];
    uint32_t pgs_count;
    uint8_t replicas;
    uint64_t seed;
};

static void world_init(struct world *w, uint32_t hosts, uint32_t osds_each, uint32_t pgs,
                       uint8_t replicas)
{
    memset(w, 0, sizeof(*w));
    w->osds_count = hosts * osds_each;
    w->pgs_count = pgs;
    w->replicas = replicas;
    for (uint32_t i = 0; i < w->osds_count; i++)
        w->osds[i] = (struct placement_osd){i + 1, i / osds_each, 100};
    for (uint32_t i = 0; i < pgs; i++)
        w->pgs[i].id = 1ull << 32 | i;
}

static void place(struct world *w)
{
    memcpy(w->before, w->pgs, sizeof(w->before));
    placement_run(w->osds, w->osds_count, w->pgs, w->pgs_count, w->replicas);
}

static uint32_t domain_of(const struct world *w, uint32_t osd)
{
    assert_true(osd >= 1 && osd <= w->osds_count);
    return w->osds[osd - 1].domain;
}

static bool has(const struct placement_pg *g, uint32_t osd)
{
    for (uint8_t i = 0; i < g->count; i++) {
        if (g->osds[i] == osd)
            return true;
    }
    return false;
}

static void check_domains(const struct world *w)
{
    for (uint32_t k = 0; k < w->pgs_count; k++) {
        const struct placement_pg *g = &w->pgs[k];
        assert_int_equal(g->count, w->replicas);
        for (uint8_t i = 0; i < g->count; i++) {
            assert_true(w->osds[g->osds[i] - 1].weight > 0);
            for (uint8_t j = 0; j < i; j++)
                assert_int_not_equal(domain_of(w, g->osds[i]), domain_of(w, g->osds[j]));
        }
    }
}

/* Members on each OSD, or PGs that it leads. */
static void count_held(const struct world *w, bool led, uint32_t *held)
{
    memset(held, 0, (OSDS_MAX + 1) * sizeof(*held));
    for (uint32_t k = 0; k < w->pgs_count; k++) {
        for (uint8_t i = 0; i < (led ? 1 : w->pgs[k].count); i++)
            held[w->pgs[k].osds[i]]++;
    }
}

/* When no host asks for more than one member of each PG: within one PG of the share by weight. */
static void check_even(const struct world *w)
{
    uint32_t held[OSDS_MAX + 1], led[OSDS_MAX + 1];
    double weight = 0;

    for (uint32_t i = 0; i < w->osds_count; i++)
        weight += w->osds[i].weight;
    count_held(w, false, held);
    count_held(w, true, led);
    for (uint32_t i = 0; i < w->osds_count; i++) {
        double share = (double)w->pgs_count * w->replicas * w->osds[i].weight / weight;
        double lead = (double)held[i + 1] / w->replicas;
        if (held[i + 1] > share + 1 || held[i + 1] + 1 < share)
            fail_msg("seed %llu: osd.%u holds %u, its share is %.2f", (unsigned long long)w->seed,
                     i + 1, held[i + 1], share);
        if (led[i + 1] > lead + 1.5 || led[i + 1] + 1.5 < lead)
            fail_msg("seed %llu: osd.%u leads %u of %u", (unsigned long long)w->seed, i + 1,
                     led[i + 1], held[i + 1]);
    }
}

static uint32_t moved(const struct world *w)
{
    uint32_t count = 0;

    for (uint32_t k = 0; k < w->pgs_count; k++) {
        for (uint8_t i = 0; i < w->pgs[k].count; i++)
            count += !has(&w->before[k], w->pgs[k].osds[i]);
    }
    return count;
}

static struct world world;

static void every_osd_is_within_one_pg_of_its_share(void **unused)
{
    (void)unused;
    static const uint32_t shapes[][3] = {{3, 1, 64},  {3, 4, 64},   {5, 1, 64},
                                         {6, 2, 256}, {10, 3, 512}, {7, 5, 1024}};

    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        world_init(&world, shapes[i][0], shapes[i][1], shapes[i][2], 3);
        place(&world);
        check_domains(&world);
        check_even(&world);
    }
}

static void random_weights_are_respected(void **unused)
{
    (void)unused;
    struct prng p;

    for (uint64_t seed = 1; seed <= 40; seed++) {
        prng_init(&p, seed);
        uint32_t hosts = 6 + (uint32_t)prng_below(&p, 6), each = 1 + (uint32_t)prng_below(&p, 3);
        world_init(&world, hosts, each, 64u << prng_below(&p, 3), (uint8_t)(2 + prng_below(&p, 2)));
        world.seed = seed;
        for (uint32_t i = 0; i < world.osds_count; i++)
            world.osds[i].weight = 100 + (uint32_t)prng_below(&p, 60);
        place(&world);
        check_domains(&world);
        check_even(&world);
        place(&world);
        assert_int_equal(moved(&world), 0); /* what is even stays */
    }
}

static void a_new_host_takes_its_share_and_little_else_moves(void **unused)
{
    (void)unused;

    for (uint32_t hosts = 4; hosts <= 12; hosts++) {
        world_init(&world, hosts, 2, 256, 3);
        world.osds_count -= 2;
        place(&world);
        world.osds_count += 2;
        place(&world);
        check_domains(&world);
        check_even(&world);
        uint32_t unavoidable = 256 * 3 / hosts;
        assert_true(moved(&world) * 10 <= (unavoidable + 2) * 11);
    }
}

static void what_a_lost_osd_held_moves_and_little_else(void **unused)
{
    (void)unused;
    uint32_t held[OSDS_MAX + 1];

    for (uint32_t hosts = 4; hosts <= 12; hosts++) {
        world_init(&world, hosts, 2, 256, 3);
        place(&world);
        count_held(&world, false, held);
        world.osds[3].weight = 0;
        place(&world);
        check_domains(&world);
        assert_true(moved(&world) * 10 <= (held[4] + 2) * 11);
    }
}

static void with_too_few_hosts_the_absent_keep_their_place(void **unused)
{
    (void)unused;
    world_init(&world, 3, 1, 64, 3);
    place(&world);
    world.osds[1].weight = 0;
    place(&world);
    assert_int_equal(moved(&world), 0);
    for (uint32_t k = 0; k < world.pgs_count; k++) {
        assert_int_equal(world.pgs[k].count, 3);
        assert_true(has(&world.pgs[k], 2));
        assert_int_not_equal(world.pgs[k].osds[0], 2); /* who is there comes first */
    }
    assert_int_equal(placement_domains(world.osds, world.osds_count), 2);
}

static void nothing_is_placed_on_nobody(void **unused)
{
    (void)unused;
    world_init(&world, 2, 1, 8, 3);
    world.osds[0].weight = world.osds[1].weight = 0;
    place(&world);
    for (uint32_t k = 0; k < world.pgs_count; k++)
        assert_int_equal(world.pgs[k].count, 0);
}

static void a_large_pool_is_even_too(void **unused)
{
    (void)unused;
    world_init(&world, 32, 4, 4096, 3);
    place(&world);
    check_domains(&world);
    check_even(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_osd_is_within_one_pg_of_its_share),
        cmocka_unit_test(random_weights_are_respected),
        cmocka_unit_test(a_new_host_takes_its_share_and_little_else_moves),
        cmocka_unit_test(what_a_lost_osd_held_moves_and_little_else),
        cmocka_unit_test(with_too_few_hosts_the_absent_keep_their_place),
        cmocka_unit_test(nothing_is_placed_on_nobody),
        cmocka_unit_test(a_large_pool_is_even_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
