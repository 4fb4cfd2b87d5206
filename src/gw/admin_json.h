/* Rows of the cluster map as the API's JSON objects (DESIGN.md section 17: snake_case, *_bytes,
 * u64 ids as strings). Pure. */

#ifndef GW_ADMIN_JSON_H
#define GW_ADMIN_JSON_H

#include "gw/admin.h"
#include "gw/status.h"

json_t *admin_json_status(const struct status_report *r, const struct map *m,
                          const struct raft_core_status *raft, const char *node_name);
json_t *admin_json_node(const struct map_node *n, bool up, const struct raft_core_status *raft);
json_t *admin_json_osd(const struct map *m, const struct map_osd *o,
                       const struct admin_osd_row *row); /* row NULL: not served here */
json_t *admin_json_pool(const struct map *m, const struct map_pool *p);
json_t *admin_json_image(const struct map *m, const struct map_image *i, const char *nbd);

#endif /* GW_ADMIN_JSON_H */
