//! A TD guest from within: its #VEs, conversions, acceptance, quotes and bounces.
//!
//! [`attach`] loads the object and attaches the guest's programs, the host's are not loaded;
//! [`counters`] reads the maps, [`clock`] watches the clocksource, [`code`] finds out where the code lies
//! and what an address belongs to. Nobody wakes this up: it looks when
//! it is asked, since an IPI may itself be a #VE.

mod attach;
mod clock;
mod code;
mod counters;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use tdtrace_common::guest::{CallKey, CallValue, EntryKey, GuestControl, VeEvent, VeKey, VeValue};

use self::{attach::Attached, clock::Watch, code::Known};
use super::{GuestSource, monotonic};
use crate::{
    kernel::{guest, symbols::Symbols},
    model::guest::{
        sample::{GuestLosses, GuestSample},
        shared_bit::SharedBit,
    },
    sites,
};

pub use attach::Prefer;

/// What the guest source is asked to do differently.
#[derive(Clone, Debug)]
pub struct Options {
    /// Attach even if this is no TD.
    pub force: bool,
    /// How functions are attached to.
    pub prefer: Prefer,
    /// Stream each #VE; see [`GuestLive::events`].
    pub stream: bool,
    /// Places that can be counted.
    pub max_places: u32,
    /// The shared bit of a GPA, if the user knows it.
    pub shared_bit: Option<u32>,
    /// Where symbols and debug files are.
    pub files: sites::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            force: false,
            prefer: Prefer::Fentry,
            stream: false,
            max_places: 8192,
            shared_bit: None,
            files: sites::Options::default(),
        }
    }
}

/// How often [`GuestSource::tick`] is to be called, so that a change of the clocksource to one that a
/// #VE must not read is soon known.
pub const TICK: Duration = Duration::from_millis(20);

/// How long an unfinished #VE may be before it is taken for one whose end was missed.
const STALE: Duration = Duration::from_secs(2);

/// The running guest. Dropping it detaches.
pub struct GuestLive {
    attached: Attached,
    watch: Watch,
    control: GuestControl,
    began: Duration,
    symbols: Option<Arc<Symbols>>,
    /// The text of `/proc/modules` when the symbols were read.
    modules: String,
    names: BTreeMap<u64, Arc<str>>,
    stacks: BTreeMap<i32, Arc<[u64]>>,
    code: Known,
    shared_bit: Option<u32>,
    /// Skipped runs before the counting began.
    before: GuestLosses,
    /// Unfinished #VEs at the last look, with their number.
    unfinished: HashMap<EntryKey, u64>,
    swept: Duration,
}

impl GuestLive {
    /// Loads the programs, attaches what this kernel has and begins counting.
    ///
    /// # Errors
    /// Not a TD and not forced, no privilege, or a kernel where nothing can be attached: one sentence
    /// with the next step.
    pub fn open(options: Options) -> Result<Self> {
        let modules = modules();
        let symbols = symbols();
        let mut attached = attach::attach(&options, symbols.as_deref().ok())?;
        let watch = Watch::new(Path::new("/"));
        let before = attached.losses()?;
        let control = GuestControl {
            on: 1,
            clock: u64::from(watch.state().used),
            hpet: guest::hpet(Path::new("/")),
        };
        attached.set_control(control)?;
        let now = monotonic();
        Ok(Self {
            attached,
            watch,
            control,
            began: now,
            code: Known::new(options.files, &symbols),
            symbols: symbols.ok(),
            modules,
            names: BTreeMap::new(),
            stacks: BTreeMap::new(),
            shared_bit: options.shared_bit,
            before,
            unfinished: HashMap::new(),
            swept: now,
        })
    }

    /// #VEs that ended since this was called last, in the order in which they ended; none unless they
    /// are streamed.
    pub fn events(&mut self) -> Vec<VeEvent> {
        self.attached.events()
    }

    /// Where the shared bit is, as far as it is known by now.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn shared_bit(&self) -> Result<SharedBit> {
        Ok(match self.shared_bit {
            Some(bit) => SharedBit::Given(bit),
            None => SharedBit::from_mask(self.attached.state()?.cc_mask),
        })
    }

    /// Stops counting; what was counted stays readable.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn stop(&mut self) -> Result<()> {
        self.control.on = 0;
        self.attached.set_control(self.control)
    }

    /// Reads the stacks of `places` and `calls` and names the code in them, if that has not been done.
    fn look_up(&mut self, places: &[(VeKey, VeValue)], calls: &[(CallKey, CallValue)]) {
        let stacks = places.iter().map(|(_, value)| value.stack);
        for stack in stacks.chain(calls.iter().map(|(key, _)| key.stack)) {
            if stack >= 0 && !self.stacks.contains_key(&stack) {
                self.stacks.insert(stack, self.attached.stack(stack));
            }
        }
        let frames = self.stacks.values().flat_map(|frames| frames.iter().copied());
        let ips = places.iter().map(|(key, _)| key.ip);
        let addresses: Vec<u64> = ips.chain(frames).collect();
        self.name(&addresses);
    }

    /// Names those of `addresses` that have none yet. Modules may have come since the symbols were read.
    fn name(&mut self, addresses: &[u64]) {
        let is_new = |address: &u64| *address >> 63 == 1 && !self.names.contains_key(address);
        let new: Vec<u64> = addresses.iter().copied().filter(is_new).collect();
        if new.is_empty() {
            return;
        }
        let modules = modules();
        if modules != self.modules {
            self.modules = modules;
            let symbols = symbols();
            self.code.modules_changed(&symbols);
            self.symbols = symbols.ok();
        }
        let Some(symbols) = &self.symbols else { return };
        for address in new {
            if let Some(name) = symbols.name(address) {
                self.names.insert(address, name.into());
            }
        }
    }
}

impl GuestSource for GuestLive {
    fn sample(&mut self) -> Result<GuestSample> {
        let places = self.attached.places()?;
        let calls = self.attached.calls()?;
        let reasons = self.attached.reasons()?;
        self.look_up(&places, &calls);
        let shared_bit = self.shared_bit()?;
        self.code.look_up(places.iter().map(|(key, _)| key), shared_bit);
        let mut losses = self.attached.losses()?;
        for (name, count) in &mut losses.misses {
            *count = count.saturating_sub(self.before.missed(name));
        }
        Ok(GuestSample {
            at: monotonic().saturating_sub(self.began),
            release: Arc::clone(&self.attached.release),
            is_td: self.attached.is_td,
            probes: Arc::clone(&self.attached.probes),
            clock: self.watch.state().clone(),
            layout_assumed: self.attached.layout_assumed,
            shared_bit,
            reasons,
            places,
            calls,
            stacks: self.stacks.clone(),
            names: self.names.clone(),
            code: self.code.code.clone(),
            devices: self.code.devices.clone(),
            symbols: Arc::clone(&self.code.symbols),
            losses,
        })
    }

    /// Looks at the clocksource, attaches to modules that have come, and removes what #VEs left whose end
    /// was missed.
    fn tick(&mut self) -> Result<()> {
        if self.watch.look() {
            self.control.clock = u64::from(self.watch.state().used);
            self.attached.set_control(self.control)?;
        }
        let now = monotonic();
        self.attached.attach_modules(now)?;
        if now.saturating_sub(self.swept) >= STALE {
            self.swept = now;
            self.unfinished = self.attached.sweep(&self.unfinished)?;
            // A module may go and take its names with it.
            self.look_up(&self.attached.places()?, &self.attached.calls()?);
        }
        Ok(())
    }
}

/// The symbols of the running kernel.
fn symbols() -> Result<Arc<Symbols>> {
    Symbols::read(Path::new("/")).map(Arc::new)
}

/// The names and addresses of the loaded modules.
fn modules() -> String {
    std::fs::read_to_string("/proc/modules").unwrap_or_default()
}
