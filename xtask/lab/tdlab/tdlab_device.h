/* SPDX-License-Identifier: GPL-2.0 */
/* What a driver for the device that tdlab plays registers with. */
#ifndef TDLAB_DEVICE_H
#define TDLAB_DEVICE_H

#include <linux/compiler_types.h>

/* Called in this order, with the context that is said. */
struct tdlab_driver {
	/* Process context; `regs` is valid until remove. */
	int (*probe)(void __iomem *regs);
	/* Hard interrupt. */
	void (*isr)(void);
	/* Soft interrupt. */
	void (*poll)(void);
	/* Process context. */
	void (*xmit)(const void *frame, unsigned int length);
	void (*stat)(void);
	void (*remove)(void);
};

int tdlab_register_driver(const struct tdlab_driver *driver);
void tdlab_unregister_driver(const struct tdlab_driver *driver);

#endif
