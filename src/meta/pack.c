#include "meta/pack.h"

#include "base/check.h"
#include "base/pool.h"

#include <stdlib.h>

/* First bytes of the msgpack types in use. */
enum {
    MP_FIXMAP = 0x80,
    MP_FIXARRAY = 0x90,
    MP_FIXSTR = 0xa0,
    MP_NIL = 0xc0,
    MP_FALSE = 0xc2,
    MP_TRUE = 0xc3,
    MP_BIN8 = 0xc4,
    MP_BIN16 = 0xc5,
    MP_BIN32 = 0xc6,
    MP_U8 = 0xcc,
    MP_U16 = 0xcd,
    MP_U32 = 0xce,
    MP_U64 = 0xcf,
    MP_STR8 = 0xd9,
    MP_STR16 = 0xda,
    MP_STR32 = 0xdb,
    MP_ARRAY16 = 0xdc,
    MP_ARRAY32 = 0xdd,
    MP_MAP16 = 0xde,
    MP_MAP32 = 0xdf,
};

void pack_init(struct pack *p, void *buf, size_t size)
{
    *p = (struct pack){.base = buf, .size = size};
}

void pack_init_growing(struct pack *p)
{
    *p = (struct pack){.grows = true};
}

void pack_deinit(struct pack *p)
{
    if (p->grows)
        free(p->base);
    *p = (struct pack){.failed = true};
}

static uint8_t *pack_room(struct pack *p, size_t len)
{
    if (p->failed)
        return NULL;
    if (p->size - p->len < len) {
        if (!p->grows) {
            p->failed = true;
            return NULL;
        }
        size_t size = p->size < 256 ? 256 : p->size;
        while (size - p->len < len)
            size *= 2;
        p->base = mem_realloc(p->base, size);
        p->size = size;
    }
    uint8_t *at = p->base + p->len;
    p->len += len;
    return at;
}

/* A type byte and a big-endian integer of `width` bytes. */
static void pack_head(struct pack *p, uint8_t type, uint64_t value, size_t width)
{
    uint8_t *at = pack_room(p, 1 + width);
    if (at == NULL)
        return;
    at[0] = type;
    for (size_t i = 0; i < width; i++)
        at[1 + i] = (uint8_t)(value >> 8 * (width - 1 - i));
}

void pack_raw(struct pack *p, const void *data, size_t len)
{
    uint8_t *at = pack_room(p, len);
    if (at != NULL && len > 0)
        memcpy(at, data, len);
}

void pack_nil(struct pack *p)
{
    pack_head(p, MP_NIL, 0, 0);
}

void pack_bool(struct pack *p, bool value)
{
    pack_head(p, value ? MP_TRUE : MP_FALSE, 0, 0);
}

void pack_u64(struct pack *p, uint64_t value)
{
    if (value < 0x80)
        pack_head(p, (uint8_t)value, 0, 0);
    else if (value <= UINT8_MAX)
        pack_head(p, MP_U8, value, 1);
    else if (value <= UINT16_MAX)
        pack_head(p, MP_U16, value, 2);
    else if (value <= UINT32_MAX)
        pack_head(p, MP_U32, value, 4);
    else
        pack_head(p, MP_U64, value, 8);
}

void pack_str(struct pack *p, const char *s)
{
    size_t len = s == NULL ? 0 : strlen(s);

    if (len < 32)
        pack_head(p, (uint8_t)(MP_FIXSTR | len), 0, 0);
    else if (len <= UINT8_MAX)
        pack_head(p, MP_STR8, len, 1);
    else if (len <= UINT16_MAX)
        pack_head(p, MP_STR16, len, 2);
    else
        pack_head(p, MP_STR32, len, 4);
    pack_raw(p, s, len);
}

void pack_bin(struct pack *p, const void *data, size_t len)
{
    check(len <= UINT32_MAX);
    if (len <= UINT8_MAX)
        pack_head(p, MP_BIN8, len, 1);
    else if (len <= UINT16_MAX)
        pack_head(p, MP_BIN16, len, 2);
    else
        pack_head(p, MP_BIN32, len, 4);
    pack_raw(p, data, len);
}

void pack_array(struct pack *p, uint32_t count)
{
    if (count < 16)
        pack_head(p, (uint8_t)(MP_FIXARRAY | count), 0, 0);
    else if (count <= UINT16_MAX)
        pack_head(p, MP_ARRAY16, count, 2);
    else
        pack_head(p, MP_ARRAY32, count, 4);
}

void pack_map(struct pack *p, uint32_t count)
{
    check(count <= UINT16_MAX);
    if (count < 16)
        pack_head(p, (uint8_t)(MP_FIXMAP | count), 0, 0);
    else
        pack_head(p, MP_MAP16, count, 2);
}

size_t pack_array_begin(struct pack *p)
{
    size_t place = p->len;
    pack_head(p, MP_ARRAY32, 0, 4);
    return place;
}

void pack_array_end(struct pack *p, size_t place, uint32_t count)
{
    if (p->failed)
        return;
    check(place + 5 <= p->len);
    for (size_t i = 0; i < 4; i++)
        p->base[place + 1 + i] = (uint8_t)(count >> 8 * (3 - i));
}

/* ---- Reading ---- */

void unpack_init(struct unpack *u, struct slice bytes)
{
    u->at = bytes.base;
    u->end = bytes.len == 0 ? u->at : u->at + bytes.len;
    u->failed = false;
}

size_t unpack_left(const struct unpack *u)
{
    return u->failed ? 0 : (size_t)(u->end - u->at);
}

static int unpack_peek(const struct unpack *u)
{
    return unpack_left(u) > 0 ? *u->at : -1;
}

static uint64_t unpack_fail(struct unpack *u)
{
    u->failed = true;
    return 0;
}

/* The big-endian integer of `width` bytes behind the type byte. */
static uint64_t unpack_head(struct unpack *u, size_t width)
{
    if (unpack_left(u) < 1 + width)
        return unpack_fail(u);

    uint64_t value = 0;
    for (size_t i = 0; i < width; i++)
        value = value << 8 | u->at[1 + i];
    u->at += 1 + width;
    return value;
}

bool unpack_try_nil(struct unpack *u)
{
    if (unpack_peek(u) != MP_NIL)
        return false;
    u->at++;
    return true;
}

bool unpack_bool(struct unpack *u)
{
    int type = unpack_peek(u);

    if (type != MP_TRUE && type != MP_FALSE)
        return unpack_fail(u);
    u->at++;
    return type == MP_TRUE;
}

uint64_t unpack_u64(struct unpack *u, uint64_t max)
{
    int type = unpack_peek(u);
    uint64_t value;

    if (type >= 0 && type < 0x80) {
        value = (uint64_t)type;
        u->at++;
    } else if (type >= MP_U8 && type <= MP_U64) {
        value = unpack_head(u, (size_t)1 << (type - MP_U8));
    } else {
        return unpack_fail(u);
    }
    return value <= max ? value : unpack_fail(u);
}

uint32_t unpack_u32(struct unpack *u)
{
    return (uint32_t)unpack_u64(u, UINT32_MAX);
}

static struct slice unpack_bytes(struct unpack *u, uint64_t len, size_t len_max)
{
    if (u->failed || len > len_max || len > unpack_left(u)) {
        unpack_fail(u);
        return (struct slice){NULL, 0};
    }
    struct slice bytes = {u->at, (size_t)len};
    u->at += len;
    return bytes;
}

struct slice unpack_str(struct unpack *u, size_t len_max)
{
    int type = unpack_peek(u);
    uint64_t len;

    if (type >= MP_FIXSTR && type < MP_FIXSTR + 32) {
        len = (uint64_t)(type - MP_FIXSTR);
        u->at++;
    } else if (type >= MP_STR8 && type <= MP_STR32) {
        len = unpack_head(u, (size_t)1 << (type - MP_STR8));
    } else {
        len = unpack_fail(u);
    }
    return unpack_bytes(u, len, len_max);
}

struct slice unpack_bin(struct unpack *u, size_t len_max)
{
    int type = unpack_peek(u);
    uint64_t len;

    if (type >= MP_BIN8 && type <= MP_BIN32)
        len = unpack_head(u, (size_t)1 << (type - MP_BIN8));
    else
        len = unpack_fail(u);
    return unpack_bytes(u, len, len_max);
}

void unpack_bin_exact(struct unpack *u, void *dst, size_t len)
{
    struct slice bytes = unpack_bin(u, len);

    if (bytes.len == len)
        memcpy(dst, bytes.base, len);
    else
        unpack_fail(u);
}

void unpack_text(struct unpack *u, char *dst, size_t dst_size)
{
    struct slice text = unpack_str(u, dst_size - 1);

    dst[0] = '\0';
    if (u->failed)
        return;
    if (text.len > 0 && memchr(text.base, 0, text.len) != NULL) {
        unpack_fail(u);
        return;
    }
    if (text.len > 0)
        memcpy(dst, text.base, text.len);
    dst[text.len] = '\0';
}

uint32_t unpack_array(struct unpack *u, uint32_t count_max)
{
    int type = unpack_peek(u);
    uint64_t count;

    if (type >= MP_FIXARRAY && type < MP_FIXARRAY + 16) {
        count = (uint64_t)(type - MP_FIXARRAY);
        u->at++;
    } else if (type == MP_ARRAY16 || type == MP_ARRAY32) {
        count = unpack_head(u, type == MP_ARRAY16 ? 2 : 4);
    } else {
        count = unpack_fail(u);
    }
    if (count > count_max || count > unpack_left(u))
        count = unpack_fail(u);
    return (uint32_t)count;
}

void unpack_array_exact(struct unpack *u, uint32_t count)
{
    if (unpack_array(u, count) != count)
        unpack_fail(u);
}

void unpack_map_exact(struct unpack *u, uint32_t count)
{
    int type = unpack_peek(u);
    uint64_t found;

    if (type >= MP_FIXMAP && type < MP_FIXMAP + 16) {
        found = (uint64_t)(type - MP_FIXMAP);
        u->at++;
    } else if (type == MP_MAP16 || type == MP_MAP32) {
        found = unpack_head(u, type == MP_MAP16 ? 2 : 4);
    } else {
        found = unpack_fail(u);
    }
    if (found != count)
        unpack_fail(u);
}

void unpack_key(struct unpack *u, const char *key)
{
    size_t len = strlen(key);
    struct slice found = unpack_str(u, len);

    if (found.len != len || (len > 0 && memcmp(found.base, key, len) != 0))
        unpack_fail(u);
}
