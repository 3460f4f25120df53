//! Devices by what a #VE was about: the port, page, MSR or CPUID leaf.

use std::sync::Arc;

use super::{
    super::{
        Error,
        kind::Kind,
        row::{Key, Malformed, Row},
    },
    told::Told,
};
use crate::{decode::bits::Hex, model::guest::snapshot::Object, sites::devices::Device};

/// Bits of a port's index.
const PORT_IN: u32 = 1;
const PORT_STRING: u32 = 1 << 1;
const PORT_NO_SIZE: u32 = 1 << 2;

/// Devices.
pub(super) struct Devices;

impl Told for Devices {
    type Key = Object;
    type Begun = Device;
    type Value = Arc<Device>;
    const CLEARED: Kind = Kind::DevicesCleared;

    fn rows(object: &Object, device: &Arc<Device>) -> Result<Vec<Row>, Error> {
        let key = key(object)?;
        let mut rows = vec![Row { key, value: device.address.0, text: None }];
        rows.extend(said(device).into_iter().map(|mut row| {
            row.key.address = key.address;
            row
        }));
        Ok(rows)
    }

    fn begin(row: &Row) -> Result<Option<(Object, Device)>, Malformed> {
        let device = || Device { address: Hex(row.value), ..Device::default() };
        Ok(object(&row.key)?.map(|object| (object, device())))
    }

    fn take(_: &Object, device: &mut Device, row: &Row) -> Result<bool, Malformed> {
        let text = || row.as_text().to_owned();
        match row.key.kind {
            Kind::DevicePci => device.pci = Some(text()),
            Kind::DeviceId => device.id = Some(text()),
            Kind::DeviceClass => device.class = Some(text()),
            Kind::DeviceDriver => device.driver = Some(text()),
            Kind::DeviceBar => {
                let bar = u8::try_from(row.value);
                device.bar = Some(bar.map_err(|_| Malformed("a number that is too large"))?);
            }
            Kind::DeviceOffset => device.offset = Some(Hex(row.value)),
            Kind::DeviceRange => device.ranges.push(text()),
            Kind::DeviceKnown => device.known = Some(text()),
            Kind::DeviceRam => device.ram = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn name(row: &Row) -> &'static str {
        let index = row.key.index;
        match (row.key.kind, index) {
            (Kind::DevicePort, _) => match (index & PORT_IN != 0, index & PORT_STRING != 0) {
                (true, false) => "in",
                (false, false) => "out",
                (true, true) => "in string",
                (false, true) => "out string",
            },
            (Kind::DevicePage, 0) => "private",
            (Kind::DevicePage, 1) => "shared",
            (Kind::DevicePage, _) => "shared?",
            (Kind::DeviceMsr, 0) => "rdmsr",
            (Kind::DeviceMsr, _) => "wrmsr",
            _ => "",
        }
    }
}

/// The row that begins what is said of `object`.
fn key(object: &Object) -> Result<Key, Error> {
    let key = |kind, index, address| Key { kind, index, address, size: 0 };
    Ok(match *object {
        Object::Port { port, direction, size, string } => {
            let way = match direction {
                "in" => PORT_IN,
                "out" => 0,
                _ => return Err(Error::Unwritable(format!("a port's direction is {direction}"))),
            };
            let string = if string { PORT_STRING } else { 0 };
            let no_size = if size.is_none() { PORT_NO_SIZE } else { 0 };
            let key = key(Kind::DevicePort, way | string | no_size, port.into());
            Key { size: size.unwrap_or(0).into(), ..key }
        }
        Object::Page { gpa, shared } => key(Kind::DevicePage, shared.map_or(2, u32::from), gpa.0),
        Object::Msr { index, write } => key(Kind::DeviceMsr, write.into(), index.into()),
        Object::Cpuid { leaf, subleaf } => {
            key(Kind::DeviceCpuid, 0, u64::from(subleaf) << 32 | u64::from(leaf))
        }
    })
}

/// The object of a row that begins one.
fn object(key: &Key) -> Result<Option<Object>, Malformed> {
    let odd = Malformed("something that no #VE is about");
    let Key { kind, index, address, size } = *key;
    Ok(Some(match kind {
        Kind::DevicePort => Object::Port {
            port: u16::try_from(address).map_err(|_| odd)?,
            direction: if index & PORT_IN != 0 { "in" } else { "out" },
            size: match index & PORT_NO_SIZE {
                0 => Some(u8::try_from(size).map_err(|_| odd)?),
                _ => None,
            },
            string: index & PORT_STRING != 0,
        },
        Kind::DevicePage => {
            let shared = match index {
                0 => Some(false),
                1 => Some(true),
                2 => None,
                _ => return Err(odd),
            };
            Object::Page { gpa: Hex(address), shared }
        }
        Kind::DeviceMsr => {
            let index_of = u32::try_from(address).map_err(|_| odd)?;
            Object::Msr { index: index_of, write: index != 0 }
        }
        Kind::DeviceCpuid => {
            Object::Cpuid { leaf: address as u32, subleaf: (address >> 32) as u32 }
        }
        _ => return Ok(None),
    }))
}

/// What is said of `device`, without the object.
fn said(device: &Device) -> Vec<Row> {
    let Device { address: _, pci, id, class, driver, bar, offset, ranges, known, ram } = device;
    let mut rows = Vec::new();
    for (kind, text) in [
        (Kind::DevicePci, pci),
        (Kind::DeviceId, id),
        (Kind::DeviceClass, class),
        (Kind::DeviceDriver, driver),
    ] {
        rows.extend(text.as_ref().map(|text| Row::text(kind, 0, text)));
    }
    rows.extend(bar.map(|bar| Row::number(Kind::DeviceBar, 0, bar.into())));
    rows.extend(offset.map(|offset| Row::number(Kind::DeviceOffset, 0, offset.0)));
    rows.extend((0..).zip(ranges).map(|(index, name)| Row::text(Kind::DeviceRange, index, name)));
    rows.extend(known.as_ref().map(|name| Row::text(Kind::DeviceKnown, 0, name)));
    if *ram {
        rows.push(Row::number(Kind::DeviceRam, 0, 1));
    }
    rows
}
