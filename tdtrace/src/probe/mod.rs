//! What can be attached, how, and what is invisible without it.

pub mod guest;
pub mod table;
