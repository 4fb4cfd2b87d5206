/*
 * The join token: "skerry1." and, in base64url without padding:
 *
 *   0  cluster[16]   16  secret[32]   48  u8 number of contacts (1..4)
 *   49 contacts of 22 bytes: u32 node, ip[16] (v4 as ::ffff:a.b.c.d), u16 port
 *   …  u32 crc32c of everything before
 *
 * The secret is the cluster's: until certificates are in, whoever has a token is a member. Treat it
 * as a password. The digit in the prefix is the version.
 */

#ifndef CLI_TOKEN_H
#define CLI_TOKEN_H

#include "cli/nodedir.h"

enum { TOKEN_CONTACTS_MAX = 4, TOKEN_TEXT_MAX = 256 };

/* From cluster, secret and the first contacts of an identity. */
void token_make(const struct identity *id, char *dst, size_t dst_size);

/* Fills cluster, secret and contacts. False: it is no token, or a letter of it is wrong. */
bool token_parse(const char *text, struct identity *out);

#endif /* CLI_TOKEN_H */
