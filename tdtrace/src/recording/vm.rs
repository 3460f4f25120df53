//! A VM as rows and back.

use super::{
    durations::{self, Durations},
    kind::Kind,
    ledger,
    row::{Malformed, Row},
    vcpu::{packed, unpacked},
};
use crate::model::{
    ledger::LedgerSample,
    sample::{VmKey, VmSample},
};

/// The rows of `vm`.
pub(super) fn rows(vm: &VmSample) -> Vec<Row> {
    let mut rows = vec![
        Row::number(Kind::VmKey, 0, packed(vm.key.index, vm.key.life)),
        Row::number(Kind::Pid, 0, vm.pid.into()),
        Row::text(Kind::VmName, 0, &vm.name),
        Row::text(Kind::Vmm, 0, &vm.vmm),
    ];
    rows.extend(vm.container.as_ref().map(|name| Row::text(Kind::Container, 0, name)));
    rows.extend(vm.vm_type.map(|number| Row::number(Kind::VmType, 0, number.into())));
    if vm.ended {
        rows.push(Row::number(Kind::Ended, 0, 1));
    }
    if vm.demo {
        rows.push(Row::number(Kind::Demo, 0, 1));
    }
    durations::push_rows(&vm.latency, &mut rows);
    ledger::push_rows(&vm.ledger, &mut rows);
    rows
}

/// The VM of `rows`.
pub(super) fn from_rows(rows: &[Row]) -> Result<VmSample, Malformed> {
    let mut vm = VmSample {
        key: VmKey { index: 0, life: 0 },
        pid: 0,
        name: "".into(),
        vmm: "".into(),
        container: None,
        vm_type: None,
        ended: false,
        demo: false,
        latency: [].into(),
        ledger: LedgerSample::default(),
    };
    let mut has_key = false;
    let mut latency = Durations::default();
    for row in rows {
        match row.key.kind {
            Kind::VmKey => {
                let (index, life) = unpacked(row.value);
                vm.key = VmKey { index, life };
                has_key = true;
            }
            Kind::Pid => vm.pid = row.small()?,
            Kind::VmName => vm.name = row.as_text().into(),
            Kind::Vmm => vm.vmm = row.as_text().into(),
            Kind::Container => vm.container = Some(row.as_text().into()),
            Kind::VmType => vm.vm_type = Some(row.small()?),
            Kind::Ended => vm.ended = true,
            Kind::Demo => vm.demo = true,
            _ if latency.take(row)? || ledger::take(&mut vm.ledger, row)? => {}
            _ => return Err(Malformed("a row of a VM that no VM has")),
        }
    }
    vm.latency = latency.finish();
    has_key.then_some(vm).ok_or(Malformed("a VM without its key"))
}
