//! Opcode maps and opcode groups: how a cell is found. Touches nothing but its own tables.

use super::attr::{Attr, MODRM};

/// One page of a map: an attribute an opcode.
type Page = [Attr; 256];

/// Mandatory prefix (legacy), or the pp field of a vector prefix: the page of a map.
///
/// 0 none, 1 for 66, 2 for F3, 3 for F2.
pub(super) type Simd = usize;

/// An opcode map with a page for each mandatory prefix.
pub(super) struct Map {
    pages: [Page; 4],
}

/// Rows of a page: the upper four bits of the opcode and 16 letters; rows left out are empty.
pub(super) type Rows = &'static [(usize, &'static str)];

/// Builds a map from its four pages and its opcodes that are groups.
pub(super) const fn map(pages: [Rows; 4], groups: &[(usize, u8)]) -> Map {
    let mut pages = [page(pages[0]), page(pages[1]), page(pages[2]), page(pages[3])];
    let mut at = 0;
    while at < groups.len() {
        let (opcode, group) = groups[at];
        assert!(pages[0][opcode].has(MODRM), "a group is chosen by ModRM.reg");
        pages[0][opcode].group = group;
        at += 1;
    }
    Map { pages }
}

const fn page(rows: Rows) -> Page {
    let mut page = [Attr::NONE; 256];
    let mut at = 0;
    while at < rows.len() {
        let (high, letters) = rows[at];
        let letters = letters.as_bytes();
        assert!(letters.len() == 16, "a row has 16 letters");
        let mut low = 0;
        while low < 16 {
            page[high << 4 | low] = Attr::of(letters[low]);
            low += 1;
        }
        at += 1;
    }
    page
}

impl Map {
    /// Attributes without a vector prefix.
    ///
    /// The mandatory prefix only selects a page for opcodes that are on one of them; then an
    /// opcode missing on that page is empty, even if it exists without a prefix.
    pub(super) fn legacy(&self, opcode: u8, simd: Simd) -> Attr {
        let opcode = usize::from(opcode);
        let varies = self.pages[1..].iter().any(|page| !page[opcode].is_empty());
        self.pages[if varies { simd & 3 } else { 0 }][opcode]
    }

    /// Attributes with a vector prefix, whose pp field always counts, except for groups.
    pub(super) fn vector(&self, opcode: u8, pp: Simd) -> Attr {
        let opcode = usize::from(opcode);
        let plain = self.pages[0][opcode];
        if plain.group != 0 { plain } else { self.pages[pp & 3][opcode] }
    }
}

/// What each value of ModRM.reg adds to a group's opcode, for each mandatory prefix.
type Group = [&'static str; 4];

const EMPTY: &str = "........";

/// Groups whose members neither take an immediate of their own nor decide on vector prefixes.
pub(super) const PLAIN: u8 = 1;
/// Moves of an immediate, and XABORT, XBEGIN.
pub(super) const MOV_IMM8: u8 = 2;
pub(super) const MOV_IMM: u8 = 3;
/// TEST has an immediate; NOT, NEG, MUL, DIV have none.
pub(super) const UNARY8: u8 = 4;
pub(super) const UNARY: u8 = 5;
/// INC, DEC, and calls, jumps and PUSH through memory.
pub(super) const BRANCH: u8 = 6;
/// Vector shifts by an immediate.
pub(super) const SHIFT_WORD: u8 = 7;
pub(super) const SHIFT_DWORD: u8 = 8;
pub(super) const SHIFT_QWORD: u8 = 9;
/// State saving, fences and the MXCSR.
pub(super) const STATE: u8 = 10;
/// Sparse prefetches.
pub(super) const SPARSE_PREFETCH: u8 = 11;
/// BLSR, BLSMSK, BLSI.
pub(super) const LOWEST_BIT: u8 = 12;
/// Lightweight profiling of XOP map Ah.
pub(super) const PROFILING: u8 = 13;

/// By group number − 1.
const GROUPS: [Group; 13] = [
    [EMPTY, EMPTY, EMPTY, EMPTY],
    ["M......b", EMPTY, EMPTY, EMPTY],
    ["Z......z", EMPTY, EMPTY, EMPTY],
    ["MM......", EMPTY, EMPTY, EMPTY],
    ["ZZ......", EMPTY, EMPTY, EMPTY],
    ["..R.R.R.", EMPTY, EMPTY, EMPTY],
    ["..M.M.M.", "..V.V.V.", EMPTY, EMPTY],
    ["..M.M.M.", "EEV.V.V.", EMPTY, EMPTY],
    ["..M...M.", "..VV..VV", EMPTY, EMPTY],
    ["..vv....", EMPTY, "..mm....", EMPTY],
    [EMPTY, ".ee..ee.", EMPTY, EMPTY],
    [".xxx....", EMPTY, EMPTY, EMPTY],
    ["dd......", EMPTY, EMPTY, EMPTY],
];

/// [`GROUPS`], read.
static MEMBERS: [[[Attr; 8]; 4]; GROUPS.len()] = members();

const fn members() -> [[[Attr; 8]; 4]; GROUPS.len()] {
    let mut members = [[[Attr::NONE; 8]; 4]; GROUPS.len()];
    let mut at = 0;
    while at < GROUPS.len() * 32 {
        let (group, simd, reg) = (at / 32, at / 8 % 4, at % 8);
        members[group][simd][reg] = Attr::of(GROUPS[group][simd].as_bytes()[reg]);
        at += 1;
    }
    members
}

/// Attributes of a group's opcode once ModRM.reg is known; `attr` itself if it is no group.
///
/// As with [`Map::legacy`], `simd` only counts for members that vary with it.
pub(super) fn resolve(attr: Attr, reg: u8, simd: Simd) -> Attr {
    let index = usize::from(attr.group).wrapping_sub(1);
    let Some(members) = MEMBERS.get(index) else { return attr };
    let reg = usize::from(reg & 7);
    let varies = members[1..].iter().any(|page| !page[reg].is_empty());
    attr.with(members[if varies { simd & 3 } else { 0 }][reg])
}
