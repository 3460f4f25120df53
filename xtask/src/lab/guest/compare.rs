//! What tdtrace saw of a step against the module's truth log: event for event where it streamed them,
//! and by count everywhere. Pure.
//!
//! A #VE that interrupts a probe's own program is skipped by the kernel, which counts it. So what
//! tdtrace saw and what it says it missed must make up what was raised.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use super::{
    Seen, calls,
    truth::{Context, Event, Outcome, Truth},
};

/// The files that tdtrace leaves in a step's directory.
pub(super) const REPORT: &str = "tdtrace.json";
/// See [`REPORT`].
pub(super) const EVENTS: &str = "events";
/// How many events there were, where only the first are left.
const STREAMED: &str = "streamed";
/// What the VM leaves of `/sys/kernel/btf` where there is none.
const BTF: &str = "btf";
/// What runs around each step where snapshots are compared, of which the last is taken after the step: two
/// more than there were then, since one may have been under way.
const AROUND_TOP: &str = concat!(
    "lines() { wc -l <$OUT/top; }; run() { \"$@\"; status=$?; end=$(($(lines) + 2)); ",
    "while [ $(lines) -lt $end ] && kill -0 $top; do sleep 0.1; done; ",
    "kill $top; wait $top; tail -n 1 $OUT/top >$OUT/tdtrace.json; return $status; }; ",
    "tdtrace top --guest --batch --json --delay 0.5 --hotspots 1000 >$OUT/top & top=$!; ",
    "while [ ! -s $OUT/top ] && kill -0 $top; do sleep 0.1; done; run",
);

/// How tdtrace finds its way in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By fentry and fexit, with BTF.
    Fentry,
    /// By kprobe and kretprobe, with BTF.
    Kprobe,
    /// By kprobe and kretprobe, without BTF.
    NoBtf,
    /// By fentry and fexit, in the snapshots of `tdtrace top`.
    Top,
}

impl Way {
    /// What runs around each step.
    pub(super) fn around(self) -> String {
        if self == Self::Top {
            return AROUND_TOP.to_owned();
        }
        // Without BTF it has to come upon kprobes by itself.
        let option = if self == Self::Kprobe { " --kprobe" } else { "" };
        format!(
            "tdtrace guest stat --guest{option} --json --output $OUT/{REPORT} --events $OUT/{EVENTS} --"
        )
    }

    /// How it says in its report that it is attached.
    fn how(self) -> &'static str {
        match self {
            Self::Fentry | Self::Top => "fentry",
            Self::Kprobe | Self::NoBtf => "kprobe",
        }
    }
}

/// A #VE, in what context if that is known, and what became of it.
type Full = (Event, Option<Context>, Outcome);

/// What tdtrace counted of a step, once it has been found right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Compared {
    /// #VEs that it saw.
    pub(super) seen: u64,
    /// Those that it says it missed.
    pub(super) missed: u64,
    /// Events that are as the truth log has them.
    pub(super) equal: usize,
    /// Those that it says found no room.
    pub(super) lost: u64,
    /// Conversions, accepts, quotes and bounces that it counted.
    pub(super) calls: u64,
}

/// Compares what tdtrace left of the step.
///
/// # Errors
/// With the first difference, or when it left nothing.
pub(super) fn compare(seen: &Seen, way: Way) -> Result<Compared> {
    let report = seen.files.get(REPORT).ok_or_else(|| anyhow!("tdtrace left no {REPORT}"))?;
    let report: Value = serde_json::from_slice(report).context("tdtrace's report")?;
    check_way(&report, way, seen.files.get(BTF).map(Vec::as_slice))?;
    let number = |path: &str| {
        report.pointer(path).and_then(Value::as_u64).ok_or_else(|| anyhow!("no {path} in {REPORT}"))
    };
    let (saw, missed) = (number("/ve/seen/count")?, number("/ve/missed")?);
    let (failed, unpaired) = (number("/ve/seen/failed")?, number("/ve/seen/unpaired")?);
    let raised = seen.totals.of("ve");
    if saw + missed != raised {
        bail!("tdtrace saw {saw} and missed {missed} of {raised}");
    }
    // What has not come back was not handled: the kernel died of it afterwards.
    let not_handled = seen.totals.of("failed") + seen.open();
    if missed == 0 && failed != not_handled {
        bail!("tdtrace saw {failed} fail instead of {not_handled}");
    }
    let reasons = reasons(&report)?;
    if missed == 0 && reasons != seen.totals.reasons() {
        bail!("tdtrace counted by reason {reasons:?} instead of {:?}", seen.totals.reasons());
    }
    let (equal, lost) = match way {
        // Snapshots have no single events.
        Way::Top => (0, 0),
        _ => compare_streamed(seen, &report, [saw, missed, unpaired])?,
    };
    let calls = calls::compare(seen, &report)?;
    Ok(Compared { seen: saw, missed, equal, lost, calls })
}

/// Compares what it streamed; how many events are equal, and how many found no room. Numbers are those
/// of #VEs that it saw, missed, and saw the end of alone.
fn compare_streamed(seen: &Seen, report: &Value, numbers: [u64; 3]) -> Result<(usize, u64)> {
    let [saw, missed, unpaired] = numbers;
    let lost = report.pointer("/lost/causes/events").and_then(Value::as_u64).unwrap_or(0);
    let events = seen.files.get(EVENTS).ok_or_else(|| anyhow!("tdtrace left no {EVENTS}"))?;
    let events = str::from_utf8(events).context("tdtrace's events are not text")?;
    let streamed = match seen.files.get(STREAMED) {
        Some(count) => str::from_utf8(count)?.trim().parse().context("the number of events")?,
        None => events.lines().count() as u64,
    };
    if streamed + lost != saw {
        bail!("tdtrace streamed {streamed} and lost {lost} of {saw}");
    }
    let equal = match seen.traced_whole() && lost == 0 {
        true => compare_events(events, &seen.truth, missed, unpaired)?,
        false => 0,
    };
    Ok((equal, lost))
}

/// Whether tdtrace went the way that was meant, and says so. `btf` is what lies in `/sys/kernel/btf`
/// where that was taken away.
fn check_way(report: &Value, way: Way, btf: Option<&[u8]>) -> Result<()> {
    match (way, btf) {
        (Way::NoBtf, Some([])) | (Way::Fentry | Way::Kprobe | Way::Top, None) => {}
        (_, found) => bail!("BTF in the VM is {found:?}"),
    }
    let assumed = &report["layout_assumed"];
    if *assumed != (way == Way::NoBtf) {
        bail!("tdtrace says that the layout is assumed: {assumed}");
    }
    let probes = report["probes"].as_array().ok_or_else(|| anyhow!("no probes in {REPORT}"))?;
    let ve = probes.iter().find(|probe| probe["name"] == "ve");
    let how = ve.map_or(&Value::Null, |probe| &probe["how"]);
    if how != way.how() {
        bail!("tdtrace attached by {how} instead of {}", way.how());
    }
    Ok(())
}

fn reasons(report: &Value) -> Result<BTreeMap<u64, u64>> {
    let rows = report["reasons"].as_array().ok_or_else(|| anyhow!("no reasons in {REPORT}"))?;
    let row = |row: &Value| Some((row["reason"].as_u64()?, row["count"].as_u64()?));
    rows.iter().map(|line| row(line).ok_or_else(|| anyhow!("a reason is {line}"))).collect()
}

/// Without a miss the events are the log, for each thread in its order. Of those that were missed the log has
/// more; of those whose beginning was not seen all but the address of the instruction is there.
fn compare_events(text: &str, truth: &[Truth], missed: u64, unpaired: u64) -> Result<usize> {
    let events: Vec<Full> = text
        .lines()
        .map(|line| event(line).with_context(|| format!("tdtrace's event {line}")))
        .collect::<Result<_>>()?;
    // Without BTF some kernels do not tell the context, but user mode.
    let unknown = events.iter().any(|(_, context, _)| context.is_none());
    let raised: Vec<Full> = truth
        .iter()
        .map(|truth| {
            let known = !unknown || truth.context == Context::User;
            let outcome = match truth.outcome {
                Outcome::Open => Outcome::Failed,
                outcome => outcome,
            };
            (truth.event, known.then_some(truth.context), outcome)
        })
        .collect();
    if missed == 0 && unpaired == 0 {
        if events.len() != raised.len() {
            bail!("tdtrace streamed {} of {} #VEs", events.len(), raised.len());
        }
        let (sorted_events, sorted_raised) = (sorted(&events), sorted(&raised));
        let mut pairs = sorted_events.iter().zip(&sorted_raised);
        if let Some((event, raised)) = pairs.find(|(event, raised)| event != raised) {
            bail!("{raised:x?} was raised, and tdtrace says {event:x?}");
        }
        // An interrupt may come between the log's number and tdtrace's, and so may another CPU; a
        // thread is in one place only.
        let interrupts: BTreeSet<Event> =
            truth.iter().filter(|truth| truth.is_interrupt()).map(|truth| truth.event).collect();
        if by_thread(&events, &interrupts) != by_thread(&raised, &interrupts) {
            bail!("tdtrace has the #VEs of a thread in another order");
        }
        return Ok(events.len());
    }
    let mut left: BTreeMap<Full, i64> = BTreeMap::new();
    raised.iter().for_each(|raised| *left.entry(*raised).or_default() += 1);
    let (mut equal, mut partial) = (0, 0);
    for event in &events {
        match left.get_mut(event) {
            Some(count) if *count > 0 => (*count, equal) = (*count - 1, equal + 1),
            _ if event.0.ip == 0 => partial += 1,
            _ => bail!("tdtrace saw what was not raised: {event:x?}"),
        }
    }
    let absent: i64 = left.values().sum();
    if partial > unpaired || absent != i64::try_from(missed + partial)? {
        bail!(
            "{absent} #VEs are absent, {partial} without address; missed {missed}, {unpaired} unpaired"
        );
    }
    Ok(equal)
}

fn sorted(events: &[Full]) -> Vec<Full> {
    let mut sorted = events.to_vec();
    sorted.sort_unstable();
    sorted
}

/// What each thread raised itself, in order. Every CPU has an idle thread, and all are number 0. Where
/// the context is not known, what is as one of `interrupts` may be one.
fn by_thread(events: &[Full], interrupts: &BTreeSet<Event>) -> BTreeMap<u64, Vec<Full>> {
    let mut threads: BTreeMap<u64, Vec<Full>> = BTreeMap::new();
    for full in events.iter().filter(|(event, ..)| event.tid != 0) {
        let is_own = match full.1 {
            Some(context) => matches!(context, Context::Task | Context::User),
            None => !interrupts.contains(&full.0),
        };
        if is_own {
            threads.entry(full.0.tid).or_default().push(*full);
        }
    }
    threads
}

fn event(line: &str) -> Result<Full> {
    let value: Value = serde_json::from_str(line)?;
    let number = |name: &str| value[name].as_u64().ok_or_else(|| anyhow!("no {name}"));
    let word = |name: &str| match value[name].as_str() {
        Some(text) => u64::from_str_radix(text.trim_start_matches("0x"), 16)
            .with_context(|| format!("{name} is {text:?}")),
        None => Ok(0),
    };
    let reason = number("reason")?;
    let event = Event {
        tid: number("tid")?,
        reason,
        qual: word("qualification")?,
        gla: word("gla")?,
        gpa: word("gpa_raw")?,
        // Undefined for EPT violations; the log has 0 there.
        len: if reason == 48 { 0 } else { number("length")? },
        ip: word("ip")?,
    };
    let context = match value["context"].as_str() {
        Some("task") => Some(Context::Task),
        Some("softirq") => Some(Context::Softirq),
        Some("hardirq") => Some(Context::Hardirq),
        Some("nmi") => Some(Context::Nmi),
        Some("user") => Some(Context::User),
        Some("unknown") => None,
        other => bail!("the context is {other:?}"),
    };
    let outcome = match value["handled"].as_bool() {
        Some(true) => Outcome::Handled,
        Some(false) => Outcome::Failed,
        None => bail!("no handled"),
    };
    Ok((event, context, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(ip: u64, outcome: Outcome) -> Truth {
        let event = Event { tid: 7, reason: 48, qual: 0x181, gla: 1, gpa: 1 << 51, len: 0, ip };
        Truth {
            event,
            context: Context::Hardirq,
            place: "f+0x1/0x2".into(),
            expected: outcome,
            outcome,
            comm: "sh".into(),
        }
    }

    fn line(ip: u64, handled: bool) -> String {
        let ip = if ip == 0 { String::new() } else { format!("\"ip\":\"{ip:#x}\",") };
        format!(
            "{{\"reason\":48,\"qualification\":\"0x181\",\"gla\":\"0x1\",\
             \"gpa_raw\":\"0x8000000000000\",\"length\":99,\"tid\":7,{ip}\
             \"context\":\"hardirq\",\"handled\":{handled}}}\n"
        )
    }

    #[test]
    fn events_must_be_the_log_in_the_order_of_each_thread_if_nothing_was_missed() {
        let mut log = [truth(1, Outcome::Handled), truth(2, Outcome::Failed)];
        log.iter_mut().for_each(|truth| truth.context = Context::Task);
        let line = |ip, handled| line(ip, handled).replace("hardirq", "task");
        let right = line(1, true) + &line(2, false);
        assert_eq!(compare_events(&right, &log, 0, 0).unwrap(), 2);
        for wrong in [
            line(2, false) + &line(1, true),
            line(1, true) + &line(2, true),
            line(1, true),
            right.replace("task", "hardirq"),
            right.replace("0x181", "0x182"),
        ] {
            assert!(compare_events(&wrong, &log, 0, 0).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_context_that_is_not_known_is_not_compared_and_the_order_of_the_rest_is() {
        let mut log = [1, 2, 3].map(|ip| truth(ip, Outcome::Handled));
        log[0].context = Context::Task;
        log[1].context = Context::Task;
        let line = |ip| line(ip, true).replace("hardirq", "unknown");
        assert_eq!(compare_events(&(line(3) + &line(1) + &line(2)), &log, 0, 0).unwrap(), 3);
        assert!(compare_events(&(line(2) + &line(1) + &line(3)), &log, 0, 0).is_err());
        log[0].context = Context::User;
        assert!(compare_events(&(line(3) + &line(1) + &line(2)), &log, 0, 0).is_err());
    }

    #[test]
    fn the_report_must_say_which_way_tdtrace_went() {
        let report = |how: &str, assumed: bool| serde_json::json!({"layout_assumed": assumed, "probes": [{"name": "ve", "how": how}]});
        let (fentry, kprobe, bare) =
            (report("fentry", false), report("kprobe", false), report("kprobe", true));
        check_way(&fentry, Way::Fentry, None).unwrap();
        check_way(&kprobe, Way::Kprobe, None).unwrap();
        check_way(&bare, Way::NoBtf, Some(b"")).unwrap();
        assert!(check_way(&kprobe, Way::Fentry, None).is_err());
        assert!(check_way(&kprobe, Way::NoBtf, Some(b"")).is_err());
        assert!(check_way(&bare, Way::Kprobe, None).is_err());
        assert!(check_way(&bare, Way::NoBtf, None).is_err());
        assert!(check_way(&bare, Way::NoBtf, Some(b"vmlinux\n")).is_err());
    }

    #[test]
    fn an_interrupt_may_come_before_what_it_interrupted_was_seen_to_begin() {
        let log = [truth(1, Outcome::Handled), truth(2, Outcome::Failed)];
        assert_eq!(compare_events(&(line(2, false) + &line(1, true)), &log, 0, 0).unwrap(), 2);
    }

    #[test]
    fn what_is_absent_must_have_been_missed_and_nothing_may_be_invented() {
        let log = [truth(1, Outcome::Handled), truth(1, Outcome::Handled)];
        assert_eq!(compare_events(&line(1, true), &log, 1, 0).unwrap(), 1);
        assert!(compare_events(&line(1, true), &log, 2, 0).is_err());
        assert!(compare_events(&line(3, true), &log, 1, 0).is_err());
        assert!(compare_events(&(line(1, true).repeat(3)), &log, 1, 0).is_err());
    }

    #[test]
    fn an_event_without_a_beginning_counts_as_one_whose_address_is_not_known() {
        let log = [truth(1, Outcome::Handled), truth(2, Outcome::Handled)];
        let events = line(1, true) + &line(0, true);
        assert_eq!(compare_events(&events, &log, 0, 1).unwrap(), 1);
        assert!(compare_events(&events, &log, 1, 0).is_err());
    }

    #[test]
    fn what_has_not_come_back_was_not_handled() {
        let log = [truth(1, Outcome::Open), truth(2, Outcome::Handled)];
        let events = line(1, false) + &line(2, true);
        assert_eq!(compare_events(&events, &log, 0, 0).unwrap(), 2);
        assert!(compare_events(&events.replace("false", "true"), &log, 0, 0).is_err());
    }
}
