#include "tests/sim/jobs.h"

#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SEED_LIMIT_S = 600 }; /* of real time: one that spins is killed, and counts as dead */

/* Shared by the processes: which job is next, and where each of them is. */
struct board {
    atomic_uint next;
    struct place {
        uint32_t job;
        uint64_t seed; /* of the job, counted from 0 */
        bool busy;
    } places[64];
};

static_assert(sizeof(struct job_result) <= PIPE_BUF, "results do not mix in the pipe");

struct jobs {
    const struct job *jobs;
    uint32_t count;
    struct board *board;
    int pipe[2];
};

/* ---- In a child ---- */

static bool job_run_seed(struct jobs *js, struct place *place)
{
    const struct job *job = &js->jobs[place->job];
    struct job_result result, again;

    memset(&result, 0, sizeof(result));
    result.job = place->job;
    alarm(SEED_LIMIT_S);
    run_seed(&job->options, job->from + place->seed, &result.run);
    if (job->twice) {
        run_seed(&job->options, job->from + place->seed, &again.run);
        result.diverged = again.run.hash != result.run.hash;
    }
    alarm(0);
    if (write(js->pipe[1], &result, sizeof(result)) != sizeof(result))
        _exit(3);
    return result.run.held;
}

static void child_run(struct jobs *js, struct place *place)
{
    close(js->pipe[0]);
    for (;;) {
        if (!place->busy) {
            place->job = atomic_fetch_add(&js->board->next, 1);
            place->seed = 0;
            if (place->job >= js->count)
                exit(0);
            place->busy = true;
        }
        const struct job *job = &js->jobs[place->job];
        while (place->seed < job->count) {
            bool held = job_run_seed(js, place);
            place->seed = !held && job->until_caught ? job->count : place->seed + 1;
        }
        place->busy = false;
    }
}

static pid_t child_start(struct jobs *js, uint32_t number)
{
    fflush(stdout);
    fflush(stderr);
    pid_t pid = fork();
    check(pid >= 0);
    if (pid == 0)
        child_run(js, &js->board->places[number]);
    return pid;
}

/* ---- In the parent ---- */

/* The child is gone in the middle of a seed: that seed failed, and the job goes on behind it. */
static void child_died(struct jobs *js, uint32_t number, int status, struct job_result *result)
{
    struct place *place = &js->board->places[number];
    const struct job *job = &js->jobs[place->job];

    memset(result, 0, sizeof(*result));
    result->job = place->job;
    result->died = true;
    result->run.seed = job->from + place->seed;
    snprintf(result->run.why, sizeof(result->run.why), "the process died, %s %d",
             WIFSIGNALED(status) ? "signal" : "exit",
             WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    place->seed = job->until_caught ? job->count : place->seed + 1;
}

static void read_results(struct jobs *js, void (*each)(void *arg, const struct job_result *result),
                         void *arg)
{
    struct job_result result;

    while (read(js->pipe[0], &result, sizeof(result)) == sizeof(result))
        each(arg, &result);
}

/* Until every child of this round has ended; whoever died in the middle is started again. */
void jobs_run(const struct job *jobs, uint32_t count, uint32_t processes,
              void (*each)(void *arg, const struct job_result *result), void *arg)
{
    struct jobs js = {.jobs = jobs, .count = count};
    pid_t pids[COUNT_OF(js.board->places)];
    struct job_result result;
    bool again = true;

    if (processes > COUNT_OF(js.board->places))
        processes = COUNT_OF(js.board->places);
    js.board =
        mmap(NULL, sizeof(*js.board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(js.board != MAP_FAILED);
    while (again) {
        again = false;
        check(pipe(js.pipe) == 0);
        for (uint32_t i = 0; i < processes; i++)
            pids[i] = child_start(&js, i);
        close(js.pipe[1]);
        read_results(&js, each, arg);
        for (uint32_t i = 0; i < processes; i++) {
            int status;
            check(waitpid(pids[i], &status, 0) == pids[i]);
            if (!js.board->places[i].busy)
                continue;
            child_died(&js, i, status, &result);
            each(arg, &result);
            again = true;
        }
        close(js.pipe[0]);
    }
    munmap(js.board, sizeof(*js.board));
}
