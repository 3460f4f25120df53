//! Set-up, build, test, lab and benchmark commands of tdtrace.

fn main() {}
