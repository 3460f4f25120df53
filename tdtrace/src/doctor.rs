//! What can be seen on this machine and why, as data for `tdtrace doctor`.
