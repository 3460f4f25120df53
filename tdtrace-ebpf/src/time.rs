//! Where a vCPU's time goes, and how long its exits take.
//!
//! A vCPU is in the guest, in the kernel or in the VMM; each event that moves it from one to the other
//! books the phase that ends. What `kvm_vcpu_wakeup` reports is taken out of the kernel's time, and
//! so is the time in which the thread waited for a CPU. The durations of a class go into a row of
//! buckets of the vCPU's own, so that here, too, there is one writer.

use core::{
    hint::cold_path,
    sync::atomic::{Ordering, compiler_fence},
};

use tdtrace_common::latency::{
    BUCKETS, LATENCY_RETURNS, LatencyClass, LatencyRow, PARTS, Part, Phase, SLOT_ROWS, SlowEvent,
    Timing, bucket, row_start,
};

use crate::{
    constant::{is_timed, opaque},
    context::{self, Task},
    maps::{FREE_ROWS, SLOW, SLOW_LOST, add, fresh_row, latency_row_at, slower_than},
    slot::Slot,
};

/// The time, which a program takes first of all; 0 if none is taken at all. Reading the clock waits for all
/// that was begun before it, so what comes before it costs twice.
#[inline(always)]
pub(crate) fn early() -> u64 {
    if is_timed() { context::now() } else { 0 }
}

/// `kvm_exit` at `now`: the guest's time ends. `reason` is an index of `VcpuSlot::reasons`.
#[inline(always)]
pub(crate) fn exits(slot: &mut Slot, reason: usize, now: u64) {
    if !is_timed() {
        return;
    }
    let timing = open(slot);
    if is(timing, Phase::Guest) {
        timing.guest += elapsed(timing, now);
    } else {
        miss(timing);
    }
    begin(timing, Phase::Kernel, now, Task::current().run_delay());
    timing.exit = reason as u16 + 1;
    for part in 0..PARTS {
        // One by one: at once it is a call.
        // SAFETY: a word of the slot.
        unsafe { (&raw mut timing.parts[part]).write_volatile(0) };
    }
    close(slot);
}

/// `kvm_entry` at `now`: what the last exit led to is over.
#[inline(always)]
pub(crate) fn enters(slot: &mut Slot, now: u64) {
    if !is_timed() {
        return;
    }
    open(slot);
    if is(&slot.get().timing, Phase::Kernel) {
        book_kernel(slot, now, Task::current().run_delay());
    } else {
        miss(&mut slot.get().timing);
    }
    let timing = &mut slot.get().timing;
    let exit = core::mem::take(&mut timing.exit);
    timing.phase = Phase::Guest as u16;
    timing.since = now;
    if exit != 0 {
        let class = u32::from(exit) - 1;
        let row = row(slot, class);
        let parts = slot.get().timing.parts;
        record(slot, row, &parts);
        send_slow(slot, class, &parts);
    }
    close(slot);
}

/// `kvm_userspace_exit` at `now`: the VMM's time begins. `reason` is an index of `VcpuSlot::userspace`, `run_delay`
/// that of the thread.
#[inline(always)]
pub(crate) fn returns(slot: &mut Slot, reason: usize, now: u64, run_delay: u64) {
    if !is_timed() {
        return;
    }
    open(slot);
    if is(&slot.get().timing, Phase::Kernel) {
        book_kernel(slot, now, run_delay);
    } else {
        miss(&mut slot.get().timing);
    }
    let timing = &mut slot.get().timing;
    begin(timing, Phase::Vmm, now, run_delay);
    timing.returned = reason as u16 + 1;
    close(slot);
}

/// `kvm_fpu(1)` at `now`: the VMM's time ends.
#[inline(always)]
pub(crate) fn runs(slot: &mut Slot, now: u64, run_delay: u64) {
    if !is_timed() {
        return;
    }
    let timing = open(slot);
    let mut parts = [0; PARTS];
    if is(timing, Phase::Vmm) {
        let elapsed = elapsed(timing, now);
        let waiting = waited(timing, elapsed, run_delay);
        parts[Part::Vmm as usize] = elapsed - waiting;
        parts[Part::Waiting as usize] = waiting;
        book(timing, &parts);
    } else {
        miss(timing);
        timing.returned = 0;
    }
    let returned = core::mem::take(&mut timing.returned);
    let is_part_of_exit = timing.exit != 0;
    begin(timing, Phase::Kernel, now, run_delay);
    if returned != 0 {
        let class = LATENCY_RETURNS + u32::from(returned) - 1;
        let row = row(slot, class);
        record(slot, row, &parts);
        // An exit that lasts is sent as a whole when it is over.
        if !is_part_of_exit {
            send_slow(slot, class, &parts);
        }
    }
    close(slot);
}

/// `kvm_vcpu_wakeup`: of the phase that lasts, `ns` nanoseconds were a halt.
#[inline(always)]
pub(crate) fn halted(slot: &mut Slot, ns: u64) {
    if is_timed() {
        slot.get().timing.halted += ns;
    }
}

#[inline(always)]
fn is(timing: &Timing, phase: Phase) -> bool {
    timing.phase == phase as u16
}

/// The event before is missing, so the phase that ends has no time: it is not guessed. Neither is the
/// duration of an exit that the phase is a part of.
#[inline(always)]
fn miss(timing: &mut Timing) {
    cold_path();
    timing.exit = 0;
    if !is(timing, Phase::Unknown) {
        timing.unpaired += 1;
    }
}

#[inline(always)]
fn begin(timing: &mut Timing, phase: Phase, now: u64, run_delay: u64) {
    timing.phase = phase as u16;
    timing.since = now;
    timing.run_delay = run_delay;
    timing.halted = 0;
}

/// How long the phase has lasted at `now`, not negative. The clock of this CPU may be behind that of another.
#[inline(always)]
fn elapsed(timing: &Timing, now: u64) -> u64 {
    let elapsed = now.wrapping_sub(timing.since);
    // A comparison would be two jumps.
    elapsed & !opaque((elapsed as i64 >> 63) as usize) as u64
}

/// How much of the `elapsed` nanoseconds the thread waited for a CPU.
#[inline(always)]
fn waited(timing: &Timing, elapsed: u64, run_delay: u64) -> u64 {
    if run_delay <= timing.run_delay {
        return 0;
    }
    (run_delay - timing.run_delay).min(elapsed)
}

/// Books a phase in the kernel.
#[inline(always)]
fn book_kernel(slot: &mut Slot, now: u64, run_delay: u64) {
    let timing = &mut slot.get().timing;
    if run_delay.wrapping_sub(timing.run_delay) | timing.halted == 0 {
        let elapsed = elapsed(timing, now);
        book_one(timing, Part::Kernel, elapsed);
    } else {
        book_parts(slot.index(), now, run_delay);
    }
}

/// Books a phase in the kernel of slot `index` in which there was something else. A thread that a halt put to
/// sleep waits for a CPU when it is woken, and KVM reports that as halted: so waiting is taken out of the halts
/// first, then out of the kernel.
#[cold]
#[inline(never)]
fn book_parts(index: u32, now: u64, run_delay: u64) -> u32 {
    let Some(mut slot) = Slot::at(index) else { return 0 };
    let timing = &mut slot.get().timing;
    let elapsed = elapsed(timing, now);
    let waiting = waited(timing, elapsed, run_delay);
    let halted = timing.halted.min(elapsed);
    let mut parts = [0; PARTS];
    parts[Part::Waiting as usize] = waiting;
    parts[Part::Halted as usize] = halted.saturating_sub(waiting);
    parts[Part::Kernel as usize] = elapsed - halted.max(waiting);
    book(timing, &parts);
    0
}

#[inline(always)]
fn book_one(timing: &mut Timing, part: Part, ns: u64) {
    timing.ns[part as usize] += ns;
    if timing.exit != 0 {
        timing.parts[part as usize] += ns;
    }
}

#[inline(always)]
fn book(timing: &mut Timing, parts: &[u64; PARTS]) {
    for (part, ns) in parts.iter().enumerate() {
        timing.ns[part] += ns;
    }
    if timing.exit != 0 {
        for (part, ns) in parts.iter().enumerate() {
            timing.parts[part] += ns;
        }
    }
}

/// A duration, the sum of its `parts`, of the class that `row` is of.
#[inline(always)]
fn record(slot: &mut Slot, row: Option<&mut LatencyRow>, parts: &[u64; PARTS]) {
    let Some(row) = row else {
        slot.get().timing.rows_lost += 1;
        return;
    };
    let mut total = 0;
    for (part, ns) in parts.iter().enumerate() {
        row.ns[part] += ns;
        total += ns;
    }
    // The x86 CPU stores in order; this keeps the compiler from moving stores across.
    compiler_fence(Ordering::Release);
    if total > row.max {
        cold_path();
        row.max = total;
    }
    let index = opaque(bucket(total));
    if index < BUCKETS {
        row.buckets[index] = row.buckets[index].wrapping_add(1);
    }
}

/// Sends the duration that ended when the phase began that lasts, if it is longer than asked for. Halts are
/// left out: they last as long as the guest has nothing to do.
#[inline(always)]
fn send_slow(slot: &mut Slot, class: LatencyClass, parts: &[u64; PARTS]) {
    let limit = slower_than();
    if limit == 0 {
        return;
    }
    let halted = Part::Halted as usize;
    let rest = parts.iter().enumerate().filter(|(part, _)| *part != halted);
    if rest.map(|(_, ns)| ns).sum::<u64>() > limit {
        slot.get().timing.parts = *parts;
        send(slot.index(), class);
    }
}

/// Sends the duration whose parts stand in the slot's `timing`. Nobody is woken: the collector looks by
/// itself. Out of line: it is rare.
#[cold]
#[inline(never)]
fn send(index: u32, class: LatencyClass) -> u32 {
    const NO_WAKEUP: u64 = 1;
    let Some(mut slot) = Slot::at(index) else {
        return 0;
    };
    let Some(mut room) = SLOW.reserve::<SlowEvent>(0) else {
        if let Some(lost) = SLOW_LOST.get_ptr_mut(0) {
            add(lost, 1);
        }
        return 0;
    };
    let current = slot.get();
    let (life, tid) = (current.life, current.tid);
    let Timing { since: at, parts, .. } = current.timing;
    room.write(SlowEvent { at, parts, class, slot: index, life, tid });
    room.submit(NO_WAKEUP);
    0
}

/// The row of `class`, made if the vCPU has none.
#[inline(always)]
fn row<'a>(slot: &mut Slot, class: LatencyClass) -> Option<&'a mut LatencyRow> {
    if let Some(row) = row_at(&slot.get().rows[row_start(class)])
        && row.class == class + 1
    {
        return Some(row);
    }
    find_row(slot.index(), class)
}

/// The row that `entry`, of `VcpuSlot::rows` or on the stack, names; nobody's for 0.
#[inline(always)]
fn row_at<'a>(entry: &u32) -> Option<&'a mut LatencyRow> {
    // SAFETY: a value of the array map, written only by the thread of the vCPU that has it.
    Some(unsafe { latency_row_at(entry)?.as_mut() })
}

/// The row of `class` of slot `index`, made if the vCPU has none; `None` if there is no room. Out of line: for a
/// new class, and for one whose first place another has.
#[cold]
#[inline(never)]
fn find_row<'a>(index: u32, class: LatencyClass) -> Option<&'a mut LatencyRow> {
    let mut slot = Slot::at(index)?;
    for probe in 0..SLOT_ROWS {
        let place = opaque(row_start(class) + probe) & (SLOT_ROWS - 1);
        let entry = slot.get().rows[place];
        if entry == 0 {
            let entry = new_row(index, class);
            slot.get().rows[place] = entry;
            return row_at(&entry).filter(|row| row.class == class + 1);
        }
        if let Some(row) = row_at(&entry).filter(|row| row.class == class + 1) {
            return Some(row);
        }
    }
    None
}

#[inline(always)]
fn new_row(slot: u32, class: LatencyClass) -> u32 {
    let given_back = FREE_ROWS.pop().ok().flatten();
    // Beyond the last row there is none.
    let Some(index) = given_back.or_else(fresh_row) else {
        return 0;
    };
    let Some(row) = row_at(&index) else {
        return 0;
    };
    row.slot = slot;
    row.ns = [0; PARTS];
    row.max = 0;
    for index in 0..BUCKETS {
        row.buckets[index] = 0;
    }
    row.class = class + 1;
    index
}

/// Readers see from here on that the times are being written.
#[inline(always)]
fn open(slot: &mut Slot) -> &mut Timing {
    let timing = &mut slot.get().timing;
    timing.turns += 1;
    // The x86 CPU stores in order; this keeps the compiler from moving stores across.
    compiler_fence(Ordering::Release);
    timing
}

/// The times belong together again.
#[inline(always)]
fn close(slot: &mut Slot) {
    compiler_fence(Ordering::Release);
    slot.get().timing.turns += 1;
}
