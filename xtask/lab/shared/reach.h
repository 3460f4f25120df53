/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Reaching what the kernel keeps for itself: symbols that are not exported, and read-only memory. Built
 * into the modules of both labs, for test VMs only.
 */
#ifndef REACH_H
#define REACH_H

#include <linux/types.h>

/* Before all else. */
int reach_init(void);
/* NULL, and a word about it, if the kernel has no such symbol. */
void *reach_symbol(const char *name);
/* Writes at most a page, through a second mapping; -ENOENT for address NULL. */
int reach_poke(void *address, const void *bytes, size_t length);

#endif
