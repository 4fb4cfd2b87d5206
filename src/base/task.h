/*
 * Tasks: how every operation in this program waits.
 *
 * An operation embeds a task. When something it waits for has happened, the
 * task is woken; the event loop then calls its step() from the top of the
 * stack, never from inside a completion. So step() may free its operation or
 * start others, completions may come in any order or all at once, and a million
 * operations that finish together use no more stack than one.
 */

#ifndef BASE_TASK_H
#define BASE_TASK_H

#include "base/list.h"

struct task {
    void (*step)(struct task *task);
    struct list link; /* In runq.ready while woken and not yet run. */
};

struct runq {
    struct list ready;
};

static inline void runq_init(struct runq *q)
{
    list_init(&q->ready);
}

static inline void task_init(struct task *task, void (*step)(struct task *task))
{
    task->step = step;
    list_init(&task->link);
}

/* Make `task` run soon. Waking a woken task again changes nothing. */
static inline void runq_wake(struct runq *q, struct task *task)
{
    if (list_empty(&task->link))
        list_push(&q->ready, &task->link);
}

/* Forget a wake-up that has not run yet; for an operation that is given up. */
static inline void task_cancel(struct task *task)
{
    list_remove(&task->link);
}

/* Run the task that has been ready longest. False if there was none. */
static inline bool runq_run_one(struct runq *q)
{
    struct list *link = list_pop(&q->ready);
    if (link == NULL)
        return false;

    struct task *task = container_of(link, struct task, link);
    task->step(task);
    return true;
}

#endif /* BASE_TASK_H */
