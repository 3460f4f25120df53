//! Writes small BTF, for tests.

/// BTF in the making: types in the order of the calls, numbered from `first_id`.
pub(crate) struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    next_id: u32,
    first_name: u32,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], next_id: 1, first_name: 0 }
    }

    /// Split BTF over a base with these counts.
    pub(crate) fn split(type_count: u32, string_length: u32) -> Self {
        Self {
            types: Vec::new(),
            strings: Vec::new(),
            next_id: type_count,
            first_name: string_length,
        }
    }

    pub(crate) fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let offset = self.first_name + u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        offset
    }

    /// A record of any kind; returns its id.
    pub(crate) fn record(&mut self, name: &str, info: u32, value: u32, tail: &[u32]) -> u32 {
        let name = self.name(name);
        for word in [name, info, value].iter().chain(tail) {
            self.types.extend(word.to_le_bytes());
        }
        self.next_id += 1;
        self.next_id - 1
    }

    pub(crate) fn int(&mut self, name: &str, bytes: u32) -> u32 {
        self.record(name, 1 << 24, bytes, &[bytes * 8])
    }

    pub(crate) fn pointer(&mut self, target: u32) -> u32 {
        self.record("", 2 << 24, target, &[])
    }

    pub(crate) fn array(&mut self, element: u32, count: u32) -> u32 {
        self.record("", 3 << 24, 0, &[element, element, count])
    }

    pub(crate) fn forward(&mut self, name: &str) -> u32 {
        self.record(name, 7 << 24, 0, &[])
    }

    pub(crate) fn typedef(&mut self, name: &str, target: u32) -> u32 {
        self.record(name, 8 << 24, target, &[])
    }

    pub(crate) fn constant(&mut self, target: u32) -> u32 {
        self.record("", 10 << 24, target, &[])
    }

    pub(crate) fn function(&mut self, name: &str) -> u32 {
        self.record(name, 12 << 24, 0, &[])
    }

    /// A struct; members are (name, type, byte offset).
    pub(crate) fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.aggregate(4, name, size, members)
    }

    pub(crate) fn union(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.aggregate(5, name, size, members)
    }

    fn aggregate(&mut self, kind: u32, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let tail: Vec<u32> = members
            .iter()
            .flat_map(|(name, target, offset)| [self.name(name), *target, offset * 8])
            .collect();
        let count = u32::try_from(members.len()).unwrap();
        self.record(name, kind << 24 | count, size, &tail)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len(), self.strings.len());
        let header = [24, 0, types, types, strings].map(|word| u32::try_from(word).unwrap());
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        bytes.extend(header.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }
}
