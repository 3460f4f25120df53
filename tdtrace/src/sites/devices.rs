//! What lies at a guest physical address or a port: `/proc/iomem`, `/proc/ioports`, PCI devices,
//! fixed ranges of the PC. Reads files below a root.

use std::{borrow::Cow, fs, path::Path};

use serde::Serialize;
use tdtrace_common::counters::Class;

use crate::{
    decode::bits::Hex,
    kernel::first_line,
    model::{places, sample::Isa},
};

/// Text of one file that is read at most.
const LIMIT: u64 = 16 << 20;
/// PCI devices that are read at most.
const DEVICES_LIMIT: usize = 1 << 16;
/// Base address registers of a device that count, the expansion ROM among them.
const BARS: usize = 7;

/// A named range of addresses, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    first: u64,
    last: u64,
    /// How many ranges it lies in.
    depth: usize,
    name: String,
}

/// A PCI device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pci {
    address: String,
    vendor: u16,
    device: u16,
    class: u32,
    driver: Option<String>,
    /// First and last address and flags, by number of the BAR.
    bars: Vec<(u64, u64, u64)>,
}

/// The devices of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    memory: Vec<Resource>,
    ports: Vec<Resource>,
    pci: Vec<Pci>,
    /// Why some of it is not known.
    pub note: Option<String>,
}

/// What lies at an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The address without the shared bit, or the port.
    pub address: Hex,
    /// The PCI device, such as `0000:00:04.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
    /// Its vendor and device, such as `8086:10d3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its class, such as `0x020000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The driver that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Its base address register, 0 to 5; 6 is the expansion ROM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bar: Option<u8>,
    /// How far behind the beginning of the BAR, or of the innermost named range, the address lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<Hex>,
    /// Names of the ranges that it lies in, the outermost first, from `/proc/iomem` or
    /// `/proc/ioports`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<String>,
    /// The name of a well-known place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<String>,
    /// Whether it is System RAM and no device.
    pub ram: bool,
}

impl Devices {
    /// Reads the devices of the machine at `root`. What cannot be read is left out, and said.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let memory = resources(&text(root, "proc/iomem"));
        let ports = resources(&text(root, "proc/ioports"));
        let hidden = !memory.is_empty() && memory.iter().all(|range| range.last == 0);
        let note = if hidden {
            Some("the kernel hides addresses in /proc/iomem; run as root".to_owned())
        } else if memory.is_empty() {
            Some("/proc/iomem cannot be read".to_owned())
        } else {
            None
        };
        let shown = |ranges: Vec<Resource>| if hidden { Vec::new() } else { ranges };
        Self { memory: shown(memory), ports: shown(ports), pci: pci(root), note }
    }

    /// What lies at the guest physical address `address`, which has no shared bit.
    #[must_use]
    pub fn at(&self, address: u64) -> Device {
        self.find(address, &self.memory, false)
    }

    /// What lies at `port`.
    #[must_use]
    pub fn at_port(&self, port: u16) -> Device {
        self.find(port.into(), &self.ports, true)
    }

    fn find(&self, address: u64, resources: &[Resource], port: bool) -> Device {
        let within: Vec<_> = resources
            .iter()
            .filter(|range| (range.first..=range.last).contains(&address))
            .collect();
        let class = if port { Class::PioIn } else { Class::MmioRead };
        let known = places::name(class, address, Isa::Vmx);
        let mut device = Device {
            address: Hex(address),
            ranges: within.iter().map(|range| range.name.clone()).collect(),
            offset: within.last().map(|range| Hex(address - range.first)),
            known: known.map(Cow::into_owned),
            ram: within.iter().any(|range| range.name.starts_with("System RAM")),
            ..Device::default()
        };
        let bar = self.pci.iter().find_map(|pci| Some((pci, pci.bar(address, port)?)));
        if let Some((pci, (number, first))) = bar {
            device.pci = Some(pci.address.clone());
            device.id = Some(format!("{:04x}:{:04x}", pci.vendor, pci.device));
            device.class = Some(format!("{:#08x}", pci.class));
            device.driver.clone_from(&pci.driver);
            device.bar = Some(number);
            device.offset = Some(Hex(address - first));
        }
        device
    }
}

impl Device {
    /// It on one line.
    #[must_use]
    pub fn line(&self) -> String {
        let offset = self.offset.map_or(String::new(), |offset| format!("+{offset}"));
        let mut line = match (&self.pci, self.bar) {
            (Some(pci), Some(bar)) => {
                let text = |part: &Option<String>| part.clone().unwrap_or_default();
                let driver = match &self.driver {
                    Some(driver) => format!(", driver {driver}"),
                    None => ", no driver".into(),
                };
                format!(
                    "{pci} BAR{bar}{offset} [{}] class {}{driver}",
                    text(&self.id),
                    text(&self.class)
                )
            }
            _ => match (&self.known, self.ranges.last()) {
                (Some(known), _) => known.clone(),
                (None, Some(range)) => format!("{range}{offset}"),
                (None, None) => "nothing that is known".into(),
            },
        };
        if self.ram {
            line += " (shared RAM, not a device)";
        }
        line
    }
}

impl Pci {
    /// The BAR that `address` lies in, and where that begins.
    fn bar(&self, address: u64, port: bool) -> Option<(u8, u64)> {
        /// `IORESOURCE_IO` and `IORESOURCE_MEM` (`include/linux/ioport.h`).
        const IO: u64 = 0x100;
        const MEM: u64 = 0x200;
        let kind = if port { IO } else { MEM };
        self.bars.iter().take(BARS).zip(0..).find_map(|(&(first, last, flags), number)| {
            let fits = flags & kind != 0 && first != 0 && (first..=last).contains(&address);
            fits.then_some((number, first))
        })
    }
}

/// The text of a file below `root`; empty if it cannot be read.
fn text(root: &Path, path: &str) -> String {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = fs::File::open(root.join(path));
    // What was read before an error counts.
    drop(file.map(|file| file.take(LIMIT).read_to_end(&mut bytes)));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads lines such as `  fed00000-fed003ff : HPET 0`; two blanks more a level.
fn resources(text: &str) -> Vec<Resource> {
    let line = |line: &str| {
        let (range, name) = line.split_once(" : ")?;
        let depth = (range.len() - range.trim_start().len()) / 2;
        let (first, last) = range.trim().split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let name = first_line(name);
        Some(Resource { first: number(first)?, last: number(last)?, depth, name })
    };
    let mut resources: Vec<Resource> = text.lines().filter_map(line).collect();
    // The file is in this order already; where it is not, look-ups still name the outermost first.
    resources.sort_by_key(|range| range.depth);
    resources
}

fn pci(root: &Path) -> Vec<Pci> {
    let dir = root.join("sys/bus/pci/devices");
    let Ok(entries) = fs::read_dir(&dir) else { return Vec::new() };
    let names = entries.flatten().take(DEVICES_LIMIT).map(|entry| entry.file_name());
    let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    names.into_iter().filter_map(|name| device(&dir.join(&name), &name)).collect()
}

fn device(dir: &Path, address: &str) -> Option<Pci> {
    let number = |name: &str| {
        let text = text(dir, name);
        u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    };
    let driver = fs::read_link(dir.join("driver")).ok();
    let driver = driver.and_then(|path| Some(first_line(path.file_name()?.to_str()?)));
    let bar = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let mut word = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        Some((word()?, word()?, word()?))
    };
    let bars = text(dir, "resource")
        .lines()
        .take(BARS)
        .map(|line| bar(line).unwrap_or_default())
        .collect();
    Some(Pci {
        address: first_line(address),
        vendor: number("vendor")? as u16,
        device: number("device")? as u16,
        class: number("class")?,
        driver,
        bars,
    })
}
