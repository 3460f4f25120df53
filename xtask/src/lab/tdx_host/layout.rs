//! Where tdtrace says that fields lie, against where the compiler put them. Pure.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

/// Offsets by field, as `kvm_vcpu.kvm`; `None` for one that a kernel does not have.
pub(super) type Layout = BTreeMap<String, Option<u64>>;

/// How the structures begin that only the file `virt/kvm/guest_memfd.c` knows, and so no module can tell: that
/// holes and a broken page are counted for the right TD says that they were found.
const UNTOLD: &str = "gmem_";

/// Fields without which tdtrace cannot tell exits of TDs apart.
const TDX: &str = "vcpu_tdx.";

/// The lines `<name> <offset> <field>` of what `tdtrace doctor` prints.
///
/// # Errors
/// When there are none, or one is strange.
pub(super) fn of_doctor(text: &str) -> Result<Layout> {
    let section = text.split_once("\nlayout\n").ok_or_else(|| anyhow!("doctor tells no layout"))?.1;
    let mut layout = Layout::new();
    for line in section.lines().take_while(|line| !line.is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, offset, field] = words[..] else { continue };
        // Other lines are findings, in words.
        if !line.starts_with("        ") || !field.contains('.') {
            continue;
        }
        let offset = match offset {
            "–" => None,
            offset => Some(offset.parse().with_context(|| format!("the line {line:?}"))?),
        };
        layout.insert(field.to_owned(), offset);
    }
    ensure!(!layout.is_empty(), "doctor's layout has no fields");
    Ok(layout)
}

/// The lines `<field> <offset>` of the module's `layout`.
///
/// # Errors
/// When one is not of the format.
pub(super) fn of_module(text: &str) -> Result<Layout> {
    let field = |line: &str| {
        let (field, offset) = line.split_once(' ').ok_or_else(|| anyhow!("no offset"))?;
        Ok::<_, anyhow::Error>((field.to_owned(), Some(offset.parse()?)))
    };
    text.lines()
        .map(|line| field(line).with_context(|| format!("the line {line:?} of the module")))
        .collect()
}

/// Holds what tdtrace found in the kernel's types against the compiler's truth, and says how it is apart
/// from what it finds in `other`, the types that it has with it.
///
/// # Errors
/// When an offset differs, when tdtrace looks for a field that the module does not tell, or when a field of
/// TDX was found in one of the two kernels only.
pub(super) fn judge(found: &Layout, truth: &Layout, other: &Layout) -> Result<String> {
    let mut right = 0;
    for (field, offset) in found {
        let Some(offset) = offset else { continue };
        match truth.get(field) {
            Some(Some(of_compiler)) if of_compiler == offset => right += 1,
            Some(of_compiler) => {
                bail!("{field} is at {offset}, says tdtrace; it is {of_compiler:?}")
            }
            None if field.starts_with(UNTOLD) => {}
            None => bail!("tdhost does not tell where {field} is"),
        }
    }
    let of_tdx = |layout: &Layout| {
        let fields = layout.iter().filter(|(field, at)| field.starts_with(TDX) && at.is_some());
        fields.map(|(field, _)| field.clone()).collect::<Vec<_>>()
    };
    let (here, there) = (of_tdx(found), of_tdx(other));
    ensure!(!here.is_empty() && here == there, "of TDX are known {here:?}, with it {there:?}");
    let moved = found.iter().filter(|(field, at)| other.get(*field).is_some_and(|o| o != *at));
    Ok(format!(
        "layout: {right} offsets as the compiler has them; {} lie elsewhere than in the 7.3 that tdtrace has with it",
        moved.count()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCTOR: &str = "x\n\nlayout\n  ok  td_exits                 found\n        \
        tdx_vt                    5760  vcpu_tdx.vt\n        \
        vmx_exit_reason              –  vcpu_vmx.exit_reason\n\nprobes\n";

    #[test]
    fn a_layout_is_read_from_what_doctor_prints() {
        let layout = of_doctor(DOCTOR).unwrap();
        let expected: Layout =
            [("vcpu_tdx.vt".into(), Some(5760)), ("vcpu_vmx.exit_reason".into(), None)].into();
        assert_eq!(layout, expected);
        assert!(of_doctor("no layout").is_err());
    }

    #[test]
    fn an_offset_that_differs_is_an_error_by_name() {
        let found = of_doctor(DOCTOR).unwrap();
        let truth = of_module("vcpu_tdx.vt 5760\n").unwrap();
        assert!(judge(&found, &truth, &found).unwrap().starts_with("layout: 1 offsets"));
        let wrong = of_module("vcpu_tdx.vt 5768\n").unwrap();
        let error = judge(&found, &wrong, &found).unwrap_err().to_string();
        assert!(error.contains("vcpu_tdx.vt"), "{error}");
        assert!(judge(&found, &Layout::new(), &found).is_err());
    }
}
