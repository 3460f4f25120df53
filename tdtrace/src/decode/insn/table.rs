//! The kernel decoder's opcode maps, in the alphabet of [`Attr::of`](super::attr::Attr::of).
//!
//! Facts from the instruction set references and from what `insn_decode()` of Linux 7.3 accepts;
//! opcodes that it does not know are dots here. Prefixes and escapes are dots as well: the decoder
//! asks for them by value. Pages follow the mandatory prefix: none, 66, F3, F2.

use super::map::{
    BRANCH, LOWEST_BIT, MOV_IMM, MOV_IMM8, Map, PLAIN, PROFILING, SHIFT_DWORD, SHIFT_QWORD,
    SHIFT_WORD, SPARSE_PREFETCH, STATE, UNARY, UNARY8, map,
};

/// One-byte opcodes.
pub(super) static ONE_BYTE: Map = map(
    [
        &[
            (0x0, "mmmmbziimmmmbzi."),
            (0x1, "mmmmbziimmmmbzii"),
            (0x2, "mmmmbz.immmmbz.i"),
            (0x3, "mmmmbz.immmmbz.i"),
            (0x5, "rrrrrrrrrrrrrrrr"),
            (0x6, "iimm....zZjM...."),
            (0x7, "bbbbbbbbbbbbbbbb"),
            (0x8, "MZIMmmmmmmmmmmmR"),
            (0x9, "..........f.rr.."),
            (0xa, "oooo....bz......"),
            (0xb, "bbbbbbbbqqqqqqqq"),
            (0xc, "MMh.mmMZnrw..bi."),
            (0xd, "mmmmyb..mmmmmmmm"),
            (0xe, "jjjjbbbbJJfj...."),
            (0xf, "......mm......mm"),
        ],
        &[],
        &[],
        &[],
    ],
    &[
        (0x80, PLAIN),
        (0x81, PLAIN),
        (0x82, PLAIN),
        (0x83, PLAIN),
        (0x8f, PLAIN),
        (0xc0, PLAIN),
        (0xc1, PLAIN),
        (0xc6, MOV_IMM8),
        (0xc7, MOV_IMM),
        (0xd0, PLAIN),
        (0xd1, PLAIN),
        (0xd2, PLAIN),
        (0xd3, PLAIN),
        (0xf6, UNARY8),
        (0xf7, UNARY),
        (0xfe, PLAIN),
        (0xff, BRANCH),
    ],
);

/// Opcodes behind 0f; VEX, EVEX and REX2 map 1.
pub(super) static MAP_0F: Map = map(
    [
        &[
            (0x0, "mmmm.........m.M"),
            (0x1, "vvvvvvvvm.mmm.mm"),
            (0x2, "mmmm....vvmvmmvv"),
            (0x4, "mvvmvvvvmmvvmmmm"),
            (0x5, "vvvvvvvvvvvvvvvv"),
            (0x6, "mmmmmmmmmmmm..mm"),
            (0x7, "Mmmmmmmkvv....mm"),
            (0x8, "JJJJJJJJJJJJJJJJ"),
            (0x9, "vvvvmmmmvvmmmmmm"),
            (0xa, "rr.mMmmmrr.mMmmm"),
            (0xb, "mmmmmmmm.mMmmmmm"),
            (0xc, "mmVmMMVm........"),
            (0xd, ".mmmmm.mmmmmmmmm"),
            (0xe, "mmmmmm.mmmmmmmmm"),
            (0xf, ".mmmmmmmmmmmmmm."),
        ],
        &[
            (0x1, "vvvvvvvv..mm...."),
            (0x2, "........vvmvmmvv"),
            (0x4, ".vv.vvvv..vv...."),
            (0x5, "vv..vvvvvvvvvvvv"),
            (0x6, "vvvvvvvvvvvvvvvv"),
            (0x7, "V...vvv.eeeevvvv"),
            (0x9, "vvvv....vv......"),
            (0xb, "............mm.."),
            (0xc, "..V.VVV........."),
            (0xd, "vvvvvvvvvvvvvvvv"),
            (0xe, "vvvvvvvvvvvvvvvv"),
            (0xf, ".vvvvvvvvvvvvvv."),
        ],
        &[
            (0x1, "vvv...v...mm...."),
            (0x2, "..........v.vv.."),
            (0x5, ".vvv....vvvvvvvv"),
            (0x6, "...............v"),
            (0x7, "V.......eeee..vv"),
            (0xb, "........m...mm.."),
            (0xc, "..V............."),
            (0xd, "......m........."),
            (0xe, "......v........."),
        ],
        &[
            (0x1, "vvv.......mm...."),
            (0x2, "..........v.vv.."),
            (0x5, ".v......vvv.vvvv"),
            (0x6, "...............e"),
            (0x7, "V.......eeeevv.e"),
            (0x9, "..vv............"),
            (0xb, "............mm.."),
            (0xc, "..V............."),
            (0xd, "v.....m........."),
            (0xe, "......v........."),
            (0xf, "v..............."),
        ],
    ],
    &[
        (0x00, PLAIN),
        (0x01, PLAIN),
        (0x0d, PLAIN),
        (0x18, PLAIN),
        (0x1c, PLAIN),
        (0x1e, PLAIN),
        (0x71, SHIFT_WORD),
        (0x72, SHIFT_DWORD),
        (0x73, SHIFT_QWORD),
        (0xa6, PLAIN),
        (0xa7, PLAIN),
        (0xae, STATE),
        (0xb9, PLAIN),
        (0xba, PLAIN),
        (0xc7, PLAIN),
    ],
);

/// Opcodes behind 0f 38; VEX and EVEX map 2.
pub(super) static MAP_0F38: Map = map(
    [
        &[
            (0x0, "mmmmmmmmmmmm...."),
            (0x1, "............mmm."),
            (0x4, ".........v......"),
            (0x5, "xx............v."),
            (0x6, "............v..."),
            (0xb, "x..............."),
            (0xc, "......mmmmmmmm.."),
            (0xd, "..xx......v....."),
            (0xf, "mmxm.xmx.m..m..."),
        ],
        &[
            (0x0, "vvvvvvvvvvvvxxxx"),
            (0x1, "veexvvxvxxxevvve"),
            (0x2, "vvvvvveevvvvxxxx"),
            (0x3, "vvvvvvxvvvvvvvvv"),
            (0x4, "vveeexxx.v.veeee"),
            (0x5, "vvvvee..xxxe..v."),
            (0x6, "..eeeee.....v..."),
            (0x7, "eeee.eeexxeeeeee"),
            (0x8, "mmme....eeeexexe"),
            (0x9, "xxxx..xxxxxxxxxx"),
            (0xa, "eeee..xxxxxxxxxx"),
            (0xb, "xx..vvxxxxxxxxxx"),
            (0xc, "....e...e.eeee.v"),
            (0xd, "..xx......vvvvvv"),
            (0xe, "vvvvvvvvvvvvvvvv"),
            (0xf, "mm...mmxm...m..."),
        ],
        &[
            (0x1, "eeeeee.........."),
            (0x2, "eeeeeeeeeee....."),
            (0x3, "eeeeee..eee....."),
            (0x4, "...........x...."),
            (0x5, "xxe.........v.v."),
            (0x7, "..v............."),
            (0xb, "xx.............."),
            (0xd, "..xx....m.x.mmmm"),
            (0xf, ".....xmxm.mmm..."),
        ],
        &[
            (0x4, ".........v.v...."),
            (0x5, "xxee........v.v."),
            (0x6, "........e......."),
            (0x7, "..e............."),
            (0x9, "..........ee...."),
            (0xa, "..........ee...."),
            (0xb, "x..............."),
            (0xc, "...........xxx.."),
            (0xd, "..........x....."),
            (0xf, "mm...xxxm...m..."),
        ],
    ],
    &[(0xc6, SPARSE_PREFETCH), (0xc7, SPARSE_PREFETCH), (0xf3, LOWEST_BIT)],
);

/// Opcodes behind 0f 3a; VEX and EVEX map 3.
pub(super) static MAP_0F3A: Map = map(
    [
        &[
            (0x0, "........V.V....M"),
            (0x2, "......EE........"),
            (0x5, "......EE........"),
            (0x6, "......EE........"),
            (0xc, "..E.........M..."),
        ],
        &[
            (0x0, "XXXEXXX.VVVVVVVV"),
            (0x1, "....VVVVXXEE.XEE"),
            (0x2, "VVVE.EEE........"),
            (0x3, "XXXX....XXEE..EE"),
            (0x4, "VVVEV.X...XXV..."),
            (0x5, "EE..EEEE........"),
            (0x6, "VVVV..EE........"),
            (0x7, "EEEE............"),
            (0xc, "..............VV"),
            (0xd, "..............VV"),
        ],
        &[(0xc, "..E............."), (0xf, "M...............")],
        &[(0xf, "X...............")],
    ],
    &[],
);

/// EVEX map 4.
pub(super) static MAP_4: Map = map(
    [
        &[
            (0x0, "eses....eses...."),
            (0x1, "eses....eses...."),
            (0x2, "esesS...esesS..."),
            (0x3, "eses....eses...."),
            (0x4, "ssssssssssssssss"),
            (0x6, "ss....e..Y.S...."),
            (0x8, "EY.Ses..s......e"),
            (0xa, ".....s.......s.s"),
            (0xc, "ES.............."),
            (0xd, "eses............"),
            (0xf, "ss..sses.e....es"),
        ],
        &[
            (0x0, ".s.s.....s.s...."),
            (0x1, ".s.s.....s.s...."),
            (0x2, ".s.sS....s.sS..."),
            (0x3, ".s.s.....s.s...."),
            (0x4, "ssssssssssssssss"),
            (0x6, "ss...ee..Y.S...."),
            (0x8, ".....s..s......."),
            (0xa, ".....s.......s.s"),
            (0xf, ".s..ss..e......."),
        ],
        &[(0x6, "......e........."), (0xf, "eee.....e.......")],
        &[(0x4, "eeeeeeeeeeeeeeee"), (0xf, "........e.......")],
    ],
    &[
        (0x80, PLAIN),
        (0x81, PLAIN),
        (0x83, PLAIN),
        (0xc0, PLAIN),
        (0xc1, PLAIN),
        (0xd0, PLAIN),
        (0xd1, PLAIN),
        (0xd2, PLAIN),
        (0xd3, PLAIN),
        (0xf6, UNARY8),
        (0xf7, UNARY),
        (0xfe, PLAIN),
        (0xff, BRANCH),
    ],
);

/// EVEX map 5.
pub(super) static MAP_5: Map = map(
    [
        &[
            (0x1, ".............e.."),
            (0x2, "..............ee"),
            (0x5, ".e......eeeeeeee"),
            (0x7, "........ee..ee.."),
        ],
        &[
            (0x1, ".............e.."),
            (0x5, "..........ee...."),
            (0x6, "..............e."),
            (0x7, "........eeeeeee."),
        ],
        &[
            (0x1, "ee.............."),
            (0x2, "..........e.ee.."),
            (0x5, ".e......eeeeeeee"),
            (0x7, "........ee.e.e.."),
        ],
        &[(0x5, "..........e....."), (0x7, "..........e..e..")],
    ],
    &[],
);

/// EVEX map 6.
pub(super) static MAP_6: Map = map(
    [
        &[(0x1, "...e............")],
        &[
            (0x1, "...e............"),
            (0x2, "............ee.."),
            (0x4, "..ee........eeee"),
            (0x9, "......eeeeeeeeee"),
            (0xa, "......eeeeeeeeee"),
            (0xb, "......eeeeeeeeee"),
        ],
        &[(0x5, "......ee........"), (0xd, "......ee........")],
        &[(0x5, "......ee........"), (0xd, "......ee........")],
    ],
    &[],
);

/// VEX map 7.
pub(super) static MAP_7: Map =
    map([&[], &[], &[(0xf, "........d.......")], &[(0xf, "........d.......")]], &[]);

/// XOP map 8.
pub(super) static XOP_8: Map = map(
    [
        &[
            (0x8, ".....VVV......VV"),
            (0x9, ".....VVV......VV"),
            (0xa, "..VV..V........."),
            (0xb, "......V........."),
            (0xc, "VVVV........VVVV"),
            (0xe, "............VVVV"),
        ],
        &[],
        &[],
        &[],
    ],
    &[],
);

/// XOP map 9.
pub(super) static XOP_9: Map = map(
    [
        &[
            (0x0, ".vv............."),
            (0x1, "..v............."),
            (0x8, "vvvv............"),
            (0x9, "vvvvvvvvvvvv...."),
            (0xc, ".vvv..vv...v...."),
            (0xd, ".vvv..vv...v...."),
            (0xe, ".vvv............"),
        ],
        &[],
        &[],
        &[],
    ],
    &[(0x01, PLAIN), (0x02, PLAIN), (0x12, PLAIN)],
);

/// XOP map A.
pub(super) static XOP_A: Map =
    map([&[(0x1, "d.v.............")], &[], &[], &[]], &[(0x12, PROFILING)]);
