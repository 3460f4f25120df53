//! What a function returns, as BTF says.

use super::{Btf, format::Kind};

/// Typedefs and qualifiers in a row that are followed.
const DEPTH: u32 = 16;

/// What a function returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// Nothing.
    Void,
    /// `bool`.
    Bool,
    /// An integer or an enum of this many bytes.
    Integer(u32),
    /// Something else, a pointer for instance.
    Other,
}

impl Btf {
    /// What the function `name` returns; `None` if BTF does not describe it, or describes several that
    /// differ.
    #[must_use]
    pub fn returned(&self, name: &str) -> Option<Returned> {
        let functions = |btf: &Self| btf.own_named(name, &btf.functions, |kind| kind == Kind::Func);
        let ids = self.chain().map(functions).find(|ids| !ids.is_empty())?;
        let mut found = ids.into_iter().map(|id| {
            let prototype = self.record(self.record(id)?.value)?;
            (prototype.kind == Kind::FuncProto).then(|| self.kind_of(prototype.value)).flatten()
        });
        let first = found.next()??;
        found.all(|other| other == Some(first)).then_some(first)
    }

    fn kind_of(&self, mut id: u32) -> Option<Returned> {
        for _ in 0..DEPTH {
            if id == 0 {
                return Some(Returned::Void);
            }
            let record = self.record(id)?;
            return Some(match record.kind {
                kind if kind.is_transparent() => {
                    id = record.value;
                    continue;
                }
                // Bit 2 of the encoding (BTF_INT_BOOL, include/uapi/linux/btf.h).
                Kind::Int if record.word(0)? >> 24 & 4 != 0 => Returned::Bool,
                Kind::Int | Kind::Enum | Kind::Enum64 => Returned::Integer(record.value),
                _ => Returned::Other,
            });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Writer, *};

    #[test]
    fn what_a_function_returns_is_found_behind_typedefs() {
        let mut writer = Writer::new();
        let int = writer.int("int", 4);
        let boolean = writer.record("_Bool", 1 << 24, 1, &[4 << 24 | 8]);
        let alias = writer.record("bool", 8 << 24, boolean, &[]);
        let pointer = writer.pointer(int);
        for (name, id) in [("i", int), ("b", alias), ("p", pointer), ("v", 0), ("two", int)] {
            let prototype = writer.record("", 13 << 24, id, &[]);
            writer.record(name, 12 << 24, prototype, &[]);
        }
        let prototype = writer.record("", 13 << 24, 0, &[]);
        writer.record("two", 12 << 24, prototype, &[]);
        let btf = Btf::parse(writer.bytes()).unwrap();
        assert_eq!(btf.returned("i"), Some(Returned::Integer(4)));
        assert_eq!(btf.returned("b"), Some(Returned::Bool));
        assert_eq!(btf.returned("p"), Some(Returned::Other));
        assert_eq!(btf.returned("v"), Some(Returned::Void));
        assert_eq!(btf.returned("two"), None);
        assert_eq!(btf.returned("int"), None);
    }
}
