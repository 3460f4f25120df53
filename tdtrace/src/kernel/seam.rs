//! Which SEAMCALL wrappers a kernel has, and where these have their arguments.
//!
//! Reads BTF.

use tdtrace_common::seam::{ARGUMENTS, Arguments, FUNCTIONS, NO_ARGUMENT, WRAPPERS, Wrapper, zaps};

use super::btf::{Btf, Parameter};

/// Why no SEAMCALL is seen.
pub const NO_WRAPPERS: &str =
    "this kernel has no SEAMCALL wrappers (tdh_…): it is built without support for hosting TDs";

/// Where the wrappers of a kernel have their arguments, by number of the function; `None` if it has no
/// wrapper at all. Of a wrapper that BTF does not describe the GPA is where it was in every known kernel,
/// and the level is not known: kernels differ.
#[must_use]
pub fn arguments(vmlinux: &Btf) -> Option<[Arguments; FUNCTIONS]> {
    let mut all = [Arguments::NONE; FUNCTIONS];
    let mut any = false;
    for (arguments, wrapper) in all.iter_mut().zip(WRAPPERS) {
        any |= vmlinux.has_func(wrapper.name);
        *arguments = of(wrapper, vmlinux.parameters(wrapper.name).as_deref());
    }
    any.then_some(all)
}

fn of(wrapper: &Wrapper, parameters: Option<&[Parameter]>) -> Arguments {
    let mut arguments =
        Arguments { gpa: wrapper.gpa, zaps: u8::from(zaps(wrapper.leaf)), ..Arguments::NONE };
    for (place, parameter) in (0..).zip(parameters.unwrap_or_default()).take(ARGUMENTS) {
        match parameter.name.as_str() {
            "gpa" if wrapper.gpa != NO_ARGUMENT => arguments.gpa = place,
            "level" => {
                arguments.level = place;
                // PG_LEVEL_4K is 1 (arch/x86/include/asm/pgtable_types.h), the TDX module's level is 0.
                arguments.base = u8::from(parameter.of_enum == "pg_level");
            }
            _ => {}
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[(&str, &str)]) -> Vec<Parameter> {
        let parameter = |(name, of_enum): &(&str, &str)| Parameter {
            name: (*name).to_owned(),
            of_enum: (*of_enum).to_owned(),
        };
        names.iter().map(parameter).collect()
    }

    #[test]
    fn the_level_is_known_only_from_its_name_and_begins_where_its_type_says() {
        let wrapper = WRAPPERS.iter().find(|wrapper| wrapper.name == "tdh_mem_page_aug").unwrap();
        let newer = named(&[("td", ""), ("gpa", ""), ("level", "pg_level"), ("pfn", "")]);
        let older = named(&[("td", ""), ("gpa", ""), ("level", ""), ("page", "")]);
        let arguments = |gpa, level, base| Arguments { gpa, level, base, zaps: 0 };
        assert_eq!(of(wrapper, Some(&newer)), arguments(1, 2, 1));
        assert_eq!(of(wrapper, Some(&older)), arguments(1, 2, 0));
        assert_eq!(of(wrapper, None), arguments(1, NO_ARGUMENT, 0));
    }

    #[test]
    fn what_lies_beyond_the_arguments_that_programs_read_is_not_known() {
        let wrapper = WRAPPERS.iter().find(|wrapper| wrapper.name == "tdh_mem_track").unwrap();
        let far = named(&[("td", ""), ("", ""), ("", ""), ("", ""), ("level", "")]);
        assert_eq!(of(wrapper, Some(&far)), Arguments { zaps: 1, ..Arguments::NONE });
    }
}
