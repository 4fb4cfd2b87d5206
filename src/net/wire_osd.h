/*
 * What clients say to OSDs (endpoint NET_OSD/id, kinds 1..19). Bodies are fixed little-endian.
 *
 * Header fields used: pg, epoch (the sender's map), to_incarnation, revision.
 *
 * OSD_WRITE, OSD_READ, OSD_ZERO have the body
 *    0 u64 image    8 u64 object   16 u32 image epoch   20 u32 flags (0)
 *   24 u32 offset  28 u32 len      (in the object; any bytes, not only blocks; len > 0)
 *   32 u64 client  40 u64 seq      48 u64 floor (every seq below it is answered; READ: all 0)
 *   56 u32 crc[]   WRITE only: one for each piece, a piece being what lies in one 4 KiB block:
 * crc32c_block() of the piece's bytes WRITE's data is the len bytes. READ's answer: body = u32
 * crc[] for each piece in the same way, data = len bytes (holes are zeros). ZERO makes the range
 * read as zeros and frees what whole blocks of it held.
 *
 * Status: 0; -EAGAIN not now, or not here (look at the newest map and try again); -ESTALE as
 * -EAGAIN, and the receiver's incarnation changed; -ENOENT no such image (any more); -ENOSPC;
 * -EINVAL; -EBADMSG a crc did not match, send again; -EPERM the client is fenced; -ECANCELED seq is
 * below the floor or outside the window (R10): never executed; -EBUSY: too much in flight, try
 * again.
 */

#ifndef NET_WIRE_OSD_H
#define NET_WIRE_OSD_H

#include "base/bytes.h"

enum { WIRE_OSD_WRITE = 1, WIRE_OSD_READ = 2, WIRE_OSD_ZERO = 3, WIRE_OSD_CLIENT_LAST = 19 };

enum {
    WIRE_BLOCK = 4096,
    WIRE_OSD_IO_SIZE = 56,     /* of the fixed part */
    WIRE_OSD_PIECES_MAX = 257, /* 1 MiB unaligned */
    WIRE_OSD_WINDOW = 1024,    /* seqs a client may have between its floor and its newest (R10) */
};

struct wire_osd_io {
    uint64_t image, object;
    uint32_t image_epoch, flags, offset, len;
    uint64_t client, seq, floor;
};

static inline void wire_osd_io_put(uint8_t *p, const struct wire_osd_io *io)
{
    put_u64(p, io->image);
    put_u64(p + 8, io->object);
    put_u32(p + 16, io->image_epoch);
    put_u32(p + 20, io->flags);
    put_u32(p + 24, io->offset);
    put_u32(p + 28, io->len);
    put_u64(p + 32, io->client);
    put_u64(p + 40, io->seq);
    put_u64(p + 48, io->floor);
}

static inline void wire_osd_io_get(const uint8_t *p, struct wire_osd_io *io)
{
    io->image = get_u64(p);
    io->object = get_u64(p + 8);
    io->image_epoch = get_u32(p + 16);
    io->flags = get_u32(p + 20);
    io->offset = get_u32(p + 24);
    io->len = get_u32(p + 28);
    io->client = get_u64(p + 32);
    io->seq = get_u64(p + 40);
    io->floor = get_u64(p + 48);
}

/* Pieces of [offset, offset + len), len > 0. */
static inline uint32_t wire_pieces(uint32_t offset, uint32_t len)
{
    return (offset + len - 1) / WIRE_BLOCK - offset / WIRE_BLOCK + 1;
}

#endif /* NET_WIRE_OSD_H */
