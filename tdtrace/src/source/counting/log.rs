//! What the programs log with `--debug-ebpf`, as lines on stderr.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;

/// How long a line waits at most.
const FLUSH: Duration = Duration::from_millis(100);

/// A thread that prints the programs' log until this is dropped; what is left then is still printed.
pub(super) struct Log {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    /// Begins to print; before the programs are loaded, because it takes their map.
    pub(super) fn follow(ebpf: &mut Ebpf) -> Result<Self> {
        let mut log = EbpfLogger::init_with_logger(ebpf, Stderr)
            .context("the programs' log cannot be read")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("ebpf-log".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                log.flush();
                thread::sleep(FLUSH);
            }
            log.flush();
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, its message has been printed.
            let _ = thread.join();
        }
    }
}

struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("ebpf: {}", record.args());
    }

    fn flush(&self) {}
}
