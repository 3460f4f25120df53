// SPDX-License-Identifier: GPL-2.0
/*
 * A driver for the network device that tdlab plays, written as drivers are: partly with the
 * accessors of io.h, partly through a struct laid over the registers, which in a TD works for plain
 * loads and stores and fails for everything else.
 */
#include <linux/etherdevice.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/string.h>

#include "tdlab_device.h"

#define LABNIC_RING 16

struct labnic_desc {
	u64 address;
	u16 length;
	u8 flags;
	u8 checksum;
	u32 status;
};

/* The registers. */
struct labnic_regs {
	u32 control;
	u32 status;
	u32 irq_mask;
	u32 irq_cause;
	u8 mac[8];
	u16 mtu;
	s16 temperature;
	u8 link;
	s8 signal;
	u16 head;
	u32 reserved[8];
	u64 dropped;
	u64 received;
	struct labnic_desc ring[LABNIC_RING];
	u8 buffer[256];
};

#define LABNIC_RESET 0x1
#define LABNIC_ENABLE 0x2
#define LABNIC_IRQ_RX 0x4

struct labnic {
	/* As drivers do it that were not written for I/O memory. */
	struct labnic_regs *regs;
	void __iomem *base;
	u8 mac[ETH_ALEN];
	u16 mtu;
	u64 dropped;
	s32 temperature;
	bool up;
	u8 received[128];
};

static struct labnic nic;

#define REG(field) (nic.base + offsetof(struct labnic_regs, field))

static noinline void labnic_reset(void)
{
	nic.regs->control = LABNIC_RESET;
	nic.regs->head = 0;
	writel(0, REG(irq_mask));
	writel(LABNIC_ENABLE, REG(control));
}

static noinline void labnic_read_mac(void)
{
	memcpy_fromio(nic.mac, REG(mac), ETH_ALEN);
	nic.mtu = nic.regs->mtu;
}

static noinline void labnic_enable_irq(void)
{
	/* Read, changed and written in one instruction. */
	nic.regs->irq_mask |= LABNIC_IRQ_RX;
}

static noinline void labnic_init_ring(void)
{
	static const struct labnic_desc empty;

	nic.regs->ring[0] = empty;
	memset_io(REG(ring[1]), 0, sizeof(struct labnic_desc));
}

static int labnic_probe(void __iomem *base)
{
	nic.base = base;
	nic.regs = (struct labnic_regs __force *)base;
	labnic_reset();
	labnic_read_mac();
	labnic_init_ring();
	labnic_enable_irq();
	nic.up = nic.regs->link != 0;
	return 0;
}

static noinline void labnic_ack(u32 cause)
{
	writel(cause, REG(irq_cause));
}

static void labnic_isr(void)
{
	u32 cause = readl(REG(irq_cause));

	if (nic.regs->status & LABNIC_IRQ_RX)
		cause |= LABNIC_IRQ_RX;
	labnic_ack(cause);
}

static void labnic_poll(void)
{
	u16 head = readw(REG(head));
	struct labnic_desc *desc = &nic.regs->ring[head % LABNIC_RING];

	/*
	 * By an accessor: the kernel's handler clears half of a register where movzwl clears all of it,
	 * and the length of a copy must not be made of the rest.
	 */
	u16 length = readw(&desc->length);

	desc->status = 1;
	/* How many bytes is not known to the compiler, so this is a call. */
	memcpy(nic.received, nic.regs->buffer, min_t(u16, length, sizeof(nic.received)));
	writew(head + 1, REG(head));
}

static void labnic_xmit(const void *frame, unsigned int length)
{
	memcpy_toio(REG(buffer), frame, min(length, 16u));
	writeq((uintptr_t)frame, REG(ring[2].address));
	nic.regs->ring[2].length = length;
	nic.regs->ring[2].flags = 1;
}

static void labnic_stat(void)
{
	nic.dropped += nic.regs->dropped;
	nic.temperature = nic.regs->temperature + nic.regs->signal;
	if (readq(REG(received)) == 0)
		nic.up = false;
}

static void labnic_remove(void)
{
	writel(0, REG(control));
	nic.regs->irq_mask = 0;
}

static const struct tdlab_driver labnic_driver = {
	.probe = labnic_probe,
	.isr = labnic_isr,
	.poll = labnic_poll,
	.xmit = labnic_xmit,
	.stat = labnic_stat,
	.remove = labnic_remove,
};

static int __init labnic_init(void)
{
	return tdlab_register_driver(&labnic_driver);
}

static void __exit labnic_exit(void)
{
	tdlab_unregister_driver(&labnic_driver);
}

module_init(labnic_init);
module_exit(labnic_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A driver with true struct overlays, for the guest lab");
