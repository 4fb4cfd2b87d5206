/*
 * Seeds in several processes. A process that dies (a check failed, a sanitizer
 * stopped it) costs the seed it was at, and another takes over the rest; so a campaign always
 * comes to its end, and says which seed it was.
 */

#ifndef TESTS_SIM_JOBS_H
#define TESTS_SIM_JOBS_H

#include "tests/sim/run.h"

struct job {
    struct run_options options;
    uint64_t from, count; /* seeds, one after the other */
    bool until_caught;    /* stop at the first that fails */
    bool twice;           /* each seed, and compare the hashes */
};

struct job_result {
    uint32_t job;
    bool diverged, died;
    struct run_result run;
};

void jobs_run(const struct job *jobs, uint32_t count, uint32_t processes,
              void (*each)(void *arg, const struct job_result *result), void *arg);

#endif /* TESTS_SIM_JOBS_H */
