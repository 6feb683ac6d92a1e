//! The arithmetic steps of a chain: each writes what it does, digit by digit where that helps, and returns the result.
//!
//! Times are counted in minutes after 18:00, so that a night never crosses zero and every step is an addition, a subtraction,
//! a half or a product with one digit: operations that a student of a million parameters learns exactly.

use skimstone::sleep::Clock;

/// `23:44 is 300 + 44 = 344.` and 344.
pub(crate) fn minutes(time: Clock) -> (String, u32) {
    let total = time.evening_minutes();
    let minute = u32::from(time.minute());
    (
        format!("{time} is {} + {minute} = {total}.", total - minute),
        total,
    )
}

/// `15:20 to 18:00 is 120 + 40 = 160.` and 160, for a time before 18:00.
pub(crate) fn until_evening(time: Clock) -> (String, u32) {
    let total = 1440 - time.evening_minutes();
    let rest = total % 60;
    (
        format!("{time} to 18:00 is {} + {rest} = {total}.", total - rest),
        total,
    )
}

/// `772 - 344 = 428.` and 428. `a` is not below `b`.
pub(crate) fn subtract(a: u32, b: u32) -> (String, u32) {
    (format!("{a} - {b} = {}.", a - b), a - b)
}

/// `344 + 214 = 558.` and 558.
pub(crate) fn add(a: u32, b: u32) -> (String, u32) {
    (format!("{a} + {b} = {}.", a + b), a + b)
}

/// `340 + 770 = 1110, half is 555.` and 555, rounded down.
pub(crate) fn mean(a: u32, b: u32) -> (String, u32) {
    (
        format!("{a} + {b} = {}, half is {}.", a + b, (a + b) / 2),
        (a + b) / 2,
    )
}

/// Running sums, one chunk for every three additions so that no chunk is long.
pub(crate) fn sum(items: &[u32]) -> (Vec<String>, u32) {
    let Some((&first, rest)) = items.split_first() else {
        return (vec!["awake 0 in all.".to_owned()], 0);
    };
    if rest.is_empty() {
        return (vec![format!("{first} in all.")], first);
    }
    let mut total = first;
    let chunks = rest
        .chunks(3)
        .map(|part| {
            let sums: Vec<String> = part
                .iter()
                .map(|&x| {
                    let before = total;
                    total += x;
                    format!("{before} + {x} = {total}")
                })
                .collect();
            format!("{}.", sums.join(", "))
        })
        .collect();
    (chunks, total)
}

/// `part` of `whole` in whole percent, rounded down, by long division; `None` when `part` is above `whole` or `whole` is zero.
///
/// `8 x 473 = 3784, 3910 - 3784 = 126.` then `2 x 473 = 946 of 1260, so 82 %.`
pub(crate) fn percent(part: u32, whole: u32) -> Option<(Vec<String>, u32)> {
    if whole == 0 || part > whole {
        return None;
    }
    if part == whole {
        return Some((vec![format!("{part} of {whole} is 100 %.")], 100));
    }
    let (tens, rest) = (10 * part / whole, 10 * part % whole);
    let units = 10 * rest / whole;
    let percent = 10 * tens + units;
    let first = format!(
        "{tens} x {whole} = {}, {} - {} = {rest}.",
        tens * whole,
        10 * part,
        tens * whole
    );
    let second = format!(
        "{units} x {whole} = {} of {}, so {percent} %.",
        units * whole,
        10 * rest
    );
    Some((vec![first, second], percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_say_what_they_do() {
        let at = |t: &str| t.parse::<Clock>().expect("a time");
        assert_eq!(
            minutes(at("23:44")),
            ("23:44 is 300 + 44 = 344.".into(), 344)
        );
        assert_eq!(minutes(at("06:52")).1, 772);
        assert_eq!(
            until_evening(at("15:20")),
            ("15:20 to 18:00 is 120 + 40 = 160.".into(), 160)
        );
        assert_eq!(
            until_evening(at("15:00")).0,
            "15:00 to 18:00 is 180 + 0 = 180."
        );
        assert_eq!(
            sum(&[12, 5, 8, 2, 1]).0,
            ["12 + 5 = 17, 17 + 8 = 25, 25 + 2 = 27.", "27 + 1 = 28."]
        );
        assert_eq!(sum(&[]).1, 0);
        assert_eq!(mean(340, 771).1, 555);
    }

    #[test]
    fn percent_is_the_floor_of_the_quotient() {
        for whole in 1..700 {
            for part in [0, 1, whole / 7, whole / 2, whole - 1, whole] {
                let (_, value) = percent(part, whole).expect("part is within whole");
                assert_eq!(value, 100 * part / whole, "{part} of {whole}");
            }
        }
        assert_eq!(
            percent(391, 473).expect("in range").0,
            [
                "8 x 473 = 3784, 3910 - 3784 = 126.",
                "2 x 473 = 946 of 1260, so 82 %."
            ]
        );
        assert!(percent(5, 4).is_none() && percent(0, 0).is_none());
    }
}
