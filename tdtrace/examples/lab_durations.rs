//! Where the time of all VMs goes while a command runs, and how long their exits take: for
//! `cargo xtask lab svm`, which compares it with the kernel's own trace.
//!
//! Prints one JSON object, whose fields are those of `Sample`.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tdtrace::{
    model::{
        sample::{LatencySample, Sample},
        snapshot::{Span, latency_name},
    },
    source::{
        Source as _,
        live::{Live, Options},
    },
};
use tdtrace_common::latency::{PARTS, Part, bucket_start};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().context("give a command")?;
    let mut live = Live::open(Options::default())?;
    live.sample()?;
    // The result of the command does not go between the JSON.
    let status = Command::new(&program)
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("{program} does not run"))?;
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    println!("{}", json(&live.sample()?));
    Ok(())
}

fn json(sample: &Sample) -> Value {
    let vms = sample.vms.iter().map(|vm| {
        let vcpus = sample.vcpus.iter().filter(|vcpu| vcpu.vm == vm.key).map(|vcpu| {
            let times = vcpu.times.map(|times| {
                let mut parts = parts(times.parts);
                parts["guest"] = times.guest.into();
                parts
            });
            json!({ "vcpu": vcpu.id, "tid": vcpu.tid, "times_ns": times })
        });
        json!({
            "vcpus": vcpus.collect::<Vec<_>>(),
            "latency": vm.latency.iter().map(|row| latency(sample, row)).collect::<Vec<_>>(),
        })
    });
    json!({
        "lost": {
            "recursion_misses": sample.losses.misses.iter().cloned()
                .map(|(name, count)| (name, count.into()))
                .collect::<serde_json::Map<_, _>>(),
            "unpaired_durations": sample.losses.unpaired,
            "durations_without_room": sample.losses.durations,
        },
        "vms": vms.collect::<Vec<_>>(),
    })
}

fn latency(sample: &Sample, row: &LatencySample) -> Value {
    let (span, name) = latency_name(row.class, sample.host.isa);
    let percentile = |fraction| row.histogram.percentile(fraction, row.max);
    json!({
        "span": if matches!(span, Span::Exit) { "exit" } else { "return" },
        "name": name,
        "count": row.histogram.count(),
        "ns": parts(row.ns),
        "p50": percentile(0.5),
        "p99": percentile(0.99),
        "max": row.max,
        "buckets": row.histogram.filled()
            .map(|(index, count)| [bucket_start(index), count])
            .collect::<Vec<_>>(),
    })
}

fn parts(ns: [u64; PARTS]) -> Value {
    let named =
        Part::ALL.into_iter().map(|part| (part.name().to_owned(), ns[part as usize].into()));
    Value::Object(named.collect())
}
