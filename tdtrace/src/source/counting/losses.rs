//! What was not counted: the programs' own counter of causes, and the runs that the kernel skipped.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd as _},
};

use anyhow::{Context as _, Result};
use aya::{
    maps::PerCpuArray,
    programs::{ProgramFd, links::FdLink},
};
use tdtrace_common::counters::{Class, Loss};

use crate::{model::sample::Losses, source::missed::missed};

/// What the programs lost by cause and class, and what belongs to no vCPU, summed over the CPUs.
pub(super) fn read<M: std::borrow::Borrow<aya::maps::MapData>>(
    losses: &PerCpuArray<M, u64>,
) -> Result<Losses> {
    let mut read = Losses::default();
    for loss in Loss::ALL {
        for class in Class::ALL {
            let values = losses.get(&loss.index(class), 0).context("the map of losses")?;
            match (loss, values.iter().sum()) {
                (_, 0) => {}
                (Loss::Outside, count) => read.outside.push((class, count)),
                (loss, count) => read.causes.push((loss, class, count)),
            }
        }
    }
    Ok(read)
}

/// Runs of a program that the kernel skipped, because the program was running on that CPU already
/// (`recursion_misses` in the fdinfo of its file descriptor; `kernel/bpf/syscall.c:bpf_prog_show_fdinfo`).
pub(in crate::source) fn recursion_misses(program: &ProgramFd) -> Result<u64> {
    fdinfo(program, "recursion_misses")
}

/// What a program on a function missed: runs that the kernel skipped, and hits of the kprobe behind `link`,
/// if it is one.
pub(super) fn misses(program: &ProgramFd, link: Option<&FdLink>) -> Result<u64> {
    Ok(recursion_misses(program)? + link.and_then(missed).unwrap_or(0))
}

/// Bytes that a map takes (`kernel/bpf/syscall.c:bpf_map_show_fdinfo`).
pub(super) fn memlock(map: &impl AsFd) -> Result<u64> {
    fdinfo(map, "memlock")
}

fn fdinfo(fd: &impl AsFd, field: &str) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = fs::read_to_string(&path)
        .with_context(|| format!("{path} cannot be read; mount proc at /proc"))?;
    number(&text, field).with_context(|| format!("{path} has no {field}"))
}

/// Takes `before` out of `losses`, which were read from the same places later.
pub(super) fn subtract(losses: &mut Losses, before: &Losses) {
    for (loss, class, count) in &mut losses.causes {
        let same = before.causes.iter().find(|(l, c, _)| l == loss && c == class);
        *count = count.saturating_sub(same.map_or(0, |(_, _, before)| *before));
    }
    losses.causes.retain(|(.., count)| *count > 0);
    for (class, count) in &mut losses.outside {
        let same = before.outside.iter().find(|(c, _)| c == class);
        *count = count.saturating_sub(same.map_or(0, |(_, before)| *before));
    }
    losses.outside.retain(|(_, count)| *count > 0);
    for ((_, count), (_, before)) in losses.misses.iter_mut().zip(&before.misses) {
        *count = count.saturating_sub(*before);
    }
}

fn number(fdinfo: &str, field: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok();
    fdinfo.lines().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_before_is_taken_out_by_cause_and_probe() {
        let before = Losses {
            causes: vec![(Loss::Unattributed, Class::PioIn, 3), (Loss::SlotsFull, Class::Exit, 5)],
            misses: vec![("kvm_pio".to_owned(), 1)],
            outside: vec![(Class::InterruptPosted, 2), (Class::SpteChanged, 1)],
            ..Losses::default()
        };
        let mut losses = Losses {
            causes: vec![
                (Loss::Unattributed, Class::PioIn, 4),
                (Loss::Unattributed, Class::PioOut, 2),
                (Loss::SlotsFull, Class::Exit, 5),
            ],
            misses: vec![("kvm_pio".to_owned(), 9)],
            hotspots: 7,
            outside: vec![(Class::SpteChanged, 6), (Class::InterruptPosted, 2)],
            ..Losses::default()
        };
        subtract(&mut losses, &before);
        let expected =
            [(Loss::Unattributed, Class::PioIn, 1), (Loss::Unattributed, Class::PioOut, 2)];
        assert_eq!(losses.causes, expected);
        assert_eq!(losses.misses, [("kvm_pio".to_owned(), 8)]);
        assert_eq!(losses.hotspots, 7);
        assert_eq!(losses.outside, [(Class::SpteChanged, 5)]);
    }

    #[test]
    fn misses_are_read_from_fdinfo() {
        let text =
            "pos:\t0\nprog_type:\t17\nrun_cnt:\t0\nrecursion_misses:\t392\nverified_insns:\t1\n";
        assert_eq!(number(text, "recursion_misses"), Some(392));
        assert_eq!(number("pos:\t0\n", "recursion_misses"), None);
    }
}
