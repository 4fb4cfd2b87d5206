/*
 * What clients did to one register and what they saw, and whether that can be
 * explained by a register that does one thing at a time: linearizability,
 * decided in O(n log n) because every write has a value of its own (Gibbons, Korach 1997: "Testing
 * Shared Memories", zones).
 *
 * An operation whose answer never came may have happened at any time after its
 * call, or never: its end is HISTORY_NEVER.
 */

#ifndef TESTS_SIM_HISTORY_H
#define TESTS_SIM_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HISTORY_NEVER UINT64_MAX

struct history_op {
    bool write;
    uint64_t value; /* 0: what the register held in the beginning */
    uint64_t call_ns, answer_ns;
};

struct history {
    struct history_op *ops;
    size_t count, capacity;
};

void history_init(struct history *h);
void history_deinit(struct history *h);
void history_add(struct history *h, const struct history_op *op);

/* NULL: it can be explained. Else a sentence, and the values that it is about. */
const char *history_check(const struct history *h, uint64_t *value_a, uint64_t *value_b);

#endif /* TESTS_SIM_HISTORY_H */
