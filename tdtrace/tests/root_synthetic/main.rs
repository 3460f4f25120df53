//! Synthetic TDs: the loaded programs against a truth that is computed here, independently of them.
//!
//! `truth` is that computation, `drive` fires the events, the other files are tests. Needs root: programs
//! are loaded into this kernel.

mod boot;
mod drive;
mod exact;
mod fate;
mod findings;
mod ledger;
mod seam;
mod slow;
mod taxonomy;
mod trouble;
mod truth;
