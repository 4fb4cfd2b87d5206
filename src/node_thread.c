#include "node_thread.h"

#include <errno.h>
#include <time.h>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#else
#define __tsan_acquire(address) ((void)(address))
#endif

static void *thread_main(void *arg)
{
    struct node_thread *t = arg;
    loop_run(t->loop);
    return NULL;
}

int node_thread_start(struct node_thread *t, enum loop_kind kind, uint32_t entries,
                      const char *name)
{
    int result = loop_create(&t->loop, kind, entries);
    if (result < 0)
        return result;
    result = -pthread_create(&t->thread, NULL, thread_main, t);
    if (result < 0) {
        loop_destroy(t->loop);
        t->loop = NULL;
        return result;
    }
    pthread_setname_np(t->thread, name);
    t->running = true;
    return 0;
}

struct thread_call {
    struct loop_msg msg;
    int (*fn)(void *arg);
    void *arg;
    int result;
    sem_t done;
};

static void thread_call_run(struct loop_msg *msg)
{
    struct thread_call *c = container_of(msg, struct thread_call, msg);
    c->result = c->fn(c->arg);
    sem_post(&c->done);
}

int node_thread_call(struct node_thread *t, int (*fn)(void *arg), void *arg)
{
    struct thread_call c = {.msg = {.run = thread_call_run}, .fn = fn, .arg = arg};
    sem_init(&c.done, 0, 0);
    loop_post(t->loop, &c.msg);
    while (sem_wait(&c.done) < 0)
        check(errno == EINTR);
    sem_destroy(&c.done);
    return c.result;
}

void node_thread_stop(struct node_thread *t)
{
    if (!t->running)
        return;
    loop_stop(t->loop);
    pthread_join(t->thread, NULL);
    t->running = false;
    loop_halt(t->loop);
}

void node_thread_destroy(struct node_thread *t)
{
    if (t->loop == NULL)
        return;
    node_thread_stop(t);
    loop_destroy(t->loop);
    t->loop = NULL;
}

bool node_sem_wait(sem_t *sem, uint32_t ms)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    uint64_t ns = (uint64_t)end.tv_nsec + (uint64_t)ms * NS_PER_MS;
    end.tv_sec += (time_t)(ns / NS_PER_S);
    end.tv_nsec = (long)(ns % NS_PER_S);
    int result;
    while ((result = sem_clockwait(sem, CLOCK_MONOTONIC, &end)) < 0 && errno == EINTR)
        ;
    if (result == 0)
        __tsan_acquire(sem); /* it knows sem_post(), but not sem_clockwait() */
    return result == 0;
}
