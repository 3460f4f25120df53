//! Threads of this process, and on which CPUs they may run.

use std::{fs, mem};

/// The kernel's number of this thread.
pub(crate) fn own_tid() -> i32 {
    // SAFETY: no preconditions.
    unsafe { libc::gettid() }
}

/// The numbers of all threads.
pub(crate) fn tids() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc");
    tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}

/// The CPUs that this thread may run on.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    // SAFETY: plain numbers, for which zero is valid.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is as long as the call is told.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    assert_eq!(result, 0);
    // SAFETY: the number is below the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// Lets thread `tid` run on `cpus` only. It may be gone already.
pub(crate) fn allow(tid: i32, cpus: &[usize]) {
    // SAFETY: plain numbers, for which zero is valid.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for cpu in cpus {
        // SAFETY: an allowed CPU is in the set's range.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: the set is as long as the call is told.
    unsafe { libc::sched_setaffinity(tid, size_of_val(&set), &raw const set) };
}
