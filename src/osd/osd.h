/*
 * One OSD: a store, its PGs and their protocol (DESIGN.md section 7; osd/README.md has the rules as
 * code follows them).
 *
 * Threading: one loop of its own; osd_status_post() is the only call from elsewhere.
 */

#ifndef OSD_OSD_H
#define OSD_OSD_H

#include "meta/meta.h"
#include "net/rpc.h"
#include "store/store.h"

struct osd;

struct osd_config {
    struct loop *loop;
    struct net *net; /* this loop's, self = NET_OSD/id; handle = osd_handle, peer_lost =
                        osd_peer_lost, resolve = osd_resolve */
    struct meta_access *meta;
    uint32_t id;
    uint32_t node;
    uint8_t cluster[16];
    const char *path;             /* of its store */
    uint32_t lease_ms;            /* L; 0: 3000 */
    uint32_t subwrite_timeout_ms; /* a member silent this long in a write is shrunk out; 0: 1200 */
    uint64_t scrub_period_s;      /* of its store, as is the rest; 0: no scrub */
    uint64_t scrub_rate;
    enum store_discard discard;
    /* Optional, on the osd's loop: it serves (registered), or it failed for good (error, a
     * sentence). */
    void (*serving)(void *arg, uint32_t osd, uint32_t incarnation);
    void (*failed)(void *arg, uint32_t osd, int error, const char *why);
    void *arg;
    uint32_t mutant; /* tests only: leave one rule out (enum osd_mutant); 0 in production */
};

enum osd_mutant {
    OSD_MUTANT_NONE,
    OSD_MUTANT_NO_LEASE_WAIT,     /* R6(a): a candidate does not wait for grants to run out */
    OSD_MUTANT_NO_BOOT_GRANT,     /* R6(a): what was granted before a restart is forgotten */
    OSD_MUTANT_NO_LEASE_CHECK,    /* R7: reads need no lease */
    OSD_MUTANT_READ_DURING_WRITE, /* R7: reads do not wait for writes of their range */
    OSD_MUTANT_ACK_BEFORE_ALL,    /* R2: one member besides the primary is enough */
    OSD_MUTANT_ACK_BEFORE_SHRINK, /* R5: who refuses connections is not waited for */
    OSD_MUTANT_NO_INCARNATION,    /* R3, R4: a restarted OSD goes on as the one before */
    OSD_MUTANT_NO_FENCE,          /* R3: members make no promises */
    OSD_MUTANT_NO_RECONCILE,      /* R6(c): activation copies nothing */
    OSD_MUTANT_STABLE_TOO_HIGH,   /* R8: W is not held back by writes in flight */
    OSD_MUTANT_LEFTOVERS_STAY,    /* R8: what only the returning member has is left to it */
    OSD_MUTANT_COPY_UNLOCKED,     /* R8: an object is written while its copy is under way */
    OSD_MUTANT_JOINER_NOT_NEEDED, /* R8, R9: writes do not wait for who is being recovered */
    OSD_MUTANT_NO_DEDUP,          /* R10: a retry is executed again */
    OSD_MUTANT_PURGE_JOINING,     /* R9: what is foreign goes, whoever brings it up to date */
    OSD_MUTANT_COUNT
};

/* Opens the store, registers its incarnation, then serves: all in the background. Call on its loop.
 */
int osd_open(const struct osd_config *config, struct osd **out);
void osd_close(struct osd *o); /* its loop has stopped or is dead */

void osd_handle(void *osd, struct rpc_request *req);
int osd_resolve(void *osd, net_endpoint e, struct loop_addr *out);
void osd_peer_lost(void *osd, net_endpoint e, uint32_t incarnation, int why);

/* Orderly stop: serve no more, release leases; done_msg is run (by loop_post to `to`) when nothing
 * is in flight. */
void osd_stop(struct osd *o, struct loop *to, struct loop_msg *done_msg);

struct osd_status {
    uint32_t id, incarnation;
    bool registered, failed;
    bool full; /* refuses what is new; what takes the place of what is there goes on */
    uint32_t pgs_primary, pgs_active, pgs_recovering;
    uint64_t recovery_objects_left;
    uint64_t writes_total, reads_total, subwrites_total, recovered_objects_total,
        repaired_objects_total, epochs_refused_total;
    struct store_status store;
};
void osd_status(struct osd *o, struct osd_status *out); /* on its loop */

/* Names a mutant for tests/sim. */
const char *osd_mutant_name(enum osd_mutant m);

#endif /* OSD_OSD_H */
