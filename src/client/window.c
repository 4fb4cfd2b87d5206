#include "client/window.h"

#include "base/check.h"

static_assert(WIRE_OSD_WINDOW % 64 == 0, "the window is a whole number of words");

void seq_window_init(struct seq_window *w)
{
    *w = (struct seq_window){.floor = 1, .next = 1};
}

uint64_t seq_window_take(struct seq_window *w)
{
    if (seq_window_is_full(w))
        return 0;
    return w->next++;
}

static uint64_t *window_word(struct seq_window *w, uint64_t seq)
{
    return &w->answered[seq % WIRE_OSD_WINDOW / 64];
}

static uint64_t window_bit(uint64_t seq)
{
    return 1ull << (seq % 64);
}

void seq_window_answer(struct seq_window *w, uint64_t seq)
{
    check(seq >= w->floor && seq < w->next);
    check((*window_word(w, seq) & window_bit(seq)) == 0);

    *window_word(w, seq) |= window_bit(seq);
    while (w->floor < w->next && (*window_word(w, w->floor) & window_bit(w->floor)) != 0) {
        *window_word(w, w->floor) &= ~window_bit(w->floor);
        w->floor++;
    }
}
