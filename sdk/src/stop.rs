//! Stop strings that match across token boundaries, and token sequences that end a phase.
//!
//! Text that could still become a stop string is held back until it is decided, so that an app never shows half of one.

use crate::config::TokenId;

/// Finds the first of several strings in text that arrives in pieces.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Stops at any of `stops`; empty strings are ignored.
    pub fn new(stops: &[String]) -> Self {
        StopStrings {
            stops: stops
                .iter()
                .filter(|stop| !stop.is_empty())
                .cloned()
                .collect(),
            held: String::new(),
        }
    }

    /// Adds `text`; returns what may be shown, and whether a stop string was found. What follows a stop string is dropped.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        if let Some(at) = first {
            let mut shown = std::mem::take(&mut self.held);
            shown.truncate(at);
            return (shown, true);
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| overlap(self.held.as_bytes(), stop.as_bytes()))
            .max()
            .unwrap_or(0);
        // A stop string starts at a character, so what is kept back does, too.
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is still held back, once no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Finds one sequence of tokens at the end of tokens that arrive one by one: the close of a route.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenSequence {
    sequence: Vec<TokenId>,
    tail: Vec<TokenId>,
}

impl TokenSequence {
    pub(crate) fn new(sequence: &[TokenId]) -> Self {
        TokenSequence {
            sequence: sequence.to_vec(),
            tail: Vec::new(),
        }
    }

    /// Adds a token and returns those that are certainly no part of the sequence.
    pub(crate) fn push(&mut self, id: TokenId) -> Vec<TokenId> {
        self.tail.push(id);
        let keep = overlap(&self.tail, &self.sequence);
        self.tail.drain(..self.tail.len() - keep).collect()
    }

    /// How many of the last tokens are its beginning.
    pub(crate) fn held(&self) -> usize {
        self.tail.len()
    }

    /// Whether the last tokens are the sequence. Never true for an empty one.
    pub(crate) fn complete(&self) -> bool {
        !self.sequence.is_empty() && self.tail.len() == self.sequence.len()
    }

    /// What is missing from the sequence after the tokens so far.
    pub(crate) fn rest(&self) -> &[TokenId] {
        &self.sequence[self.tail.len()..]
    }
}

/// Length of the longest end of `text` that begins `pattern`.
fn overlap<T: PartialEq>(text: &[T], pattern: &[T]) -> usize {
    let longest = text.len().min(pattern.len());
    (1..=longest)
        .rev()
        .find(|&n| text[text.len() - n..] == pattern[..n])
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool, Vec<String>) {
        let mut matcher =
            StopStrings::new(&stops.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let (mut text, mut shown) = (String::new(), Vec::new());
        for piece in pieces {
            let (out, stop) = matcher.push(piece);
            text.push_str(&out);
            shown.push(out);
            if stop {
                return (text, true, shown);
            }
        }
        text.push_str(&matcher.finish());
        (text, false, shown)
    }

    #[test]
    fn stop_strings_match_across_pieces() {
        struct Case(
            &'static [&'static str],
            &'static [&'static str],
            &'static str,
            bool,
        );
        let cases = [
            Case(&["END"], &["a E", "N", "D b"], "a ", true),
            Case(&["END"], &["a E", "N", "X"], "a ENX", false),
            Case(&["\n\n"], &["one\n", "\ntwo"], "one", true),
            Case(&["aab"], &["aaa", "aab"], "aaa", true),
            Case(&["late", "at"], &["pl", "ate"], "p", true),
            Case(&["é!"], &["caf", "é", "?"], "café?", false),
            Case(&["", "x"], &["abc"], "abc", false),
            Case(&[], &["abc"], "abc", false),
        ];
        for Case(stops, pieces, text, stopped) in cases {
            let (got, stop, _) = run(stops, pieces);
            assert_eq!(
                (got.as_str(), stop),
                (text, stopped),
                "{stops:?} {pieces:?}"
            );
        }
    }

    #[test]
    fn text_that_may_become_a_stop_string_is_held_back() {
        let (_, _, shown) = run(&["END"], &["a E", "N", "X"]);
        assert_eq!(shown, ["a ", "", "ENX"]);
    }

    #[test]
    fn token_sequences_complete_or_let_go() {
        let mut close = TokenSequence::new(&[7, 8]);
        assert_eq!(close.push(1), [1]);
        assert!(close.push(7).is_empty());
        assert_eq!(close.rest(), [8]);
        assert_eq!(close.push(7), [7]);
        assert!(close.push(8).is_empty());
        assert!(close.complete());
        assert!(close.rest().is_empty());
        assert!(!TokenSequence::new(&[]).complete());
    }
}
