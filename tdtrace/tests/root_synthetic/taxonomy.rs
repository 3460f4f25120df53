//! Every kind of exit that a TD can have, one after the other.
