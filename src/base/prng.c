#include "base/prng.h"

#include "base/check.h"

static uint64_t rotl(uint64_t x, unsigned k)
{
    return (x << k) | (x >> (64 - k));
}

uint64_t mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* Four outputs of splitmix64: never all zero, the one state xoshiro cannot leave. */
void prng_init(struct prng *p, uint64_t seed)
{
    for (unsigned i = 0; i < COUNT_OF(p->s); i++) {
        seed += 0x9e3779b97f4a7c15ull;
        p->s[i] = mix64(seed);
    }
}

uint64_t prng_next(struct prng *p)
{
    uint64_t *s = p->s;
    uint64_t result = rotl(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

/* The values below `skew` would favour small results: draw again. */
uint64_t prng_below(struct prng *p, uint64_t limit)
{
    check(limit > 0);

    uint64_t skew = -limit % limit;
    uint64_t x;
    do {
        x = prng_next(p);
    } while (x < skew);
    return x % limit;
}

bool prng_chance(struct prng *p, uint64_t num, uint64_t den)
{
    return prng_below(p, den) < num;
}
