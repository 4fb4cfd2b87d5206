#include "store/scan.h"

#include <errno.h>
#include <stdlib.h>

int scan_supers(const uint8_t *blocks, struct superblock *out, uint32_t *copy)
{
    struct superblock sb;
    int found = -EINVAL;

    for (uint32_t i = 0; i < SUPER_COPIES; i++) {
        int result = superblock_decode(blocks + (size_t)i * STORE_BLOCK, &sb);
        if (result == -ENOTSUP)
            return result;
        if (result < 0 || (found == 0 && (sb.boot <= out->boot || sb.nonce != out->nonce ||
                                          sb.blocks != out->blocks)))
            continue;
        found = 0;
        *out = sb;
        *copy = i;
    }
    return found;
}

void scan_init(struct scan *sc, const struct superblock *super)
{
    *sc = (struct scan){.super = super, .seen = mem_zalloc(scan_bytes(super))};
}

void scan_deinit(struct scan *sc)
{
    free(sc->seen);
    *sc = (struct scan){0};
}

int scan_see(struct scan *sc, uint64_t place, const uint8_t *block, struct block_head *h)
{
    int result = block_open(block, sc->super->nonce, h);

    if (result == -EINVAL || (result == 0 && h->seq % sc->super->ring_blocks != place))
        return 0;
    if (result < 0)
        return result;
    sc->seen[place] = (struct seen){h->seq,      h->tail, h->mark,     h->durable,
                                    h->scrub_at, h->crc,  h->prev_crc, h->scrub_since};
    sc->highest = h->seq > sc->highest ? h->seq : sc->highest;
    sc->durable = h->durable > sc->durable ? h->durable : sc->durable;
    return 1;
}

const struct seen *scan_block(const struct scan *sc, uint64_t seq)
{
    const struct seen *e = &sc->seen[seq % sc->super->ring_blocks];

    return seq != 0 && e->seq == seq ? e : NULL;
}

/* S5: the highest block whose whole run from its own tail, or from the floor, is there. 0: none. */
static uint64_t scan_find_end(const struct scan *sc, uint64_t floor)
{
    uint64_t ring = sc->super->ring_blocks, highest = sc->highest;
    uint64_t first = highest >= ring ? highest - ring + 1 : 1, run = 0, end = 0;
    const struct seen *before = NULL;

    if (first <= floor)
        first = floor + 1;
    for (uint64_t n = first; n <= highest; n++) {
        const struct seen *e = scan_block(sc, n);
        bool chained =
            before != NULL && e != NULL &&
            (e->prev_crc == before->crc || mutants_have(sc->mutants, STORE_MUTANT_NO_CHAIN));
        bool whole = mutants_have(sc->mutants, STORE_MUTANT_END_HIGHEST);
        if (e != NULL && !chained)
            run = n;
        if (e != NULL && (run <= e->tail || run == floor + 1 || whole))
            end = n;
        before = e;
    }
    return end;
}

int scan_end_from(struct scan *sc, uint64_t floor)
{
    sc->end = scan_find_end(sc, floor);
    if (sc->durable > sc->end && !mutants_have(sc->mutants, STORE_MUTANT_NO_DURABLE))
        return -EBADMSG;
    return sc->end == 0 ? -EBADMSG : 0;
}

int scan_end(struct scan *sc)
{
    return scan_end_from(sc, 0);
}

void scan_adopt(const struct scan *sc, struct store *s)
{
    const struct seen *last = scan_block(sc, sc->end);

    check(last != NULL);
    s->head = s->head_durable = s->head_records = sc->end;
    s->head_crc = last->crc;
    s->tail = s->tail_durable = last->tail;
    s->mark_durable = last->mark;
    s->durable_said = last->durable;
    s->scrub_at = last->scrub_at;
    s->scrub_since = last->scrub_since;
}
