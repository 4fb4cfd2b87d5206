/* Deterministic pseudo-random numbers (splitmix64 seeds xoshiro256**; Blackman, Vigna 2018). Never
 * for secrets. */

#ifndef BASE_PRNG_H
#define BASE_PRNG_H

#include <stdbool.h>
#include <stdint.h>

struct prng {
    uint64_t s[4];
};

void prng_init(struct prng *p, uint64_t seed);
uint64_t prng_next(struct prng *p);

/* Uniform in 0 .. limit-1; limit > 0. */
uint64_t prng_below(struct prng *p, uint64_t limit);

/* True with probability num/den. */
bool prng_chance(struct prng *p, uint64_t num, uint64_t den);

/* A fixed bijective mixing of 64 bits (splitmix64's finaliser): DESIGN.md section 6 places objects
 * with it. */
uint64_t mix64(uint64_t x);

#endif /* BASE_PRNG_H */
