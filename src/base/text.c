#include "base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool str_copy(char *dst, size_t dst_size, const char *src)
{
    size_t len = strlen(src);

    check(dst_size > 0);
    if (len >= dst_size) {
        dst[0] = '\0';
        return false;
    }
    memcpy(dst, src, len + 1);
    return true;
}

/* Reads the digits `s` begins with; the first character after them, or NULL. */
static const char *number_parse(const char *s, uint64_t *out)
{
    uint64_t value = 0;

    if (!is_digit(*s))
        return NULL;
    for (; is_digit(*s); s++) {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*s - '0'), &value))
            return NULL;
    }
    *out = value;
    return s;
}

bool str_to_u64(const char *s, uint64_t *out)
{
    uint64_t value;
    const char *end = number_parse(s, &value);

    if (end == NULL || *end != '\0')
        return false;
    *out = value;
    return true;
}

static const char size_units[] = "KMGTP";

bool str_to_size(const char *s, uint64_t *out)
{
    uint64_t value;
    unsigned shift = 0;
    const char *end = number_parse(s, &value);

    if (end == NULL)
        return false;
    if (*end != '\0') {
        const char *unit = strchr(size_units, *end >= 'a' && *end <= 'z' ? *end - 'a' + 'A' : *end);
        if (unit == NULL || end[1] != '\0')
            return false;
        shift = 10 * (unsigned)(unit - size_units + 1);
    }
    if (value > UINT64_MAX >> shift)
        return false;
    *out = value << shift;
    return true;
}

/* Rounded to hundredths in integers; "1024.00 KiB" is one unit up. */
void size_to_str(uint64_t bytes, char *dst, size_t dst_size)
{
    unsigned unit = 0;

    if (bytes < 1024) {
        snprintf(dst, dst_size, "%" PRIu64 " B", bytes);
        return;
    }
    uint64_t whole, hundredths;
    do {
        unsigned shift = 10 * ++unit;
        whole = bytes >> shift;
        uint64_t rest = (bytes & (((uint64_t)1 << shift) - 1)) >> (shift - 10);
        hundredths = (rest * 100 + 512) / 1024;
        whole += hundredths / 100;
        hundredths %= 100;
    } while (whole >= 1024 && unit < sizeof(size_units) - 1);
    snprintf(dst, dst_size, "%" PRIu64 ".%02" PRIu64 " %ciB", whole, hundredths,
             size_units[unit - 1]);
}

bool name_is_valid(const char *s)
{
    size_t len = strnlen(s, 129);

    if (len < 1 || len > 128 || !(is_digit(s[0]) || is_letter(s[0])))
        return false;
    for (size_t i = 1; i < len; i++) {
        if (!is_digit(s[i]) && !is_letter(s[i]) && strchr("._/-", s[i]) == NULL)
            return false;
    }
    return true;
}

void hex_encode(const void *data, size_t len, char *dst, size_t dst_size)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *p = data;

    check(dst_size > 2 * len);
    for (size_t i = 0; i < len; i++) {
        dst[2 * i] = digits[p[i] >> 4];
        dst[2 * i + 1] = digits[p[i] & 15];
    }
    dst[2 * len] = '\0';
}

static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool hex_decode(const char *s, void *data, size_t len)
{
    uint8_t *p = data;

    for (size_t i = 0; i < len; i++) {
        int high = hex_value(s[2 * i]);
        int low = high < 0 ? -1 : hex_value(s[2 * i + 1]);
        if (low < 0)
            return false;
        p[i] = (uint8_t)(high << 4 | low);
    }
    return s[2 * len] == '\0';
}
