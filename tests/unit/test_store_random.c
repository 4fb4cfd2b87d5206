/* Thousands of random lives of a small store, against a model (test_store_lives.h). */

#include "test_store_lives.h"

#include <time.h>

enum { SEEDS = 600 };

static uint64_t env_number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

/* SEED=n: that one. BOOTS=n, and perhaps FIRST=seed: from there on until there were so many boots
 * (tests/store_campaign.sh). */
static void whatever_happens_each_object_is_in_one_state_at_or_after_the_last_acked(void **state)
{
    bool only = getenv("SEED") != NULL;
    uint64_t first = env_number("SEED", env_number("FIRST", 1)), seed = first;
    uint64_t boots_wanted = only ? 0 : env_number("BOOTS", 0);
    uint64_t writes = 0, cleaned = 0, laps = 0, boots = 0, discarded = 0;
    time_t begin = time(NULL);
    (void)state;

    do {
        struct life l;
        lives(&l, seed, 0);
        if (l.error[0] != 0)
            fail_msg("SEED=%llu: %s", (unsigned long long)seed, l.error);
        writes += l.total.writes;
        cleaned += l.total.cleaned;
        laps += l.total.laps;
        discarded += l.total.discarded;
        boots += l.boots;
        seed++;
    } while (boots_wanted > 0 ? boots < boots_wanted : !only && seed < first + SEEDS);
    printf("{\"first_seed\": %llu, \"seeds\": %llu, \"boots\": %llu, \"writes_acked\": %llu, "
           "\"copies_by_cleaning\": %llu, \"laps_of_the_ring\": %llu, \"slots_discarded\": %llu, "
           "\"seconds\": %lld}\n",
           (unsigned long long)first, (unsigned long long)(seed - first), (unsigned long long)boots,
           (unsigned long long)writes, (unsigned long long)cleaned, (unsigned long long)laps,
           (unsigned long long)discarded / STORE_BLOCK, (long long)(time(NULL) - begin));
    fflush(stdout);
    assert_true(boots < 3000 || (cleaned > 1000 && laps > SEEDS / 4 && discarded > 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_happens_each_object_is_in_one_state_at_or_after_the_last_acked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
