//! Prints what the machine gives at most with so many threads, as JSON: `ceilings THREADS`.

use skimstone_benches::ceiling;

fn main() {
    let threads = std::env::args()
        .nth(1)
        .map_or(1, |n| n.parse().expect("a number of threads"));
    let dot = ceiling::int8_dot(threads).map_or("null".to_owned(), |rate| format!("{rate:.0}"));
    println!(
        r#"{{"threads":{threads},"stream_read_bytes_per_s":{:.0},"int8_multiply_adds_per_s":{dot}}}"#,
        ceiling::stream_read(threads),
    );
}
