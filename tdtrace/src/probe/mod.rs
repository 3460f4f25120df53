//! What can be attached, how, and what is invisible without it.

pub mod table;
