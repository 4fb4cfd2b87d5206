/*
 * The numbers of a client's writes (R10). Every write gets the next number; it
 * keeps it through all retries, until it is answered. The *floor* is the lowest
 * number that is not answered: an OSD forgets what it recorded below it, and
 * refuses it. So the newest number never goes WIRE_OSD_WINDOW beyond the floor:
 * one write that gets no answer stops the next 1,024, not the memory of an OSD.
 */

#ifndef CLIENT_WINDOW_H
#define CLIENT_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#include "net/wire_osd.h"

struct seq_window {
    uint64_t floor; /* every number below is answered */
    uint64_t next;  /* floor <= next <= floor + WIRE_OSD_WINDOW */
    uint64_t answered[WIRE_OSD_WINDOW / 64];
};

void seq_window_init(struct seq_window *w);

/* The next number, 0 when the window is full. */
uint64_t seq_window_take(struct seq_window *w);

/* `seq` was taken, and is answered now. */
void seq_window_answer(struct seq_window *w, uint64_t seq);

static inline bool seq_window_is_full(const struct seq_window *w)
{
    return w->next - w->floor >= WIRE_OSD_WINDOW;
}

#endif /* CLIENT_WINDOW_H */
