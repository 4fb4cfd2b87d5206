#include <errno.h>

#include "base/text.h"
#include "gw/nbd.h"

/* Images by name, in order of id: the map may change between two steps of a listing. */

static int client_backend_open(struct nbd_backend *b, const char *name, struct client_image **image,
                               uint64_t *size)
{
    struct client *client = container_of(b, struct nbd_client_backend, base)->client;

    if (client_map(client) == NULL)
        return -EAGAIN;
    if (!name_is_valid(name))
        return -ENOENT;
    int error = client_image_open(client, name, image);
    if (error == 0)
        *size = client_image_size(*image);
    return error;
}

static void client_backend_close(struct nbd_backend *b, struct client_image *image)
{
    (void)b;
    client_image_close(image);
}

static bool client_backend_next(struct nbd_backend *b, uint64_t *cursor, char name[META_NAME_MAX])
{
    const struct map *map = client_map(container_of(b, struct nbd_client_backend, base)->client);
    uint32_t low = 0, high = map == NULL ? 0 : map->images_count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (map->images[mid].id <= *cursor)
            low = mid + 1;
        else
            high = mid;
    }
    if (map == NULL || low == map->images_count)
        return false;
    *cursor = map->images[low].id;
    return str_copy(name, META_NAME_MAX, map->images[low].name);
}

static void client_backend_submit(struct nbd_backend *b, struct client_op *op)
{
    client_op_start(container_of(b, struct nbd_client_backend, base)->client, op);
}

void nbd_client_backend_init(struct nbd_client_backend *b, struct client *client)
{
    *b = (struct nbd_client_backend){
        .base = {client_backend_open, client_backend_close, client_backend_next,
                 client_backend_submit},
        .client = client,
    };
}
