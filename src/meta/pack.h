/*
 * msgpack, as much of it as commands, rows and the messages of meta/ need: nil, bool, unsigned
 * integers, strings, byte strings, arrays, maps. Writing goes to a buffer of fixed size, or to one
 * that grows; reading allocates nothing and believes no length before it has compared it with what
 * is there. Both go on harmlessly after a failure, so that only the end needs a test.
 */

#ifndef META_PACK_H
#define META_PACK_H

#include <stdbool.h>

#include "base/bytes.h"

struct pack {
    uint8_t *base;
    size_t size;
    size_t len;
    bool grows;  /* base is ours: pack_deinit() */
    bool failed; /* it did not fit */
};

void pack_init(struct pack *p, void *buf, size_t size);
void pack_init_growing(struct pack *p);
void pack_deinit(struct pack *p);

void pack_nil(struct pack *p);
void pack_bool(struct pack *p, bool value);
void pack_u64(struct pack *p, uint64_t value);
void pack_str(struct pack *p, const char *s); /* NULL is "" */
void pack_bin(struct pack *p, const void *data, size_t len);
void pack_array(struct pack *p, uint32_t count);
void pack_map(struct pack *p, uint32_t count);
void pack_raw(struct pack *p, const void *data, size_t len); /* bytes that are msgpack already */

/* An array whose count is known later: the place to give to pack_array_end(). */
size_t pack_array_begin(struct pack *p);
void pack_array_end(struct pack *p, size_t place, uint32_t count);

struct unpack {
    const uint8_t *at;
    const uint8_t *end;
    bool failed;
};

void unpack_init(struct unpack *u, struct slice bytes);
size_t unpack_left(const struct unpack *u);
bool unpack_try_nil(struct unpack *u); /* takes it if it is next */
bool unpack_bool(struct unpack *u);
uint64_t unpack_u64(struct unpack *u, uint64_t max); /* more than max: failed */
uint32_t unpack_u32(struct unpack *u);
struct slice unpack_str(struct unpack *u, size_t len_max);
struct slice unpack_bin(struct unpack *u, size_t len_max);
void unpack_bin_exact(struct unpack *u, void *dst, size_t len);
/* Copies with a terminator; a zero byte inside is refused. */
void unpack_text(struct unpack *u, char *dst, size_t dst_size);
/* Every element takes a byte at least, so a count beyond what is left is refused too. */
uint32_t unpack_array(struct unpack *u, uint32_t count_max);
void unpack_array_exact(struct unpack *u, uint32_t count);
void unpack_map_exact(struct unpack *u, uint32_t count);
void unpack_key(struct unpack *u, const char *key); /* the string that must come next */

#endif /* META_PACK_H */
