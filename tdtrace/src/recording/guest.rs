//! The samples of a guest in a recording. Bytes only, as the rest of the room.
//!
//! `facts` is what there is one of, and what was lost; `counted` are lists of things with numbers,
//! `numbers` says which things and which numbers; `told` is what is said once of an address, with
//! `stack`, `code` and `device` for what can be said; `bytes` are bytes in texts. [`writer`] and
//! [`reader`] put them together.

mod bytes;
mod code;
mod counted;
mod device;
mod facts;
mod numbers;
pub mod reader;
mod stack;
mod told;
pub mod writer;
