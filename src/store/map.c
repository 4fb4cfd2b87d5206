#include "store/map.h"

#include <stdlib.h>
#include <string.h>

#include "base/pool.h"

/* A run is one word: first block (8 bits), count - 1 (8 bits), slot (48 bits). */
enum { RUN_COUNT_SHIFT = 8, RUN_SLOT_SHIFT = 16, MALLOC_HEADER = 8, MALLOC_ALIGN = 16 };

static uint32_t run_first(uint64_t run)
{
    return (uint32_t)(run & 0xff);
}

static uint32_t run_count(uint64_t run)
{
    return (uint32_t)(run >> RUN_COUNT_SHIFT & 0xff) + 1;
}

static uint32_t map_size(uint32_t runs, uint32_t blocks)
{
    return runs * (uint32_t)sizeof(uint64_t) + blocks * (uint32_t)sizeof(uint32_t);
}

uint32_t map_bytes(uint32_t runs, uint32_t blocks)
{
    uint32_t size = map_size(runs, blocks);

    return size == 0 ? 0 : (size + MALLOC_HEADER + MALLOC_ALIGN - 1) / MALLOC_ALIGN * MALLOC_ALIGN;
}

void map_read(const struct map *m, uint32_t runs, uint32_t first, uint32_t count, uint64_t *slots,
              uint32_t *crcs)
{
    const uint64_t *words = (const uint64_t *)m;

    memset(slots, 0, count * sizeof(*slots));
    memset(crcs, 0, count * sizeof(*crcs));
    if (m == NULL)
        return;
    const uint32_t *crc = (const uint32_t *)(words + runs);
    for (uint32_t i = 0; i < runs; i++) {
        uint32_t run = run_first(words[i]), len = run_count(words[i]);
        uint32_t from = run > first ? run : first;
        uint32_t to = run + len < first + count ? run + len : first + count;
        if (run >= first + count)
            return;
        for (uint32_t b = from; b < to; b++) {
            slots[b - first] = (words[i] >> RUN_SLOT_SHIFT) + b - run;
            crcs[b - first] = crc[b - run];
        }
        crc += len;
    }
}

void map_spread(const struct map *m, uint32_t runs, struct layout *out)
{
    const uint64_t *words = (const uint64_t *)m;

    out->count = 0;
    if (m == NULL)
        return;
    const uint32_t *crc = (const uint32_t *)(words + runs);
    for (uint32_t i = 0; i < runs; i++) {
        uint32_t first = run_first(words[i]), len = run_count(words[i]);
        uint64_t slot = words[i] >> RUN_SLOT_SHIFT;
        while (out->count < first)
            out->slots[out->count++] = 0;
        memcpy(out->crcs + first, crc, len * sizeof(*crc));
        for (uint32_t k = 0; k < len; k++)
            out->slots[first + k] = slot + k;
        out->count = first + len;
        crc += len;
    }
}

void map_present(const struct map *m, uint32_t runs, uint64_t present[STORE_BLOCKS_MAX / 64])
{
    const uint64_t *words = (const uint64_t *)m;

    memset(present, 0, STORE_BLOCKS_MAX / 8);
    for (uint32_t i = 0; i < runs; i++) {
        uint32_t first = run_first(words[i]), len = run_count(words[i]);
        for (uint32_t b = first; b < first + len; b++)
            present[b / 64] |= (uint64_t)1 << (b % 64);
    }
}

/* How many blocks from `first` on lie in slots that follow each other. */
static uint32_t layout_run(const struct layout *l, uint32_t first)
{
    uint32_t count = 1;

    while (first + count < l->count && l->slots[first + count] == l->slots[first] + count)
        count++;
    return count;
}

struct map *map_pack(struct map *m, uint32_t *runs, uint32_t *blocks, const struct layout *l)
{
    uint64_t words[STORE_BLOCKS_MAX];
    uint32_t crcs[STORE_BLOCKS_MAX], old = map_size(*runs, *blocks);

    *runs = 0;
    *blocks = 0;
    for (uint32_t b = 0; b < l->count;) {
        if (l->slots[b] == 0) {
            b++;
            continue;
        }
        uint32_t count = layout_run(l, b);
        words[(*runs)++] =
            b | (uint64_t)(count - 1) << RUN_COUNT_SHIFT | l->slots[b] << RUN_SLOT_SHIFT;
        memcpy(crcs + *blocks, l->crcs + b, count * sizeof(*crcs));
        *blocks += count;
        b += count;
    }

    uint32_t size = map_size(*runs, *blocks);
    if (size == 0) {
        free(m);
        return NULL;
    }
    if (size != old) {
        free(m);
        m = mem_realloc(NULL, size);
    }
    memcpy(m, words, *runs * sizeof(*words));
    memcpy((uint8_t *)m + *runs * sizeof(*words), crcs, *blocks * sizeof(*crcs));
    return m;
}
