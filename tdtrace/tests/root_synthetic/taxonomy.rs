//! Every kind of exit that a TD can have, one after the other; and VMs whose exits are not looked into.

mod kinds;
mod others;
