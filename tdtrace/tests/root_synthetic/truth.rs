//! What must have been counted, computed from the events alone. Written without a look at the programs:
//! a vCPU's time line in plain arithmetic, buckets by the position of the highest bit.

use std::collections::BTreeMap;

/// Index of a return to the VMM among the classes of durations.
pub(crate) const RETURNS: u32 = 256;

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Unknown,
    Guest,
    Kernel,
    Vmm,
}

/// Durations of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Durations {
    /// kernel, VMM, halted, waiting.
    pub(crate) ns: [u64; 4],
    pub(crate) max: u64,
    pub(crate) buckets: BTreeMap<usize, u64>,
}

impl Durations {
    fn add(&mut self, ns: [u64; 4]) {
        let total = ns.iter().sum();
        for (sum, part) in self.ns.iter_mut().zip(ns) {
            *sum += part;
        }
        self.max = self.max.max(total);
        *self.buckets.entry(bucket(total)).or_default() += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (sum, part) in self.ns.iter_mut().zip(other.ns) {
            *sum += part;
        }
        self.max = self.max.max(other.max);
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
    }
}

/// Four to an octave from 128 ns on, the first down to 0, the last (111) without an end.
fn bucket(ns: u64) -> usize {
    if ns < 128 {
        return 0;
    }
    let octave = 63 - ns.leading_zeros() as usize;
    let quarter = (ns >> (octave - 2)) as usize % 4;
    (4 * (octave - 7) + quarter).min(111)
}

/// What must have been counted of one vCPU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    place: Place,
    since: u64,
    run_delay: u64,
    halted: u64,
    /// The exit that is not over: its class and its parts so far.
    exit: Option<(u32, [u64; 4])>,
    returned: Option<u32>,
    pub(crate) guest: u64,
    pub(crate) ns: [u64; 4],
    pub(crate) unpaired: u64,
    pub(crate) durations: BTreeMap<u32, Durations>,
    pub(crate) reasons: BTreeMap<u32, u64>,
    pub(crate) userspace: BTreeMap<u32, u64>,
    /// By class (name), address and size.
    pub(crate) places: BTreeMap<(&'static str, u64, u32), u64>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Truth {
    pub(crate) fn count(&mut self, class: &'static str) {
        *self.counts.entry(class).or_default() += 1;
    }

    pub(crate) fn place(&mut self, class: &'static str, address: u64, size: u32) {
        self.count(class);
        *self.places.entry((class, address, size)).or_default() += 1;
    }

    /// Of the phase that lasts, up to `now`: guest, kernel, VMM, halted, waiting. What a phase outside the
    /// guest was shows at its end; until then HLT is a halt and all else the kernel's.
    pub(crate) fn open(&self, now: u64) -> [u64; 5] {
        let halted = matches!(self.exit, Some((12 | 193, _)));
        let lasts = now - self.since;
        match self.place {
            Place::Unknown => [0; 5],
            Place::Guest => [lasts, 0, 0, 0, 0],
            Place::Kernel if halted => [0, 0, 0, lasts, 0],
            Place::Kernel => [0, lasts, 0, 0, 0],
            Place::Vmm => [0, 0, lasts, 0, 0],
        }
    }

    pub(crate) fn halt(&mut self, ns: u64) {
        self.halted += ns;
    }

    /// The phase that ends at `now`, if it was `place`: the time it took by part. If it was not, an event
    /// is missing, and how long the exit took that is not over will never be known.
    fn end(&mut self, place: Place, now: u64, run_delay: u64) -> Option<[u64; 4]> {
        if self.place != place {
            self.unpaired += u64::from(self.place != Place::Unknown);
            self.exit = None;
            return None;
        }
        let elapsed = now - self.since;
        if place == Place::Guest {
            self.guest += elapsed;
            return None;
        }
        let waiting = (run_delay - self.run_delay).min(elapsed);
        let rest = elapsed - waiting;
        let parts = if place == Place::Vmm {
            [0, rest, 0, waiting]
        } else {
            // A woken thread waits at the end of its halt.
            let halted = self.halted.min(elapsed).saturating_sub(waiting);
            [rest - halted, 0, halted, waiting]
        };
        for (sum, part) in self.ns.iter_mut().zip(parts) {
            *sum += part;
        }
        if let Some((_, so_far)) = &mut self.exit {
            for (sum, part) in so_far.iter_mut().zip(parts) {
                *sum += part;
            }
        }
        Some(parts)
    }

    fn begin(&mut self, place: Place, now: u64, run_delay: u64) {
        (self.place, self.since, self.run_delay, self.halted) = (place, now, run_delay, 0);
    }

    pub(crate) fn exits(&mut self, class: u32, now: u64, run_delay: u64) {
        self.end(Place::Guest, now, run_delay);
        self.count("exit");
        *self.reasons.entry(class).or_default() += 1;
        self.exit = Some((class, [0; 4]));
        self.begin(Place::Kernel, now, run_delay);
    }

    pub(crate) fn enters(&mut self, now: u64, run_delay: u64) {
        self.count("entry");
        let ended = self.end(Place::Kernel, now, run_delay);
        if let (Some(_), Some((class, parts))) = (ended, self.exit) {
            self.durations.entry(class).or_default().add(parts);
        }
        self.exit = None;
        self.begin(Place::Guest, now, run_delay);
    }

    pub(crate) fn returns(&mut self, reason: u32, now: u64, run_delay: u64) {
        self.count("userspace_exit");
        *self.userspace.entry(reason).or_default() += 1;
        self.end(Place::Kernel, now, run_delay);
        self.returned = Some(reason);
        self.begin(Place::Vmm, now, run_delay);
    }

    pub(crate) fn runs(&mut self, now: u64, run_delay: u64) {
        self.count("run_begin");
        let ended = self.end(Place::Vmm, now, run_delay);
        if let (Some(parts), Some(reason)) = (ended, self.returned) {
            self.durations.entry(RETURNS + reason).or_default().add(parts);
        }
        self.returned = None;
        self.begin(Place::Kernel, now, run_delay);
    }
}
