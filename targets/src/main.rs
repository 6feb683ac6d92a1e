//! skim
fn main() {}
