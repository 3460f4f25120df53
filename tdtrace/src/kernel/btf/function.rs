//! What a function returns and what its parameters are called, as BTF says.

use super::{
    Btf,
    format::{Kind, Record},
};

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

/// A parameter of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, empty if it has none.
    pub name: String,
    /// The enum that it is, empty if it is something else.
    pub of_enum: String,
}

impl Btf {
    /// The parameters of the function `name`; `None` if BTF does not describe it, or describes several.
    #[must_use]
    pub fn parameters(&self, name: &str) -> Option<Vec<Parameter>> {
        let [prototype] = self.prototypes(name)?[..] else { return None };
        let words = prototype.tail.len() / 4;
        let parameter = |index: usize| {
            let (text, id) = (prototype.word(index)?, prototype.word(index + 1)?);
            Some(Parameter { name: self.text(text), of_enum: self.enum_name(id) })
        };
        (0..words).step_by(2).map(parameter).collect()
    }

    /// The prototypes of all functions called `name`.
    fn prototypes(&self, name: &str) -> Option<Vec<Record<'_>>> {
        let functions = |btf: &Self| btf.own_named(name, &btf.functions, |kind| kind == Kind::Func);
        let ids = self.chain().map(functions).find(|ids| !ids.is_empty())?;
        let prototype = |id| {
            let prototype = self.record(self.record(id)?.value)?;
            (prototype.kind == Kind::FuncProto).then_some(prototype)
        };
        ids.into_iter().map(prototype).collect()
    }

    /// The string at `offset`.
    fn text(&self, offset: u32) -> String {
        let bytes = if offset == 0 { &[] } else { self.name_from(offset) };
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }

    /// The name of the enum `id`, behind typedefs and qualifiers; empty if it is none.
    fn enum_name(&self, mut id: u32) -> String {
        for _ in 0..DEPTH {
            let Some(record) = self.record(id) else { break };
            match record.kind {
                kind if kind.is_transparent() => id = record.value,
                Kind::Enum | Kind::Enum64 => return self.text(record.name),
                _ => break,
            }
        }
        String::new()
    }

    /// What the function `name` returns; `None` if BTF does not describe it, or describes several that
    /// differ.
    #[must_use]
    pub fn returned(&self, name: &str) -> Option<Returned> {
        let prototypes = self.prototypes(name)?;
        let mut found = prototypes.iter().map(|prototype| self.kind_of(prototype.value));
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
    fn parameters_have_their_names_and_enums() {
        let mut writer = Writer::new();
        let int = writer.int("int", 4);
        let level = writer.record("pg_level", 6 << 24, 4, &[]);
        let alias = writer.typedef("level_t", level);
        let names = ["td", "gpa", "level"].map(|name| writer.name(name));
        let tail = [names[0], int, names[1], int, names[2], alias, 0, int];
        let prototype = writer.record("", 13 << 24 | 4, int, &tail);
        writer.record("tdh_mem_page_aug", 12 << 24, prototype, &[]);
        let btf = Btf::parse(writer.bytes()).unwrap();
        let parameters = btf.parameters("tdh_mem_page_aug").unwrap();
        let found: Vec<_> =
            parameters.iter().map(|it| (it.name.as_str(), it.of_enum.as_str())).collect();
        assert_eq!(found, [("td", ""), ("gpa", ""), ("level", "pg_level"), ("", "")]);
        assert_eq!(btf.parameters("tdh_mem_track"), None);
    }

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
