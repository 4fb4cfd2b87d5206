/*
 * A frame: what one request, answer or sign of life looks like on a connection.
 * Header of FRAME_HEADER bytes, then body_len bytes of body, then data_len bytes of data.
 *
 *    0 u32 magic "SKFR"       4 u16 version           6 u16 kind (an answer echoes it)
 *    8 u32 type              12 u32 epoch            16 u64 id (an answer echoes it)
 *   24 u64 pg                32 u64 revision         40 u32 sender's incarnation
 *   44 u32 receiver's incarnation, 0: any            48 i32 status, of answers, <= 0
 *   52 u32 body_len          56 u32 data_len         60 u64 reserved, 0
 *   68 u32 reserved, 0       72 u32 crc32c of the body
 *   76 u32 crc32c of bytes 0..75
 *
 * Data carries no checksum here: storage messages have one for each block in their body, made where
 * the data was made and checked where it is used.
 *
 * Pure. A header is valid when frame_decode() says so; nothing of it is used before that.
 */

#ifndef NET_FRAME_H
#define NET_FRAME_H

#include <stdbool.h>
#include <stdint.h>

enum { FRAME_HEADER = 80 };

#define FRAME_MAGIC 0x52464b53u /* "SKFR" */

enum frame_type {
    FRAME_REQUEST = 1, /* wants an answer with its id */
    FRAME_ONEWAY = 2,  /* wants none */
    FRAME_REPLY = 3,
    FRAME_PING = 4, /* a sign of life; no body, no data, id 0 */
};

struct frame {
    enum frame_type type;
    uint16_t version;
    uint16_t kind;
    uint32_t epoch;
    uint64_t id;
    uint64_t pg;
    uint64_t revision;
    uint32_t from_incarnation;
    uint32_t to_incarnation;
    int32_t status;
    uint32_t body_len;
    uint32_t data_len;
    uint32_t body_crc;
};

/* Set version to the negotiated one. */
void frame_encode(const struct frame *f, uint8_t header[FRAME_HEADER]);

/* 0; -EBADMSG: not a header of ours, or damaged; -EPROTONOSUPPORT: another version; -EMSGSIZE: over
 * a limit; -EPROTO: a field has a value that version does not allow. */
int frame_decode(const uint8_t header[FRAME_HEADER], struct frame *out);

/* 0, or -EBADMSG: the body is not what the header's crc says. */
int frame_check_body(const struct frame *f, const void *body);

#endif /* NET_FRAME_H */
