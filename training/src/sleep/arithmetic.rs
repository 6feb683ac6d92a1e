//! The arithmetic steps of a chain: each writes what it does, digit by digit where that helps, and returns the result.
//!
//! Times are counted in minutes after 18:00, so that a night never crosses zero. Sums and differences first name their digits from the
//! right, as one does with a pencil: `772 - 344: 8,2,4 = 428`. A carry then depends only on what already stands there, which small
//! transformers learn from far fewer examples than the plain order (Lee et al., *Teaching Arithmetic to Small Transformers*, 2023).
//! Quotients come from doublings, so that no digit has to be guessed.

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

/// The lowest `width` digits of `x`, from the right, between commas.
fn digits_from_right(x: u32, width: usize) -> String {
    let digits: Vec<String> = (0..width as u32)
        .map(|i| (x / 10u32.pow(i) % 10).to_string())
        .collect();
    digits.join(",")
}

fn width(x: u32) -> usize {
    x.to_string().len()
}

fn difference(a: u32, b: u32) -> String {
    format!(
        "{a} - {b}: {} = {}",
        digits_from_right(a - b, width(a)),
        a - b
    )
}

fn total(a: u32, b: u32) -> String {
    format!(
        "{a} + {b}: {} = {}",
        digits_from_right(a + b, width(a + b)),
        a + b
    )
}

/// `772 - 344: 8,2,4 = 428.` and 428. `a` is not below `b`.
pub(crate) fn subtract(a: u32, b: u32) -> (String, u32) {
    (difference(a, b) + ".", a - b)
}

/// `344 + 214: 8,5,5 = 558.` and 558.
pub(crate) fn add(a: u32, b: u32) -> (String, u32) {
    (total(a, b) + ".", a + b)
}

/// `340 + 770: 0,1,1,1 = 1110, half is 555.` and 555, rounded down.
pub(crate) fn mean(a: u32, b: u32) -> (String, u32) {
    (
        format!("{}, half is {}.", total(a, b), (a + b) / 2),
        (a + b) / 2,
    )
}

/// Running sums, one chunk for every two additions so that no chunk is long.
pub(crate) fn sum(items: &[u32]) -> (Vec<String>, u32) {
    let Some((&first, rest)) = items.split_first() else {
        return (vec!["awake 0 in all.".to_owned()], 0);
    };
    if rest.is_empty() {
        return (vec![format!("{first} in all.")], first);
    }
    let mut running = first;
    let mut step = |x: u32| {
        let before = running;
        running += x;
        total(before, x)
    };
    let chunks = rest
        .chunks(2)
        .map(|part| part.iter().map(|&x| step(x)).collect::<Vec<_>>().join(", ") + ".")
        .collect();
    (chunks, running)
}

/// `part` of `whole` in whole percent, rounded down, by long division; `None` when `part` is above `whole` or `whole` is zero.
///
/// Each digit of the quotient is the sum of the doublings that fit. They are held against the rest one by one, largest first: a small
/// transformer that has to see at a glance *which* of four numbers fits errs where two are close.
/// `Doubling 473 gives 946, 1892, 3784.` `3910: 3784 from 3910: 6,2,1,0 = 126, 473 no, so 8.`
/// `1260: 3784 no, 1892 no, 946 from 1260: 4,1,3,0 = 314, 473 no, so 2.` `8 and 2 make 82 %.`
pub(crate) fn percent(part: u32, whole: u32) -> Option<(Vec<String>, u32)> {
    if whole == 0 || part > whole {
        return None;
    }
    if part == whole {
        return Some((vec![format!("{part} of {whole} is 100 %.")], 100));
    }
    let (tens_text, tens, rest) = quotient(10 * part, whole);
    let (units_text, units, _) = quotient(10 * rest, whole);
    let doublings = format!(
        "Doubling {whole} gives {}, {}, {}.",
        2 * whole,
        4 * whole,
        8 * whole
    );
    let percent = 10 * tens + units;
    let made = format!("{tens} and {units} make {percent} %.");
    Some((vec![doublings, tens_text, units_text, made], percent))
}

/// One digit of a quotient (below 10) by the doublings of `whole` that fit, and the rest.
fn quotient(value: u32, whole: u32) -> (String, u32, u32) {
    let (mut rest, mut digit, mut steps) = (value, 0, Vec::new());
    for times in [8, 4, 2, 1] {
        let taken = times * whole;
        if digit + times > 9 {
            continue;
        }
        if rest < taken {
            steps.push(format!("{taken} no"));
            continue;
        }
        let left = rest - taken;
        let digits = digits_from_right(left, width(rest));
        steps.push(format!("{taken} from {rest}: {digits} = {left}"));
        (rest, digit) = (left, digit + times);
    }
    let text = format!("{value}: {}, so {digit}.", steps.join(", "));
    (text, digit, rest)
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
            until_evening(at("15:20")).0,
            "15:20 to 18:00 is 120 + 40 = 160."
        );
        assert_eq!(
            until_evening(at("15:00")).0,
            "15:00 to 18:00 is 180 + 0 = 180."
        );
        assert_eq!(
            sum(&[12, 5, 8, 2]).0,
            ["12 + 5: 7,1 = 17, 17 + 8: 5,2 = 25.", "25 + 2: 7,2 = 27."]
        );
        assert_eq!(sum(&[]).1, 0);
        assert_eq!(subtract(345, 320).0, "345 - 320: 5,2,0 = 25.");
        assert_eq!(add(733, 512).0, "733 + 512: 5,4,2,1 = 1245.");
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
        let expected = [
            "Doubling 473 gives 946, 1892, 3784.",
            "3910: 3784 from 3910: 6,2,1,0 = 126, 473 no, so 8.",
            "1260: 3784 no, 1892 no, 946 from 1260: 4,1,3,0 = 314, 473 no, so 2.",
            "8 and 2 make 82 %.",
        ];
        assert_eq!(percent(391, 473).expect("in range").0, expected);
        assert_eq!(
            percent(20, 473).expect("in range").0[1],
            "200: 3784 no, 1892 no, 946 no, 473 no, so 0."
        );
        assert!(percent(5, 4).is_none() && percent(0, 0).is_none());
    }
}
