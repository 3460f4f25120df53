//! Every kind of exit that a TD can have, one after the other, and every return to the VMM; and VMs whose
//! exits are not looked into.

mod kinds;
mod others;
mod returns;
