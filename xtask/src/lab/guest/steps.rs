//! The steps of the guest scenario: what runs in the VM, and what must come of it beside what every
//! step must fulfil. To add a step, add an entry to [`ALL`].

use anyhow::{Result, bail};

use super::{Seen, calls::BOUNCED, check, trace, truth::Context};

/// Where the module takes scenarios.
const RUN: &str = "/sys/kernel/debug/tdlab/run";

/// How often each shape is run.
const SHAPES: u64 = 3;
/// Shapes that the kernel emulates, and those that it does not (xtask/lab/tdlab/instructions.S).
const HANDLED_SHAPES: u64 = 26;
const FAILED_SHAPES: u64 = 12;
/// #VEs of a round of all shapes.
pub(super) const SHAPES_OF_A_ROUND: u64 = HANDLED_SHAPES + FAILED_SHAPES;
const USER_CPUIDS: u64 = 200;
const IRQ_ROUNDS: u64 = 200;
pub(super) const DRIVER_ROUNDS: u64 = 20;
/// Length of the quote that the module makes up; each byte is 7 times its number.
const QUOTE_BYTES: u32 = 4096;

/// What the steps can be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// #VEs of the step `storm`.
    pub(super) storm: u64,
}

/// The VMs that steps run in, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boot {
    /// Without devices.
    Plain,
    /// With a disk and a network card.
    Devices,
    /// With the same, whose memory the kernel takes for out of reach.
    Bounced,
}

impl Boot {
    /// All of them, in the order in which they run.
    pub(super) const ALL: [Self; 3] = [Self::Plain, Self::Devices, Self::Bounced];

    /// How the VM's directory begins.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "guest",
            Self::Devices => "guest-devices",
            Self::Bounced => "guest-bounced",
        }
    }

    /// What QEMU is told. The disk has no contents, and the network ends in QEMU.
    pub(super) fn devices(self) -> Vec<&'static str> {
        let card = match self {
            Self::Plain => return Vec::new(),
            Self::Devices => "virtio-net-pci,netdev=net,romfile=",
            // Without the last two it is trusted with addresses of its own.
            Self::Bounced => {
                "virtio-net-pci,netdev=net,romfile=,disable-legacy=on,iommu_platform=on"
            }
        };
        vec![
            "-blockdev",
            "driver=null-co,node-name=disk,size=16777216,read-zeroes=on",
            "-device",
            "nvme,serial=lab,drive=disk",
            "-netdev",
            "user,id=net,restrict=on",
            "-device",
            card,
        ]
    }

    /// Kernel parameters.
    pub(super) fn parameters(self) -> &'static str {
        match self {
            Self::Plain | Self::Devices => "",
            Self::Bounced => "swiotlb=force",
        }
    }
}

/// A step.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Its name, also that of its directory in the report.
    pub(super) name: &'static str,
    /// The VM that it runs in.
    pub(super) boot: Boot,
    /// Whether each #VE is compared, or only their numbers.
    pub(super) traced: bool,
    /// Whether it runs tdtrace itself, so that it needs one and runs in nothing.
    pub(super) tdtrace: bool,
    /// What the VM's shell runs.
    pub(super) command: fn(Sizes) -> String,
    /// What must have come of it.
    pub(super) check: fn(&Seen, Sizes) -> Result<()>,
}

/// All steps, in the order in which they run.
pub(super) const ALL: &[Step] = &[
    plain("shapes", |_| run("shapes", SHAPES), shapes),
    plain("user", |_| user_command(), user),
    plain("driver", |_| run("driver", DRIVER_ROUNDS), driver),
    Step { traced: false, tdtrace: true, ..plain("check", |_| check::command(), check::check) },
    plain("irq", |_| run("irq", IRQ_ROUNDS), irq),
    Step { traced: false, ..plain("storm", |sizes| run("storm", sizes.storm), storm) },
    plain("convert", |_| run("convert", 1), convert),
    plain("hpet", |_| hpet_command(), hpet),
    plain("quote", |_| quote_command(), quote),
    plain("oops", |_| oops_command(), oops),
    Step { boot: Boot::Devices, ..plain("devices", |_| devices_command(), devices) },
    Step { boot: Boot::Devices, ..plain("ports", |_| ports_command(), ports) },
    Step { boot: Boot::Bounced, ..plain("bounce", |_| bounce_command(), bounce) },
];

/// A traced step that needs no device.
const fn plain(
    name: &'static str,
    command: fn(Sizes) -> String,
    check: fn(&Seen, Sizes) -> Result<()>,
) -> Step {
    Step { name, boot: Boot::Plain, traced: true, tdtrace: false, command, check }
}

pub(super) fn run(scenario: &str, count: u64) -> String {
    format!("echo {scenario} {count} >{RUN}")
}

/// Two programs that end well, and two that must not: 139 is SIGSEGV.
fn user_command() -> String {
    format!(
        "echo user 1 >{RUN} && /lab/user cpuid {USER_CPUIDS} || exit 1; \
         for what in wbinvd in; do /lab/user $what; [ $? = 139 ] || exit 2; done; \
         echo user 0 >{RUN}"
    )
}

/// Time is read from the HPET, its registers are #VEs, and the clocksource changes back and forth.
fn hpet_command() -> String {
    format!(
        "c=/sys/devices/system/clocksource/clocksource0/current_clocksource; \
         before=$(cat $c); echo hpet >$c && [ $(cat $c) = hpet ] && echo hpet >{RUN} || exit 1; \
         sleep 0.3; echo $before >$c; sleep 0.1; echo hpet >$c; sleep 0.3; echo $before >$c; \
         [ $(cat $c) = $before ] && echo disarm >{RUN}"
    )
}

/// The real driver of a TD makes a quote buffer shared, asks for a quote and a report, and goes. Whoever
/// wants to probe it has a second for that.
fn quote_command() -> String {
    format!(
        "echo td 1 >{RUN} && echo feature 1 >{RUN} && \
         while read -r module; do insmod /lab/$module.ko || exit 1; done </lab/quote && sleep 1 && \
         mount -t configfs configfs /sys/kernel/config && r=/sys/kernel/config/tsm/report/lab && \
         mkdir $r && seq 100 199 | head -c 64 >$r/inblob && cat $r/outblob >$OUT/outblob && \
         cat $r/provider >$OUT/provider && /lab/user report && rmdir $r && rmmod tdx_guest && \
         echo feature 0 >{RUN} && echo td 0 >{RUN}"
    )
}

/// The shell that writes is the one that dies.
fn oops_command() -> String {
    format!("sh -c 'echo oops >{RUN}'; [ $? = 139 ] && echo 1 >/sys/kernel/debug/tdlab/survive")
}

/// The mappings of both devices are where the kernel says, each with a guard page behind it.
fn devices_command() -> String {
    format!(
        "while read -r module; do insmod /lab/$module.ko || exit 1; done </lab/net; \
         ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && \
         ping -c 1 -W 5 10.0.2.2 || exit 2; \
         grep -E 'nvme|vp_modern' /proc/vmallocinfo >$OUT/mappings; \
         while read -r range size _; do \
         echo arm 0x${{range%%-*}} $((size / 4096 - 1)) | sed s/0x0x/0x/ >{RUN} || exit 3; \
         done <$OUT/mappings; echo ioapic >{RUN} || exit 4; \
         ping -c 3 -i 0.2 -W 5 10.0.2.2 || exit 5; \
         dd if=/dev/nvme0n1 of=/dev/null bs=64k count=16 || exit 6; \
         for cpu in 1 2 1 2; do echo $cpu >/proc/irq/4/smp_affinity || exit 7; \
         echo the serial port interrupts CPU mask $cpu; sleep 0.1; done; \
         echo disarm >{RUN} && ping -c 1 -W 5 10.0.2.2"
    )
}

/// I/O of which tracefs counts the bounces; the card goes down so that none comes afterwards.
fn bounce_command() -> String {
    format!(
        "t=/sys/kernel/tracing/events/swiotlb/swiotlb_bounced; \
         echo 'hist:keys=force:vals=size' >$t/trigger || exit 1; \
         while read -r module; do insmod /lab/$module.ko || exit 2; done </lab/net; \
         ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && \
         ping -c 3 -i 0.2 -W 5 10.0.2.2 || exit 3; \
         dd if=/dev/nvme0n1 of=/dev/null bs=64k count=16 || exit 4; \
         dd if=/dev/zero of=/dev/nvme0n1 bs=64k count=4 conv=fsync || exit 5; \
         ip link set eth0 down; sleep 0.3; cat $t/hist >$OUT/{BOUNCED}"
    )
}

/// What reads PCI configuration and the clock.
fn ports_command() -> String {
    format!(
        "echo ports >{RUN} || exit 1; \
         for device in /sys/bus/pci/devices/*; do cat $device/config >/dev/null || exit 2; done; \
         hwclock -r; cat /proc/driver/rtc; echo disarm >{RUN}"
    )
}

pub(super) fn expect(what: &str, found: u64, expected: u64) -> Result<()> {
    if found != expected {
        bail!("{what}: {found} instead of {expected}");
    }
    Ok(())
}

fn shapes(seen: &Seen, _: Sizes) -> Result<()> {
    expect("handled", seen.totals.of("handled"), SHAPES * HANDLED_SHAPES)?;
    expect("failed", seen.totals.of("failed"), SHAPES * FAILED_SHAPES)
}

fn user(seen: &Seen, _: Sizes) -> Result<()> {
    expect("in user mode", seen.in_context(Context::User), USER_CPUIDS + 2)?;
    expect("handled", seen.totals.of("handled"), USER_CPUIDS)?;
    // Leaves outside of 0x4000_0000 are answered by the kernel itself.
    expect("TDVMCALLs for CPUID", seen.totals.of("vmcall.10"), USER_CPUIDS / 2)
}

fn driver(seen: &Seen, _: Sizes) -> Result<()> {
    expect("read-modify-write in labnic_enable_irq", seen.failed_in("labnic_enable_irq"), 1)?;
    expect(
        "in hard interrupts",
        seen.in_functions("labnic_isr", Context::Hardirq),
        2 * DRIVER_ROUNDS,
    )?;
    expect(
        "sign-extending loads and others in labnic_stat",
        seen.in_functions("labnic_stat", Context::Task),
        4 * DRIVER_ROUNDS,
    )?;
    if seen.in_context(Context::Softirq) < 4 * DRIVER_ROUNDS {
        bail!("{} #VEs in soft interrupts", seen.in_context(Context::Softirq));
    }
    Ok(())
}

fn irq(seen: &Seen, _: Sizes) -> Result<()> {
    expect("in hard interrupts", seen.in_context(Context::Hardirq), 2 * IRQ_ROUNDS)?;
    expect("in soft interrupts", seen.in_context(Context::Softirq), 2 * IRQ_ROUNDS)?;
    expect("failed", seen.totals.of("failed"), IRQ_ROUNDS)?;
    if seen.in_context(Context::Task) <= IRQ_ROUNDS {
        bail!("no #VE of the task while the timer ticked");
    }
    Ok(())
}

fn storm(seen: &Seen, sizes: Sizes) -> Result<()> {
    expect("raised", seen.totals.of("ve"), sizes.storm)?;
    expect("handled", seen.totals.of("handled"), sizes.storm)
}

fn convert(seen: &Seen, _: Sizes) -> Result<()> {
    expect("raised", seen.totals.of("ve"), 0)?;
    // A page; 2 MiB in two parts each way; refused, and made private again.
    expect("TDVMCALLs MapGPA", seen.totals.of("vmcall.65537"), 2 + 4 + 2)?;
    expect("MapGPA that had to go on or was refused", seen.totals.of("vmcall.65537.failed"), 3)?;
    expect("accepts", seen.totals.of("tdcall.6"), 1 + 513 + 4)?;
    expect("accepts that were refused", seen.totals.of("tdcall.6.failed"), 1)
}

fn hpet(seen: &Seen, _: Sizes) -> Result<()> {
    let read = |context| seen.in_functions("read_hpet", context);
    if read(Context::Task) == 0 || read(Context::Hardirq) == 0 {
        bail!(
            "read_hpet in tasks {}, in hard interrupts {}",
            read(Context::Task),
            read(Context::Hardirq)
        );
    }
    expect("failed", seen.totals.of("failed"), 0)
}

fn quote(seen: &Seen, _: Sizes) -> Result<()> {
    expect("TDVMCALLs GetQuote", seen.totals.of("vmcall.65538"), 1)?;
    // The driver of later kernels takes one for the measurement registers when it is loaded.
    let reports = seen.totals.of("tdcall.4");
    if ![2, 3].contains(&reports) {
        bail!("{reports} reports of the TDX module");
    }
    expect("TDVMCALLs MapGPA", seen.totals.of("vmcall.65537"), 2)?;
    // The buffer has 8 KiB in 6.12 and 128 KiB later (GET_QUOTE_BUF_SIZE of tdx-guest.c).
    let accepts = seen.totals.of("tdcall.6");
    if ![2, 32].contains(&accepts) {
        bail!("{accepts} pages of the quote buffer were accepted");
    }
    let outblob: Vec<u8> = (0..QUOTE_BYTES).map(|at| (at * 7 % 256) as u8).collect();
    if seen.files.get("outblob") != Some(&outblob) {
        bail!("the quote is not what the VMM wrote");
    }
    match seen.files.get("provider") {
        Some(name) if name == b"tdx_guest\n" => Ok(()),
        other => bail!("the quote comes from {other:?}"),
    }
}

fn oops(seen: &Seen, _: Sizes) -> Result<()> {
    expect("raised", seen.totals.of("ve"), 1)?;
    expect("not come back", seen.open(), 1)
}

fn devices(seen: &Seen, _: Sizes) -> Result<()> {
    let anywhere = |function| {
        [Context::Task, Context::Softirq, Context::Hardirq]
            .map(|context| seen.in_functions(function, context))
            .iter()
            .sum::<u64>()
    };
    // The compiler splits the first off in some kernels.
    let submitted = anywhere("nvme_submit_cmds.part.0") + anywhere("nvme_submit_cmds");
    for (what, count) in [
        ("the disk's submission doorbell", submitted + anywhere("nvme_queue_rq")),
        ("nvme_poll_cq in hard interrupts", seen.in_functions("nvme_poll_cq", Context::Hardirq)),
        ("iowrite16 of the network card", anywhere("iowrite16")),
        ("ioapic_configure_entry", anywhere("ioapic_configure_entry")),
        ("mask_ioapic_irq", anywhere("mask_ioapic_irq")),
    ] {
        if count == 0 {
            bail!("no #VE of {what}");
        }
    }
    expect("failed", seen.totals.of("failed"), 0)
}

fn bounce(seen: &Seen, _: Sizes) -> Result<()> {
    expect("raised", seen.totals.of("ve"), 0)?;
    let histogram = seen.files.get(BOUNCED).map_or(Ok(""), |bytes| str::from_utf8(bytes))?;
    let (count, bytes) = trace::sum(histogram, "size")?;
    // What was read and written, and the network's packets.
    if count < 20 || bytes < 20 * 65536 {
        bail!("{count} bounces of {bytes} bytes");
    }
    Ok(())
}

fn ports(seen: &Seen, _: Sizes) -> Result<()> {
    for function in ["pci_conf1_read", "rtc_cmos_read"] {
        if seen.in_functions(function, Context::Task) == 0 {
            bail!("no #VE of {function}");
        }
    }
    expect("failed", seen.totals.of("failed"), 0)
}
