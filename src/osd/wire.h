/*
 * What OSDs say to each other (endpoint NET_OSD/id, kinds 20..39). Bodies are
 * fixed little-endian. The frame's header carries pg, epoch, the receiver's
 * incarnation and the revision of the sender's map (R3).
 *
 * OSD_SUB_WRITE  primary -> member: apply one write.
 *    0 u64 image   8 u64 object  16 u64 version  24 u64 previous version of the object
 *   32 u64 W      40 u64 floor of tombstones     48 u64 client  56 u64 seq  64 u64 the client's
 * floor 72 u32 offset 76 u32 len (whole blocks)      80 u32 kind (1 write, 2 zero)  84 u32 0 88 u32
 * crc[len / 4096], write only. Data: len bytes, write only.
 *
 * OSD_LEASE      primary -> member: u32 count, u32 0, then per PG u64 pg, u32 epoch, u32 0, u64 W,
 * u64 floor (32 bytes). Answer: two bits per PG, lowest first: 0 refused, 1 granted, 2 granted and
 * the store is full. OSD_RELEASE    deposed primary -> member: u32 count, u32 0, then per PG u64
 * pg, u32 epoch, u32 0 (16 bytes): it uses no lease of these PGs at or below this epoch any more.
 *
 * OSD_QUERY      candidate -> member (R6b): no body. Answer: u64 W.
 * OSD_LIST       candidate or primary -> member: u64 above, u64 position[2], u32 started, u32 joins
 * (1: to bring the member up to date). Answer: u32 count, u32 more, u64 position[2], then per
 * object u64 image, object, version, u32 deleted, u32 dedups, then u64 client, seq, version each.
 * OSD_FETCH      candidate -> member: u64 image, u64 object, u64 dedups above. Answer: an object
 * state, see below; data: its blocks. OSD_PUSH       candidate or primary -> member: u64 number,
 * u32 how (1: activation, 2: recovery), u32 0, an object state; data: its blocks.
 *
 * An object state is
 *    0 u64 image  8 u64 object  16 u64 version  24 u32 deleted  28 u32 blocks  32 u32 dedups  36
 * u32 0 40 u64 dedups above   48 u64 present[4]     80 u32 crc[blocks], padded to 8, then u64
 * client, seq, version for each dedup.
 */

#ifndef OSD_WIRE_H
#define OSD_WIRE_H

#include "net/wire_osd.h"

enum {
    WIRE_SUB_WRITE = 20,
    WIRE_LEASE = 21,
    WIRE_RELEASE = 22,
    WIRE_QUERY = 23,
    WIRE_LIST = 24,
    WIRE_FETCH = 25,
    WIRE_PUSH = 26,
};

enum {
    WIRE_SUB_WRITE_SIZE = 88,
    WIRE_LEASE_HEAD = 8,
    WIRE_LEASE_ITEM = 32,
    WIRE_RELEASE_ITEM = 16,
    WIRE_LIST_SIZE = 32,
    WIRE_LIST_HEAD = 24,
    WIRE_LIST_ITEM = 32,
    WIRE_DEDUP_SIZE = 24,
    WIRE_FETCH_SIZE = 24,
    WIRE_PUSH_HEAD = 16,
    WIRE_STATE_SIZE = 80,
};

enum { WIRE_PUSH_ACTIVATION = 1, WIRE_PUSH_RECOVERY = 2 };

#endif /* OSD_WIRE_H */
