//! Which probe delivers anything on this machine, judged without attaching.

use super::{
    BtfSource, Check, Layout, ProbeReport, Section, Status,
    machine::why,
    structures::{SVM_REASON, TD_EXITS, VMX_REASON, lacking},
};
use crate::{
    kernel::{
        Facts, Seen,
        btf::BtfModule,
        kvm::{Flavour, Presence},
    },
    probe::table::{PROBES, Probe},
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
    PROBES
        .iter()
        .map(|probe| {
            let (visible, check) = machine.judge(probe);
            let (shows, hidden_without) = (probe.shows, probe.hidden_without);
            ProbeReport { visible, shows, hidden_without, check }
        })
        .collect()
}

/// Whether a tracepoint exists.
enum Existence {
    Yes,
    No,
    Unknown(String),
}

impl Machine<'_> {
    fn judge(&self, probe: &Probe) -> (bool, Check) {
        if let Some(cause) = self.blocking {
            let next = cause.next.clone().unwrap_or_default();
            let finding = format!("hidden: {} (see {})", probe.hidden_without, cause.name);
            return (false, Check::missing(probe.name, finding, next));
        }
        if let Some(why) = probe.needs.iter().find_map(|need| self.layout?.why_missing(need)) {
            let next = "this kernel has other structures than tdtrace knows; report its release";
            return (false, Check::missing(probe.name, hidden(probe, why), next));
        }
        match self.existence(probe.tracepoint) {
            Existence::Yes => {}
            Existence::No => {
                let finding = format!("this kernel has no tracepoint {}", probe.tracepoint);
                let next = "nothing: another kernel may have it";
                return (false, Check::missing(probe.name, hidden(probe, &finding), next));
            }
            Existence::Unknown(reason) => {
                let finding = format!("whether {} exists is not known: {reason}", probe.tracepoint);
                let next = "run tdtrace doctor as root, with tracefs mounted";
                let check = Check::new(probe.name, Status::Unknown, hidden(probe, &finding), next);
                return (false, check);
            }
        }
        self.fires(probe)
    }

    /// The verdict on a probe that can be attached.
    fn fires(&self, probe: &Probe) -> (bool, Check) {
        let is_exit = probe.tracepoint == "kvm_exit";
        if let Flavour::Software(_) = self.facts.flavour()
            && (is_exit || probe.tracepoint == "kvm_entry")
        {
            let finding = hidden(probe, "attaches, but this KVM never fires it");
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
fn hidden(probe: &Probe, why: &str) -> String {
    format!("{why}; hidden: {}", probe.hidden_without)
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
