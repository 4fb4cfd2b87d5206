/* A loop and the thread that runs it; and the way the plain threads of a node (main, the worker)
 * have something done on a loop and wait for it. */

#ifndef NODE_THREAD_H
#define NODE_THREAD_H

#include <pthread.h>
#include <semaphore.h>

#include "io/loop.h"

struct node_thread {
    struct loop *loop;
    pthread_t thread;
    bool running;
};

/* -errno. `name`: at most 15 letters, for ps. */
int node_thread_start(struct node_thread *t, enum loop_kind kind, uint32_t entries,
                      const char *name);

/* Run fn(arg) on the loop's stack top and give back what it returned. Never from a loop's thread.
 */
int node_thread_call(struct node_thread *t, int (*fn)(void *arg), void *arg);

/* End the loop's run and join the thread; the loop stays, halted, until node_thread_destroy(). */
void node_thread_stop(struct node_thread *t);
void node_thread_destroy(struct node_thread *t);

/* Wait for sem_post() at most `ms`. False: it did not come. */
bool node_sem_wait(sem_t *sem, uint32_t ms);

#endif /* NODE_THREAD_H */
