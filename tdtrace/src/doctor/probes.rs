//! Which probe delivers anything on this machine, judged without attaching.

use super::{
    BtfSource, Check, Layout, ProbeReport, Section, Status,
    machine::{by_kprobe, why},
    structures::{SVM_REASON, TD_EXITS, VMX_REASON, lacking},
};
use crate::{
    kernel::{
        Facts, Seen,
        btf::BtfModule,
        kvm::{Flavour, Presence},
    },
    probe::table::{
        FunctionProbe, GUEST_MEMFD_PROBES, PROBES, Probe, SET_ATTRIBUTES,
        SET_ATTRIBUTES_BY_FUNCTION,
    },
};

/// What a probe is judged by.
struct Machine<'a> {
    facts: &'a Facts,
    btf: &'a BtfSource,
    layout: Layout<'a>,
    /// What keeps everything from working, if anything does.
    blocking: Option<&'a Check>,
}

/// The verdict on every probe of the table.
pub(super) fn probes(
    facts: &Facts,
    btf: &BtfSource,
    layout: Layout<'_>,
    sections: &[Section],
) -> Vec<ProbeReport> {
    let blocking = sections.iter().flat_map(|section| &section.checks).find(|check| check.blocking);
    let machine = Machine { facts, btf, layout, blocking };
    let tracepoints = PROBES.iter().map(|probe| {
        let (visible, check) = machine.judge(probe);
        let (shows, hidden_without) = (probe.shows, probe.hidden_without);
        ProbeReport { visible, shows, hidden_without, check }
    });
    let functions = GUEST_MEMFD_PROBES.map(|probe| machine.guest_memfd(probe));
    tracepoints.chain(functions).collect()
}

/// What keeps a probe on a function away: how it came out, why, and the next step.
type Obstacle = (Status, String, &'static str);

/// What every VM that runs is known by: a function alone tells of VMs that nobody knows.
const RUNS: &str = "kvm_fpu";

/// Whether a tracepoint exists.
enum Existence {
    Yes,
    No,
    Unknown(String),
}

impl Machine<'_> {
    fn judge(&self, probe: &Probe) -> (bool, Check) {
        if self.blocking.is_some() {
            return (false, self.blocked(probe.name, probe.hidden_without));
        }
        let by_function =
            (probe.name == SET_ATTRIBUTES).then(|| self.function(&SET_ATTRIBUTES_BY_FUNCTION));
        if let Some(Ok(how)) = by_function {
            let FunctionProbe { name, shows, .. } = SET_ATTRIBUTES_BY_FUNCTION;
            return (true, Check::ok(probe.name, format!("by {how} on {name}: {shows}")));
        }
        let (visible, check) = self.tracepoint(probe);
        match by_function {
            // It may be seen all the same.
            Some(Err((Status::Unknown, why, next))) if !visible => {
                let check = Check::new(
                    probe.name,
                    Status::Unknown,
                    hidden(probe.hidden_without, &why),
                    next,
                );
                (false, check)
            }
            _ => (visible, check),
        }
    }

    fn tracepoint(&self, probe: &Probe) -> (bool, Check) {
        if let Some(why) = probe.needs.iter().find_map(|need| self.layout?.why_missing(need)) {
            let next = "this kernel has other structures than tdtrace knows; report its release";
            return (false, Check::missing(probe.name, hidden(probe.hidden_without, why), next));
        }
        match self.existence(probe.tracepoint) {
            Existence::Yes => {}
            Existence::No => {
                let finding = format!("this kernel has no tracepoint {}", probe.tracepoint);
                let next = "nothing: another kernel may have it";
                return (
                    false,
                    Check::missing(probe.name, hidden(probe.hidden_without, &finding), next),
                );
            }
            Existence::Unknown(reason) => {
                let finding = format!("whether {} exists is not known: {reason}", probe.tracepoint);
                let next = "run tdtrace doctor as root, with tracefs mounted";
                let check = Check::new(
                    probe.name,
                    Status::Unknown,
                    hidden(probe.hidden_without, &finding),
                    next,
                );
                return (false, check);
            }
        }
        self.fires(probe)
    }

    /// The verdict on a probe that stands in for no other.
    fn guest_memfd(&self, probe: &FunctionProbe) -> ProbeReport {
        let FunctionProbe { name, shows, hidden_without, .. } = *probe;
        let judged = self.blocking.is_none().then(|| self.function(probe));
        let visible = matches!(judged, Some(Ok(_)));
        let check = match judged {
            Some(Ok(how)) => Check::ok(name, format!("by {how}: {shows}")),
            Some(Err((status, why, next))) => {
                Check::new(name, status, hidden(hidden_without, &why), next)
            }
            None => self.blocked(name, hidden_without),
        };
        ProbeReport { visible, shows, hidden_without, check }
    }

    /// How `probe` would be attached.
    fn function(&self, probe: &FunctionProbe) -> Result<&'static str, Obstacle> {
        const NOTHING: &str = "nothing: another kernel may have it";
        let name = probe.name;
        match self.existence(RUNS) {
            Existence::Yes => {}
            Existence::No => {
                let why = format!("without the tracepoint {RUNS} no VM is known");
                return Err((Status::Missing, why, NOTHING));
            }
            Existence::Unknown(why) => {
                let why = format!("whether {name} can be attached to is not known: {why}");
                return Err((Status::Unknown, why, "run tdtrace doctor as root"));
            }
        }
        let Ok(set) = &self.btf.set else {
            let why = format!("without BTF it is not known whether there is a {name}");
            return Err((Status::Unknown, why, "see section btf"));
        };
        let in_kernel = set.vmlinux.has_func(name);
        let in_module = set.module(BtfModule::Kvm).map(|btf| btf.has_func(name));
        if !in_kernel && in_module != Some(true) {
            if self.facts.kvm.kvm == Presence::BuiltIn || in_module.is_some() {
                let why = format!("this KVM has no function {name}");
                return Err((Status::Missing, why, NOTHING));
            }
            let why = format!("whether KVM has {name} is not known: BTF of kvm is not there");
            return Err((Status::Unknown, why, "modprobe kvm, or give its BTF with --module-btf"));
        }
        if let Some(why) = self.layout.and_then(|layout| layout.why_lacking(probe.needs)) {
            return Err((Status::Missing, why.to_owned(), NOTHING));
        }
        if let Seen::Unreadable(why) = &self.facts.tracefs.functions {
            let why = format!("whether {name} can be attached to is not known: tracefs says {why}");
            let next = "count: what cannot be attached is listed with the reason";
            return Err((Status::Unknown, why, next));
        }
        if in_kernel {
            return Ok("fentry");
        }
        by_kprobe(name, self.facts.kprobes)
    }

    /// What is said of a probe while nothing can be attached.
    fn blocked(&self, name: &'static str, hidden_without: &str) -> Check {
        let cause = self.blocking.map_or("", |cause| cause.name);
        let next = self.blocking.and_then(|cause| cause.next.clone()).unwrap_or_default();
        Check::missing(name, format!("hidden: {hidden_without} (see {cause})"), next)
    }

    /// The verdict on a probe that can be attached.
    fn fires(&self, probe: &Probe) -> (bool, Check) {
        let is_exit = probe.tracepoint == "kvm_exit";
        if let Flavour::Software(_) = self.facts.flavour()
            && (is_exit || probe.tracepoint == "kvm_entry")
        {
            let finding = hidden(probe.hidden_without, "attaches, but this KVM never fires it");
            let next = "use a host with kvm_intel or kvm_amd";
            return (false, Check::limited(probe.name, finding, next));
        }
        let lack = [VMX_REASON, TD_EXITS, SVM_REASON]
            .into_iter()
            .filter(|_| is_exit)
            .find_map(|group| Some((group, lacking(group, self.facts, self.btf, self.layout)?)));
        match lack {
            Some((group, off)) => {
                let next = format!("see {group} in section layout");
                (true, Check::limited(probe.name, off, next))
            }
            None => (true, Check::ok(probe.name, probe.shows)),
        }
    }

    /// From tracefs, else from BTF: a kernel has the typedef `btf_trace_NAME` for each tracepoint.
    fn existence(&self, tracepoint: &str) -> Existence {
        let reason = match &self.facts.tracefs.kvm_events {
            Seen::Is(names) if names.iter().any(|name| name == tracepoint) => {
                return Existence::Yes;
            }
            Seen::Is(_) => return Existence::No,
            other => why(other),
        };
        match &self.btf.set {
            Ok(set) if set.has_tracepoint(tracepoint) => Existence::Yes,
            Ok(set)
                if self.facts.kvm.kvm == Presence::BuiltIn
                    || set.module(BtfModule::Kvm).is_some() =>
            {
                Existence::No
            }
            _ => Existence::Unknown(format!("tracefs is {reason}, and BTF of kvm is not there")),
        }
    }
}

/// What is lost, and why.
fn hidden(hidden_without: &str, why: &str) -> String {
    format!("{why}; hidden: {hidden_without}")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        doctor::Report,
        kernel::{
            btf::{Btf, BtfSet, testing::Writer},
            privilege::Credentials,
        },
    };

    /// BTF of a kernel with KVM built in, whose only tracepoint is kvm_fpu.
    fn kernel() -> BtfSource {
        let mut writer = Writer::new();
        let number = writer.int("int", 4);
        let pointer = writer.pointer(number);
        let list = writer.structure("hlist_head", 8, &[("first", pointer, 0)]);
        let link = writer.structure("hlist_node", 16, &[("next", pointer, 0)]);
        let notifier = writer.structure("preempt_notifier", 16, &[("link", link, 0)]);
        writer.structure("task_struct", 16, &[("preempt_notifiers", list, 8)]);
        let members =
            [("kvm", pointer, 0), ("preempt_notifier", notifier, 8), ("vcpu_id", number, 24)];
        writer.structure("kvm_vcpu", 32, &members);
        writer.typedef("btf_trace_kvm_fpu", pointer);
        let btf = Btf::parse(writer.bytes()).unwrap();
        BtfSource { files: Vec::new(), set: Ok(BtfSet::new(btf)) }
    }

    /// root on a software KVM that is built in, or a module; tracefs is not mounted.
    fn facts(root: &Path, is_module: bool) -> Facts {
        let module = root.join("sys/module/kvm").join(if is_module { "initstate" } else { "" });
        fs::create_dir_all(module).unwrap();
        fs::create_dir_all(root.join("sys/class/misc/kvm")).unwrap();
        let mut facts = Facts::read(root);
        facts.privilege.credentials = Seen::Is(Credentials { euid: 0, effective: u64::MAX });
        facts
    }

    fn statuses(report: &Report) -> Vec<(&str, Status)> {
        report.probes.iter().map(|probe| (probe.check.name, probe.check.status)).collect()
    }

    #[test]
    fn without_tracefs_btf_tells_which_tracepoints_exist() {
        let root = tempfile::tempdir().unwrap();
        let report = Report::new(&facts(root.path(), false), &kernel());
        assert!(report.can_count);
        for (name, status) in statuses(&report) {
            let expected = if name == "kvm_fpu" { Status::Ok } else { Status::Missing };
            assert_eq!(status, expected, "{name}");
        }
    }

    #[test]
    fn without_tracefs_and_without_btf_of_the_module_nothing_is_claimed() {
        let root = tempfile::tempdir().unwrap();
        let report = Report::new(&facts(root.path(), true), &kernel());
        for (name, status) in statuses(&report) {
            let expected = if name == "kvm_fpu" { Status::Ok } else { Status::Unknown };
            assert_eq!(status, expected, "{name}");
        }
    }
}
