/* Text in and out: numbers, sizes, names, hex. All bounded, all checked; nothing allocates. */

#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Copy with a terminator; false (and an empty dst) if it does not fit. */
bool str_copy(char *dst, size_t dst_size, const char *src);

/* The whole text must be one decimal number that fits. */
bool str_to_u64(const char *s, uint64_t *out);

/* Bytes, or K M G T P = powers of 1024 ("8G", "8g"); whole text; no overflow. DESIGN.md section 17.
 */
bool str_to_size(const char *s, uint64_t *out);

/* "8.00 GiB", "512 B". */
void size_to_str(uint64_t bytes, char *dst, size_t dst_size);

/* [A-Za-z0-9][A-Za-z0-9._/-]{0,127} */
bool name_is_valid(const char *s);

/* dst_size >= 2 * len + 1. */
void hex_encode(const void *data, size_t len, char *dst, size_t dst_size);
bool hex_decode(const char *s, void *data, size_t len); /* exactly 2 * len digits */

#endif /* BASE_TEXT_H */
