//! Reading and writing the maps of a guest.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap as BpfHashMap, Map, PerCpuArray, StackTraceMap};
use tdtrace_common::guest::{
    CallKey, CallValue, Entry, EntryKey, GuestControl, GuestLoss, GuestState, STACK_BESIDE,
    VE_REASONS, VeEvent, VeKey, VeStats, VeValue,
};

use super::{
    super::{counting::losses::recursion_misses, missed::missed},
    attach::{Attached, RUNNING},
};
use crate::model::guest::sample::GuestLosses;

/// Events that one look takes at most, so that it ends.
const BATCH: usize = 1 << 16;

impl Attached {
    fn map(&self, name: &str) -> Result<&Map> {
        self.ebpf.map(name).with_context(|| format!("the object has no map {name}"))
    }

    fn map_mut(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))
    }

    /// What the programs tell.
    pub(super) fn state(&self) -> Result<GuestState> {
        let map = Array::<_, GuestState>::try_from(self.map("GUEST_STATE")?)?;
        map.get(&0, 0).context("the map GUEST_STATE cannot be read")
    }

    /// Tells the programs.
    pub(super) fn set_control(&mut self, control: GuestControl) -> Result<()> {
        let mut map = Array::<_, GuestControl>::try_from(self.map_mut("GUEST_CONTROL")?)?;
        map.set(0, control, 0).context("the map GUEST_CONTROL cannot be written")
    }

    /// What was counted of each reason that occurred.
    pub(super) fn reasons(&self) -> Result<Vec<(usize, VeStats)>> {
        let map = PerCpuArray::<_, VeStats>::try_from(self.map("VE_STATS")?)?;
        let mut reasons = Vec::new();
        for index in 0..VE_REASONS {
            let values = map.get(&u32::try_from(index)?, 0).context("the map VE_STATS")?;
            let sum = values.iter().fold(VeStats::NOTHING, add);
            if sum.count > 0 {
                reasons.push((index, sum));
            }
        }
        Ok(reasons)
    }

    /// What was counted of each place, by key: a recording writes what is in another order anew.
    pub(super) fn places(&self) -> Result<Vec<(VeKey, VeValue)>> {
        let map = BpfHashMap::<_, VeKey, VeValue>::try_from(self.map("VE_PLACES")?)?;
        let places = map.iter().map(|entry| entry.context("the map VE_PLACES"));
        let mut places = places.collect::<Result<Vec<_>>>()?;
        places.sort_unstable_by_key(|(key, _)| *key);
        Ok(places)
    }

    /// What was counted of each operation and caller, by key.
    pub(super) fn calls(&self) -> Result<Vec<(CallKey, CallValue)>> {
        let map = BpfHashMap::<_, CallKey, CallValue>::try_from(self.map("CALLS")?)?;
        let calls = map.iter().map(|entry| entry.context("the map CALLS"));
        let mut calls = calls.collect::<Result<Vec<_>>>()?;
        calls.sort_unstable_by_key(|(key, _)| *key);
        Ok(calls)
    }

    /// The frames of a stack; empty if it is gone.
    pub(super) fn stack(&self, number: i32) -> Arc<[u64]> {
        let frames = || {
            let is_beside = number & STACK_BESIDE != 0;
            let name = if is_beside { "GUEST_STACKS_BESIDE" } else { "GUEST_STACKS" };
            let map = StackTraceMap::try_from(self.map(name).ok()?).ok()?;
            let stack = map.get(&u32::try_from(number & !STACK_BESIDE).ok()?, 0).ok()?;
            Some(stack.frames().iter().map(|frame| frame.ip).collect())
        };
        frames().unwrap_or_default()
    }

    /// Removes what #VEs left that were `unfinished` before and still are: their end was missed. Gives
    /// those that are unfinished now.
    pub(super) fn sweep(
        &mut self,
        unfinished: &HashMap<EntryKey, u64>,
    ) -> Result<HashMap<EntryKey, u64>> {
        let mut map = BpfHashMap::<_, EntryKey, Entry>::try_from(self.map_mut("VE_ENTRIES")?)?;
        // The kernel begins anew behind a key that has gone meanwhile, so the list could go on and on.
        let entries = map.iter().take(RUNNING as usize).flatten();
        let now: Vec<(EntryKey, u64)> = entries.map(|(key, entry)| (key, entry.sequence)).collect();
        let (stale, fresh): (Vec<_>, Vec<_>) =
            now.into_iter().partition(|(key, number)| unfinished.get(key) == Some(number));
        for (key, _) in stale {
            // It may just have ended.
            let _ = map.remove(&key);
        }
        Ok(fresh.into_iter().collect())
    }

    /// Events that are there.
    pub(super) fn events(&mut self) -> Vec<VeEvent> {
        let Some(ring) = &mut self.events else { return Vec::new() };
        let mut events = Vec::new();
        while events.len() < BATCH
            && let Some(item) = ring.next()
        {
            if item.len() == size_of::<VeEvent>() {
                // SAFETY: as long as the record, of which every bit pattern is one; maybe not aligned.
                events.push(unsafe { item.as_ptr().cast::<VeEvent>().read_unaligned() });
            }
        }
        events
    }

    /// What was not counted, skipped runs since the programs were loaded.
    pub(super) fn losses(&self) -> Result<GuestLosses> {
        let map = PerCpuArray::<_, u64>::try_from(self.map("GUEST_LOSSES")?)?;
        let mut losses = GuestLosses::default();
        for loss in GuestLoss::ALL {
            let values = map.get(&(loss as u32), 0).context("the map GUEST_LOSSES")?;
            let count = values.iter().sum();
            if count > 0 {
                losses.causes.push((loss, count));
            }
        }
        for name in &self.programs {
            if let Some(program) = self.ebpf.program(name) {
                let of_probe = self.kprobes.iter().find(|(other, _)| other == name);
                let of_probe = of_probe.and_then(|(_, link)| missed(link)).unwrap_or(0);
                losses.misses.push(((*name).into(), recursion_misses(program.fd()?)? + of_probe));
            }
        }
        Ok(losses)
    }
}

fn add(mut sum: VeStats, stats: &VeStats) -> VeStats {
    sum.count += stats.count;
    sum.failed += stats.failed;
    sum.user += stats.user;
    sum.own += stats.own;
    sum.unpaired += stats.unpaired;
    sum.ns += stats.ns;
    sum.max_ns = sum.max_ns.max(stats.max_ns);
    for (sum, count) in sum.buckets.iter_mut().zip(&stats.buckets) {
        *sum += count;
    }
    sum
}
