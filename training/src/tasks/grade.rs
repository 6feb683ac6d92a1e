//! Comparing a generated answer with the expected one, after normalisation.

/// Whether both are the same decimal number, however it is written: `1,000`, `$1000`, `1000.0` and `1000.` are one number, `1000 km` is none.
pub(super) fn same_number(expected: &str, generated: &str) -> bool {
    number(expected).is_some_and(|number_| Some(number_) == number(generated))
}

/// A number as sign, digits before and digits after the point, without zeros that say nothing.
fn number(text: &str) -> Option<(bool, String, String)> {
    let text = text.trim().trim_start_matches('$').replace(',', "");
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest.trim_start_matches('$')),
        None => (false, text.as_str()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_decimal = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !is_decimal(whole) || !is_decimal(fraction) {
        return None;
    }
    let whole = whole.trim_start_matches('0').to_owned();
    let fraction = fraction.trim_end_matches('0').to_owned();
    let is_zero = whole.is_empty() && fraction.is_empty();
    Some((negative && !is_zero, whole, fraction))
}

/// Whether both are the same words: case, white space and a final dot do not count.
pub(super) fn same_words(expected: &str, generated: &str) -> bool {
    words(expected) == words(generated)
}

fn words(text: &str) -> Vec<String> {
    let text = text.trim();
    let text = text.strip_suffix('.').unwrap_or(text);
    text.split_whitespace().map(str::to_lowercase).collect()
}

/// Whether both are the same characters: white space does not count.
pub(super) fn same_characters(expected: &str, generated: &str) -> bool {
    let characters = |text: &str| text.split_whitespace().collect::<String>();
    characters(expected) == characters(generated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (expected, generated) in [
            ("7", " 7 "),
            ("7", "7."),
            ("7", "07"),
            ("1000", "$1,000.00"),
            ("0.5", ".50"),
            ("-3", "-$3"),
            ("0", "-0.0"),
        ] {
            assert!(same_number(expected, generated), "{generated}");
        }
        for (expected, generated) in [
            ("7", ""),
            ("7", "."),
            ("7", "8"),
            ("7", "-7"),
            ("7", "7 7"),
            ("7", "7 apples"),
            ("70", "7"),
            ("0.5", "5"),
            ("7", "7.0.0"),
            ("", ""),
        ] {
            assert!(!same_number(expected, generated), "{generated}");
        }
    }

    #[test]
    fn texts() {
        assert!(same_words("Tom is a lempus.", "tom  is a Lempus"));
        assert!(!same_words("Tom is a lempus.", "Tom is a rempus."));
        assert!(!same_words(
            "Tom is a lempus.",
            "Tom is a lempus. Tom is a rempus."
        ));
        assert!(same_characters("5 5 6 0", "5560\n"));
        assert!(!same_characters("5 5 6 0", "556"));
        assert!(!same_characters("5 5 6 0", "0 5 5 6"));
    }
}
