/*
 * The simulator's command line.
 *
 *   run SEED                        one seed
 *   run --from A --count N          N seeds from A on
 *   run --regress FILE              the seeds in a file: one a line, what follows is a remark
 *   run --mutants [--count N]       each rule of the protocol left out in turn, N seeds at most
 * (60): exit 0 when every mutant was caught by the generator run … --mutant NAME             with
 * this rule left out; exit 0 when a seed caught it run … --jobs J                  processes at
 * once (1) run … --twice                   each seed twice: the trace hashes must be equal run …
 * --seconds S               simulated seconds under faults, at least (60) run … --verbose log lines
 * and faults on stderr
 *
 * A campaign fails when a seed fails, dies, or is weak (tests/sim/run.h), when the mean of
 * contended operations or of faults that hit is below what one seed needs, or when the two runs of
 * a seed differ. The last line is JSON; `hash` is over all seeds' hashes, equal for equal seeds on
 * every build.
 */

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/text.h"
#include "tests/sim/jobs.h"

enum { MUTANT_SEEDS = 120 };

struct options {
    struct run_options run;
    uint64_t from, count;
    uint32_t jobs;
    bool twice, mutants;
    const char *regress;
};

struct totals {
    struct run_result sum;
    uint64_t seeds, failed, weak, diverged, died;
    uint64_t ops_min, hits_min, whole_ms_max;
};

/* ---- One line a seed ---- */

static void print_seed(const struct job_result *j)
{
    const struct run_result *s = &j->run;

    printf("seed %llu: %s%s%s contended %llu of %llu ops, unknown %llu, errors %llu, hits %llu of "
           "%llu faults, %.1f s, whole after %.1f s, hash %016llx\n",
           (unsigned long long)s->seed, s->held ? "ok" : s->why, s->weak ? " (WEAK)" : "",
           j->diverged ? " (DIVERGED)" : "", (unsigned long long)s->contended,
           (unsigned long long)s->ops, (unsigned long long)s->unknown,
           (unsigned long long)s->errors, (unsigned long long)s->hits,
           (unsigned long long)s->faults, (double)s->simulated_ms / 1e3, (double)s->whole_ms / 1e3,
           (unsigned long long)s->hash);
    fflush(stdout);
}

static void totals_add(struct totals *t, const struct job_result *j)
{
    const struct run_result *s = &j->run;
    struct run_result *sum = &t->sum;

    t->seeds++;
    t->failed += !s->held;
    t->weak += s->held && s->weak;
    t->diverged += j->diverged;
    t->died += j->died;
    if (t->seeds == 1 || s->contended < t->ops_min)
        t->ops_min = s->contended;
    if (t->seeds == 1 || s->hits < t->hits_min)
        t->hits_min = s->hits;
    if (s->whole_ms > t->whole_ms_max)
        t->whole_ms_max = s->whole_ms;
    sum->contended += s->contended;
    sum->ops += s->ops;
    sum->unknown += s->unknown;
    sum->errors += s->errors;
    sum->faults += s->faults;
    sum->hits += s->hits;
    sum->simulated_ms += s->simulated_ms;
    sum->scrub_s += s->scrub_s;
    sum->events += s->events;
    for (uint32_t k = 0; k < FAULT_KINDS; k++)
        sum->by_kind[k] += s->by_kind[k];
    sum->hash += mix64(s->hash ^ s->seed); /* whatever the order in which they end */
}

static double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- A campaign ---- */

static void campaign_on_result(void *arg, const struct job_result *j)
{
    print_seed(j);
    totals_add(arg, j);
}

static int campaign_report(const struct options *o, const struct totals *t, double seconds)
{
    const struct run_result *s = &t->sum;
    uint64_t n = t->seeds != 0 ? t->seeds : 1;
    bool mean_is_low = s->contended / n < RUN_OPS_MIN || s->hits / n < RUN_HITS_MIN;
    bool held = t->failed == 0 && t->weak == 0 && t->diverged == 0 && !mean_is_low;
    bool ok = t->seeds > 0 && (o->run.mutant != OSD_MUTANT_NONE ? t->failed > 0 : held);

    printf(
        "{\"mutant\": \"%s\", \"seeds\": %llu, \"failed\": %llu, \"died\": %llu, \"weak\": %llu, "
        "\"diverged\": %llu, \"operations\": %llu, \"contended_mean\": %llu, "
        "\"contended_min\": %llu, \"unknown\": %llu, \"errors\": %llu, \"faults\": %llu, "
        "\"hits_mean\": %.1f, \"hits_min\": %llu, ",
        osd_mutant_name((enum osd_mutant)o->run.mutant), (unsigned long long)t->seeds,
        (unsigned long long)t->failed, (unsigned long long)t->died, (unsigned long long)t->weak,
        (unsigned long long)t->diverged, (unsigned long long)s->ops,
        (unsigned long long)(s->contended / n), (unsigned long long)t->ops_min,
        (unsigned long long)s->unknown, (unsigned long long)s->errors,
        (unsigned long long)s->faults, (double)s->hits / (double)n,
        (unsigned long long)t->hits_min);
    for (uint32_t k = 0; k < FAULT_KINDS; k++)
        printf("\"%s\": %llu, ", fault_name((enum fault_kind)k), (unsigned long long)s->by_kind[k]);
    printf("\"simulated_s\": %llu, \"scrub_s\": %llu, \"whole_s_max\": %.1f, \"events\": %llu, "
           "\"took_s\": %.1f, "
           "\"hash\": \"%016llx\", \"ok\": %s}\n",
           (unsigned long long)(s->simulated_ms / 1000), (unsigned long long)s->scrub_s,
           (double)t->whole_ms_max / 1e3, (unsigned long long)s->events, seconds,
           (unsigned long long)s->hash, ok ? "true" : "false");
    return ok ? 0 : 1;
}

static int campaign(const struct options *o, const uint64_t *seeds, uint32_t count)
{
    struct job *jobs = calloc(count + 1, sizeof(*jobs));
    struct totals t = {.seeds = 0};
    double begin = seconds_now();

    for (uint32_t i = 0; i < count; i++)
        jobs[i] = (struct job){.options = o->run, .from = seeds[i], .count = 1, .twice = o->twice};
    if (o->run.mutant != OSD_MUTANT_NONE && count > 0) { /* until it is caught */
        jobs[0].count = count;
        jobs[0].until_caught = true;
        count = 1;
    }
    jobs_run(jobs, count, o->jobs, campaign_on_result, &t);
    free(jobs);
    return campaign_report(o, &t, seconds_now() - begin);
}

static int campaign_range(const struct options *o)
{
    uint64_t *seeds = calloc(o->count + 1, sizeof(*seeds));

    for (uint64_t i = 0; i < o->count; i++)
        seeds[i] = o->from + i;
    int result = campaign(o, seeds, (uint32_t)o->count);
    free(seeds);
    return result;
}

static int campaign_file(const struct options *o)
{
    FILE *f = fopen(o->regress, "r");
    uint64_t seeds[1024];
    uint32_t count = 0;
    char line[512];

    if (f == NULL) {
        fprintf(stderr, "run: %s: %s\n", o->regress, strerror(errno));
        return 2;
    }
    while (count < COUNT_OF(seeds) && fgets(line, sizeof(line), f) != NULL) {
        line[strcspn(line, " \t\n")] = 0;
        count += line[0] != '#' && str_to_u64(line, &seeds[count]);
    }
    fclose(f);
    return campaign(o, seeds, count);
}

/* ---- All mutants ---- */

struct mutant_fate {
    bool caught;
    uint64_t seeds, seed;
    char why[sizeof(((struct run_result *)0)->why)];
};

static void mutants_on_result(void *arg, const struct job_result *j)
{
    struct mutant_fate *fate = (struct mutant_fate *)arg + j->job;

    fate->seeds++;
    if (j->run.held || fate->caught)
        return;
    fate->caught = true;
    fate->seed = j->run.seed;
    snprintf(fate->why, sizeof(fate->why), "%s", j->run.why);
    printf("%s: caught after %llu seeds: %s\n", osd_mutant_name((enum osd_mutant)(j->job + 1)),
           (unsigned long long)fate->seeds, fate->why);
    fflush(stdout);
}

static int mutants(const struct options *o)
{
    struct mutant_fate fates[OSD_MUTANT_COUNT] = {0};
    struct job jobs[OSD_MUTANT_COUNT];
    uint32_t count = OSD_MUTANT_COUNT - 1, survivors = 0;
    double begin = seconds_now();

    for (uint32_t m = 1; m < OSD_MUTANT_COUNT; m++) {
        jobs[m - 1] = (struct job){
            .options = o->run, .from = o->from, .count = o->count, .until_caught = true};
        jobs[m - 1].options.mutant = m;
    }
    jobs_run(jobs, count, o->jobs, mutants_on_result, fates);
    printf("{\"mutants\": [");
    for (uint32_t i = 0; i < count; i++) {
        const struct mutant_fate *f = &fates[i];
        survivors += !f->caught;
        printf("%s{\"name\": \"%s\", \"caught\": %s, \"seeds\": %llu, \"seed\": %llu, \"why\": "
               "\"%s\"}",
               i > 0 ? ", " : "", osd_mutant_name((enum osd_mutant)(i + 1)),
               f->caught ? "true" : "false", (unsigned long long)f->seeds,
               (unsigned long long)f->seed, f->why);
    }
    printf("], \"survivors\": %u, \"took_s\": %.1f, \"ok\": %s}\n", survivors,
           seconds_now() - begin, survivors == 0 ? "true" : "false");
    return survivors == 0 ? 0 : 1;
}

/* ---- The command line ---- */

static bool parse_mutant(const char *name, uint32_t *out)
{
    for (uint32_t m = 0; m < OSD_MUTANT_COUNT; m++) {
        if (strcmp(osd_mutant_name((enum osd_mutant)m), name) == 0) {
            *out = m;
            return true;
        }
    }
    return false;
}

static bool parse_u32(const char *text, uint32_t *out)
{
    uint64_t value;

    if (!str_to_u64(text, &value) || value == 0 || value > 1024)
        return false;
    *out = (uint32_t)value;
    return true;
}

/* 2: took the value too; 1: took the word; 0: not understood. */
static int parse_option(struct options *o, const char *word, const char *value)
{
    if (strcmp(word, "--twice") == 0)
        o->twice = true;
    else if (strcmp(word, "--verbose") == 0)
        o->run.verbose = true;
    else if (strcmp(word, "--mutants") == 0)
        o->mutants = true;
    else if (str_to_u64(word, &o->from))
        return 1;
    else if (strcmp(word, "--from") == 0)
        return str_to_u64(value, &o->from) ? 2 : 0;
    else if (strcmp(word, "--count") == 0)
        return str_to_u64(value, &o->count) && o->count <= 1000000 ? 2 : 0;
    else if (strcmp(word, "--seconds") == 0)
        return str_to_u64(value, &o->run.seconds) ? 2 : 0;
    else if (strcmp(word, "--jobs") == 0)
        return parse_u32(value, &o->jobs) ? 2 : 0;
    else if (strcmp(word, "--mutant") == 0)
        return parse_mutant(value, &o->run.mutant) ? 2 : 0;
    else if (strcmp(word, "--regress") == 0)
        return (o->regress = value)[0] != 0 ? 2 : 0;
    else
        return 0;
    return 1;
}

static bool parse_options(int argc, char **argv, struct options *o)
{
    *o = (struct options){.from = 1, .jobs = 1, .run = {.seconds = RUN_S_MIN}};
    for (int i = 1; i < argc;) {
        int taken = parse_option(o, argv[i], i + 1 < argc ? argv[i + 1] : "");
        if (taken == 0) {
            fprintf(stderr, "run: not understood: %s\n", argv[i]);
            return false;
        }
        i += taken;
    }
    if (o->count == 0)
        o->count = o->mutants || o->run.mutant != OSD_MUTANT_NONE ? MUTANT_SEEDS : 1;
    return true;
}

int main(int argc, char **argv)
{
    struct options o;

    if (!parse_options(argc, argv, &o))
        return 2;
    mallopt(M_MMAP_THRESHOLD, 1 << 30); /* a node's pools come and go with every restart */
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    if (o.mutants)
        return mutants(&o);
    return o.regress != NULL ? campaign_file(&o) : campaign_range(&o);
}
