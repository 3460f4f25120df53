//! Where code lies and what an address belongs to, found out once for each. Reads files.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::Result;
use tdtrace_common::guest::{VE_USER, VeKey};

use crate::{
    kernel::symbols::Symbols,
    model::guest::{aggregate::object, shared_bit::SharedBit, snapshot::Object},
    sites::{
        Options, Site as Code, Sites,
        devices::{Device, Devices},
    },
};

/// Addresses of code that are looked up at once: debug information takes milliseconds an address.
const AT_ONCE: usize = 256;

/// What has been found out.
pub(super) struct Known {
    options: Options,
    sites: Option<Sites>,
    pub(super) code: BTreeMap<u64, Arc<Code>>,
    pub(super) devices: BTreeMap<Object, Arc<Device>>,
    pub(super) symbols: Arc<str>,
}

impl Known {
    pub(super) fn new(options: Options, symbols: &Result<Arc<Symbols>>) -> Self {
        let mut known = Self {
            options,
            sites: None,
            code: BTreeMap::new(),
            devices: BTreeMap::new(),
            symbols: Arc::default(),
        };
        known.open(symbols);
        known
    }

    fn open(&mut self, symbols: &Result<Arc<Symbols>>) {
        let opened = match symbols {
            Ok(symbols) => Sites::with_symbols(Arc::clone(symbols), self.options.clone())
                .map_err(|why| format!("{why:#}")),
            Err(why) => Err(format!("{why:#}")),
        };
        let (sites, text) = match opened {
            Ok(sites) => {
                let text = match sites.kernel_file() {
                    Ok(path) => format!("debug information of {}", path.display()),
                    Err(why) => format!("no debug information of the kernel: {why}"),
                };
                (Some(sites), text)
            }
            Err(why) => (None, format!("no symbols: {why}")),
        };
        self.sites = sites;
        self.symbols = text.into();
    }

    /// Modules came or went, and these are the symbols since.
    pub(super) fn modules_changed(&mut self, symbols: &Result<Arc<Symbols>>) {
        match (symbols, &mut self.sites) {
            (Ok(symbols), Some(sites)) => sites.modules_changed(Arc::clone(symbols)),
            _ => self.open(symbols),
        }
    }

    /// Looks up what is new among `keys`.
    pub(super) fn look_up<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a VeKey>,
        shared_bit: SharedBit,
    ) {
        let mut addresses = Vec::new();
        let mut objects = Vec::new();
        for key in keys {
            let is_kernel = key.mode & VE_USER == 0 && key.ip >> 63 == 1;
            if is_kernel && !self.code.contains_key(&key.ip) && addresses.len() < AT_ONCE {
                addresses.push(key.ip);
            }
            if let Some(object @ (Object::Page { .. } | Object::Port { .. })) =
                object(key, shared_bit)
                && !self.devices.contains_key(&object)
            {
                objects.push(object);
            }
        }
        if let Some(sites) = &mut self.sites {
            for address in addresses {
                self.code.entry(address).or_insert_with(|| Arc::new(sites.at(address)));
            }
        }
        if objects.is_empty() {
            return;
        }
        // A device may have come since the last look.
        let devices = Devices::read(Path::new(&self.options.root));
        for object in objects {
            let device = match object {
                Object::Page { gpa, .. } => devices.at(gpa.0),
                Object::Port { port, .. } => devices.at_port(port),
                Object::Msr { .. } | Object::Cpuid { .. } => continue,
            };
            self.devices.insert(object, Arc::new(device));
        }
    }
}
