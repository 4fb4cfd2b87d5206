/*
 * Intrusive doubly linked list. A list head and a link are the same struct; a
 * link that is on no list points at itself. Memory is always the caller's.
 */

#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>

#include "base/check.h"

struct list {
    struct list *prev;
    struct list *next;
};

#define list_for_each(pos, head) \
    for (struct list *pos = (head)->next; pos != (head); pos = pos->next)

static inline void list_init(struct list *l)
{
    l->prev = l;
    l->next = l;
}

/* True of an empty list, and of a link that is on no list. */
static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

/* Put `link` at the end. */
static inline void list_push(struct list *head, struct list *link)
{
    check(list_empty(link));

    link->prev = head->prev;
    link->next = head;
    head->prev->next = link;
    head->prev = link;
}

/* Put `link` at the front. */
static inline void list_push_front(struct list *head, struct list *link)
{
    list_push(head->next, link);
}

/* Take `link` off its list; harmless for a link that is on none. */
static inline void list_remove(struct list *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    list_init(link);
}

/* Take the first link off, NULL if there is none. */
static inline struct list *list_pop(struct list *head)
{
    if (list_empty(head))
        return NULL;

    struct list *link = head->next;
    list_remove(link);
    return link;
}

#endif /* BASE_LIST_H */
