//! SEAMCALLs: which wrappers are attached to, and what the programs on them counted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf,
    maps::{HashMap, PerCpuArray},
    programs::links::FdLink,
};
use tdtrace_common::seam::{
    FUNCTIONS, NO_ARGUMENT, SeamEntry, SeamEntryKey, SeamStats, SeamStatusKey, WRAPPERS, Wrapper,
};

use super::{load::Loaded, losses::misses};
use crate::{
    kernel::seam::NO_WRAPPERS,
    model::{
        latency::Histogram,
        seam::{Failure, FunctionSample, SeamSample},
    },
    probe::guest::Pair,
    source::function::{self, Function},
};

/// Entries of the map of values: one for every function, or one that nobody uses.
pub(super) const STATS: u32 = FUNCTIONS as u32;
/// Entries of the map of statuses: a wrapper has few, and one for each busy operand.
pub(super) const STATUSES: u32 = 2048;
/// Calls that can run at the same time: one a thread, and those of interrupts.
pub(super) const ENTRIES: u32 = 4096;

/// Longer than any wrapper takes, its thread's waits for a CPU included.
const LONGEST: Duration = Duration::from_secs(60);

/// Where the programs on the wrappers stand.
#[derive(Default)]
pub(super) struct Seam {
    /// Why none is attached.
    absent: Option<Arc<str>>,
    /// By number of the function; empty before attaching.
    functions: Vec<Attached>,
}

/// One wrapper.
#[derive(Default)]
struct Attached {
    /// Why it is not.
    missing: Option<Arc<str>>,
    /// The program at its return, if it is attached.
    exit: Option<&'static str>,
    /// Links of both, if they are kprobes: dropping one detaches it.
    links: Vec<(&'static str, FdLink)>,
    /// What was missed when the counting began.
    before: u64,
}

impl Loaded {
    /// Attaches to the wrappers. None of them is needed: what cannot be attached is listed. `btf` is the
    /// kernel's, or why there is none.
    pub(super) fn attach_seam(&mut self, btf: Result<&Btf, &String>) {
        if !self.has_wrappers {
            self.seam.absent = Some(NO_WRAPPERS.into());
            return;
        }
        for wrapper in WRAPPERS {
            let attached = self.attach_wrapper(wrapper, wrapper.name, btf);
            self.seam.functions.push(attached);
        }
        if self.seam.functions.iter().all(|function| function.exit.is_none()) {
            let why = self.seam.functions.first().and_then(|function| function.missing.clone());
            let why = why.unwrap_or_default();
            self.seam.absent =
                Some(format!("no SEAMCALL wrapper can be attached to: {why}").into());
        }
    }

    /// Lets every wrapper count what the program `twin` is told, which is only run.
    pub(crate) fn run_seam(&mut self, twin: &'static str) {
        let told = |_| Attached { exit: Some(twin), ..Attached::default() };
        self.seam.functions = WRAPPERS.iter().map(told).collect();
    }

    /// Attaches the programs of `wrapper` to the function `name` instead, by fentry or by kprobe.
    ///
    /// # Errors
    /// Why they cannot be.
    pub(crate) fn attach_wrapper_to(
        &mut self,
        wrapper: &Wrapper,
        name: &'static str,
        by_fentry: bool,
    ) -> Result<()> {
        let btf = Btf::from_sys_fs()?;
        let no = "kprobes were asked for".to_owned();
        let attached =
            self.attach_wrapper(wrapper, name, if by_fentry { Ok(&btf) } else { Err(&no) });
        if let Some(why) = &attached.missing {
            bail!("{why}");
        }
        let number = WRAPPERS.iter().position(|other| other.name == wrapper.name);
        let place = number.and_then(|number| self.seam.functions.get_mut(number));
        *place.context("there is no such wrapper")? = attached;
        self.begin_seam()
    }

    /// Attaches the programs of `wrapper` to the function `name`.
    fn attach_wrapper(
        &mut self,
        wrapper: &Wrapper,
        name: &'static str,
        btf: Result<&Btf, &String>,
    ) -> Attached {
        let [fentry, fexit, kprobe, kretprobe] = wrapper.programs;
        let pair = |entry, exit| Some(Pair { entry: Some(entry), exit });
        let function = Function {
            name,
            module: None,
            fentry: pair(fentry, fexit),
            kprobe: pair(kprobe, kretprobe),
        };
        let attached = function::attach(&mut self.ebpf, function, btf.map_err(String::as_str));
        let exit = attached.how.and_then(|_| attached.programs.last().copied());
        Attached {
            missing: if exit.is_some() { None } else { attached.why.map(Into::into) },
            exit,
            links: attached.kprobes,
            before: 0,
        }
    }

    /// What is missed from now on is what was not counted.
    pub(super) fn begin_seam(&mut self) -> Result<()> {
        let missed: Vec<u64> = self
            .seam
            .functions
            .iter()
            .map(|it| self.missed_by_wrapper(it))
            .collect::<Result<_>>()?;
        for (function, missed) in self.seam.functions.iter_mut().zip(missed) {
            function.before = missed;
        }
        Ok(())
    }

    /// Returns that the probe of `function` missed since it was attached.
    fn missed_by_wrapper(&self, function: &Attached) -> Result<u64> {
        let Some(program) = function.exit.and_then(|name| self.ebpf.program(name)) else {
            return Ok(0);
        };
        let link = function.links.iter().find(|(name, _)| Some(*name) == function.exit);
        misses(program.fd()?, link.map(|(_, link)| link))
    }

    /// Removes calls that began so long before `now`, `CLOCK_MONOTONIC`, that their end was missed: their
    /// threads may make no other, and the room is limited. Without times there is nothing to tell them by.
    ///
    /// # Errors
    /// When the map is not there.
    pub(super) fn sweep_seam(&mut self, now: Duration) -> Result<()> {
        if self.seam.functions.is_empty() {
            return Ok(());
        }
        let limit = u64::try_from(now.saturating_sub(LONGEST).as_nanos()).unwrap_or(u64::MAX);
        let mut map =
            HashMap::<_, SeamEntryKey, SeamEntry>::try_from(self.any_mut("SEAM_ENTRIES")?)?;
        // The kernel begins anew behind a key that has gone meanwhile, so the list could go on and on.
        let entries = map.iter().take(ENTRIES as usize).flatten();
        let missed = entries.filter(|(_, entry)| (1..limit).contains(&entry.at));
        let keys: Vec<_> = missed.map(|(key, _)| key).collect();
        for key in keys {
            // Another call of the thread may just have taken it.
            let _ = map.remove(&key);
        }
        Ok(())
    }

    /// What was counted of every function.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub(crate) fn seam(&self) -> Result<SeamSample> {
        let absent = self.seam.absent.clone();
        if self.seam.functions.is_empty() {
            return Ok(SeamSample { absent, functions: Vec::new() });
        }
        let stats = PerCpuArray::<_, SeamStats>::try_from(self.any("SEAM_STATS")?)?;
        let mut statuses = self.statuses()?;
        let mut functions = Vec::with_capacity(WRAPPERS.len());
        for ((number, wrapper), attached) in (0..).zip(WRAPPERS).zip(&self.seam.functions) {
            let mut sample = FunctionSample {
                name: wrapper.name.into(),
                leaf: wrapper.leaf,
                missing: attached.missing.clone(),
                ..FunctionSample::default()
            };
            if attached.exit.is_some() {
                let values = stats.get(&number, 0).context("the map SEAM_STATS")?;
                let listed = statuses.remove(&u64::from(number)).unwrap_or_default();
                sample.missed = self.missed_by_wrapper(attached)?.saturating_sub(attached.before);
                sum(&mut sample, values.iter(), listed, wrapper.gpa != NO_ARGUMENT);
            }
            functions.push(sample);
        }
        Ok(SeamSample { absent, functions })
    }

    /// Results that are no success, by number of the function, then by status.
    fn statuses(&self) -> Result<BTreeMap<u64, BTreeMap<u64, u64>>> {
        let map = HashMap::<_, SeamStatusKey, u64>::try_from(self.any("SEAM_STATUSES")?)?;
        let mut statuses: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
        let entries: Result<Vec<_>, _> = map.iter().collect();
        for (key, count) in entries.context("the map SEAM_STATUSES")? {
            statuses.entry(key.function).or_default().insert(key.status, count);
        }
        Ok(statuses)
    }
}

/// Adds up the values of all CPUs.
fn sum<'a>(
    sample: &mut FunctionSample,
    values: impl Iterator<Item = &'a SeamStats>,
    mut statuses: BTreeMap<u64, u64>,
    has_gpa: bool,
) {
    let mut histogram = Histogram::default();
    let mut successes = 0;
    let mut failed_at = 0;
    for stats in values {
        sample.calls += stats.calls;
        successes += stats.successes;
        sample.unlisted += stats.unlisted;
        sample.unpaired += stats.unpaired;
        sample.ns += stats.ns;
        sample.max = sample.max.max(stats.max);
        sample.retried += stats.retried;
        sample.kick_ns += stats.kick_ns;
        for (level, more) in sample.levels.iter_mut().zip(stats.levels) {
            *level += more;
        }
        stats.buckets.iter().enumerate().for_each(|(index, count)| histogram.add(index, *count));
        if stats.failure != 0 && stats.failure_at >= failed_at {
            failed_at = stats.failure_at;
            let gpa = has_gpa.then_some(stats.failure_gpa);
            sample.failure = Some(Failure { status: stats.failure, gpa });
        }
    }
    if successes > 0 {
        statuses.insert(0, successes);
    }
    sample.statuses = statuses.into_iter().collect();
    sample.histogram = histogram;
}
