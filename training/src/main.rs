//! skim-train
fn main() {}
