#include "cli/token.h"

#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"

#define TOKEN_PREFIX "skerry1."

enum {
    TOKEN_CONTACTS_AT = 49,
    TOKEN_CONTACT_SIZE = 22,
    TOKEN_BYTES_MAX = TOKEN_CONTACTS_AT + TOKEN_CONTACTS_MAX * TOKEN_CONTACT_SIZE + 4,
};

static_assert(sizeof(TOKEN_PREFIX) + TOKEN_BYTES_MAX * 4 / 3 + 2 <= TOKEN_TEXT_MAX,
              "the longest token fits");

static const char token_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void base64url_encode(const uint8_t *src, size_t len, char *dst)
{
    uint32_t bits = 0, count = 0;
    for (size_t i = 0; i < len; i++) {
        bits = bits << 8 | src[i];
        for (count += 8; count >= 6; count -= 6)
            *dst++ = token_digits[bits >> (count - 6) & 63];
    }
    if (count > 0)
        *dst++ = token_digits[bits << (6 - count) & 63];
    *dst = '\0';
}

static bool base64url_decode(const char *src, uint8_t *dst, size_t dst_size, size_t *len)
{
    uint32_t bits = 0, count = 0;
    for (*len = 0; *src != '\0'; src++) {
        const char *digit = strchr(token_digits, *src);
        if (digit == NULL)
            return false;
        bits = bits << 6 | (uint32_t)(digit - token_digits);
        count += 6;
        if (count < 8)
            continue;
        count -= 8;
        if (*len == dst_size)
            return false;
        dst[(*len)++] = (uint8_t)(bits >> count);
    }
    /* What is left over must be zero, or two texts would be one token. */
    return (bits & ((1u << count) - 1)) == 0;
}

void token_make(const struct identity *id, char *dst, size_t dst_size)
{
    uint8_t bytes[TOKEN_BYTES_MAX];
    uint32_t contacts =
        id->contacts_count < TOKEN_CONTACTS_MAX ? id->contacts_count : TOKEN_CONTACTS_MAX;
    check(dst_size >= TOKEN_TEXT_MAX && contacts > 0);

    memcpy(bytes, id->cluster, 16);
    memcpy(bytes + 16, id->secret, 32);
    bytes[48] = (uint8_t)contacts;
    size_t len = TOKEN_CONTACTS_AT;
    for (uint32_t i = 0; i < contacts; i++, len += TOKEN_CONTACT_SIZE) {
        put_u32(bytes + len, id->contacts[i].node);
        memcpy(bytes + len + 4, id->contacts[i].addr.ip, 16);
        put_u16(bytes + len + 20, id->contacts[i].addr.port);
    }
    put_u32(bytes + len, crc32c(0, bytes, len));
    memcpy(dst, TOKEN_PREFIX, sizeof(TOKEN_PREFIX));
    base64url_encode(bytes, len + 4, dst + sizeof(TOKEN_PREFIX) - 1);
}

bool token_parse(const char *text, struct identity *out)
{
    uint8_t bytes[TOKEN_BYTES_MAX];
    size_t len;
    size_t prefix = sizeof(TOKEN_PREFIX) - 1;

    if (strncmp(text, TOKEN_PREFIX, prefix) != 0 ||
        !base64url_decode(text + prefix, bytes, sizeof(bytes), &len) || len < TOKEN_CONTACTS_AT)
        return false;
    uint32_t contacts = bytes[48];
    if (contacts == 0 || contacts > TOKEN_CONTACTS_MAX ||
        len != TOKEN_CONTACTS_AT + contacts * TOKEN_CONTACT_SIZE + 4 ||
        get_u32(bytes + len - 4) != crc32c(0, bytes, len - 4))
        return false;

    memset(out, 0, sizeof(*out));
    memcpy(out->cluster, bytes, 16);
    memcpy(out->secret, bytes + 16, 32);
    out->contacts_count = contacts;
    const uint8_t *at = bytes + TOKEN_CONTACTS_AT;
    for (uint32_t i = 0; i < contacts; i++, at += TOKEN_CONTACT_SIZE) {
        out->contacts[i].node = get_u32(at);
        memcpy(out->contacts[i].addr.ip, at + 4, 16);
        out->contacts[i].addr.port = get_u16(at + 20);
    }
    return true;
}
